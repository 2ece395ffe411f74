{
  lib,
  callPackage,
  dockerTools,
  fakeNss,
  prometheus,
  writeTextDir,
}:

dockerTools.buildLayeredImage {
  name = "wiki-prometheus";

  contents = [
    dockerTools.caCertificates
    fakeNss
    (writeTextDir "etc/prometheus/prometheus.yml" ''
      scrape_configs:
        - job_name: prometheus
          static_configs:
            - targets: [localhost:9090]
    '')
  ];

  fakeRootCommands = ''
    mkdir prometheus
    chown 65534:65534 prometheus
  '';

  config = {
    Entrypoint = [ (lib.getExe' prometheus "prometheus") ];
    Cmd = [
      "--config.file=/etc/prometheus/prometheus.yml"
      "--storage.tsdb.path=/prometheus"
    ];
    User = "65534:65534";
    ExposedPorts."9090/tcp" = { };
    WorkingDir = "/prometheus";
    Volumes."/prometheus" = { };
    Labels = callPackage ./labels.nix { } {
      title = "Prometheus";
      version = prometheus.version;
      licenses = "Apache-2.0";
    };
  };
}
