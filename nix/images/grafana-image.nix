{
  lib,
  callPackage,
  dockerTools,
  fakeNss,
  grafana,
  grafanaPlugins,
  linkFarm,
}:

let
  # From 13.2 on, Grafana's Prometheus datasource is a plugin that it would download.
  # In the store, so that no volume at /var/lib/grafana hides it.
  plugins = linkFarm "grafana-plugins" (
    lib.optionalAttrs (lib.versionAtLeast grafana.version "13.2") {
      inherit (grafanaPlugins) prometheus;
    }
  );
in
dockerTools.buildLayeredImage {
  name = "wiki-grafana";

  contents = [
    dockerTools.caCertificates
    (fakeNss.override {
      extraPasswdLines = [ "grafana:x:472:472:Grafana:/var/lib/grafana:/bin/false" ];
      extraGroupLines = [ "grafana:x:472:" ];
    })
  ];

  fakeRootCommands = ''
    mkdir -p etc/grafana/provisioning/{access-control,alerting,dashboards,datasources,plugins} var/lib/grafana var/log/grafana
    touch etc/grafana/grafana.ini
    chown -R 472:472 var/lib/grafana var/log/grafana
    mkdir -m 1777 tmp
  '';

  config = {
    Entrypoint = [
      (lib.getExe' grafana "grafana")
      "server"
      "--homepath=${grafana}/share/grafana"
      "--config=/etc/grafana/grafana.ini"
      "--packaging=docker"
    ];
    User = "472:472";
    Env = [
      "GF_PATHS_DATA=/var/lib/grafana"
      "GF_PATHS_LOGS=/var/log/grafana"
      "GF_PATHS_PLUGINS=${plugins}"
      "GF_PATHS_PROVISIONING=/etc/grafana/provisioning"
      "GF_LOG_MODE=console"
      # Everything that would access the internet.
      "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES=false"
      "GF_ANALYTICS_CHECK_FOR_UPDATES=false"
      "GF_ANALYTICS_REPORTING_ENABLED=false"
      "GF_NEWS_NEWS_FEED_ENABLED=false"
      "GF_PLUGINS_PLUGIN_ADMIN_ENABLED=false"
      "GF_PLUGINS_PREINSTALL_AUTO_UPDATE=false"
      "GF_PLUGINS_PREINSTALL_DISABLED=true"
      "GF_PLUGINS_PUBLIC_KEY_RETRIEVAL_DISABLED=true"
      "GF_SECURITY_DISABLE_GRAVATAR=true"
      "GF_SNAPSHOTS_EXTERNAL_ENABLED=false"
    ];
    ExposedPorts."3000/tcp" = { };
    WorkingDir = "/var/lib/grafana";
    Volumes."/var/lib/grafana" = { };
    Labels = callPackage ./labels.nix { } {
      title = "Grafana";
      version = grafana.version;
      licenses = "AGPL-3.0-only";
    };
  };
}
