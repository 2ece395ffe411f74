# The node: what k3d and its entrypoint scripts expect of rancher/k3s.
{
  busybox,
  dockerTools,
  fakeNss,
  k3s,
  wiki-service,
}:

dockerTools.buildLayeredImage {
  name = "wiki-k3s";

  contents = [
    k3s # and with it kubectl, crictl and ctr
    busybox # sh, mount, sed, xargs, …
    dockerTools.caCertificates
    fakeNss
  ];

  fakeRootCommands = ''
    mkdir -p etc run var/lib/{cni,kubelet,rancher/k3s} var/{log,run}
    mkdir -m 1777 tmp
  '';

  config = {
    Entrypoint = [ "/bin/k3s" ];
    Cmd = [ "agent" ];
    Env = [
      "PATH=/bin"
      "CRI_CONFIG_FILE=/var/lib/rancher/k3s/agent/etc/crictl.yaml"
    ];
    # overlayfs does not nest.
    Volumes = {
      "/var/lib/cni" = { };
      "/var/lib/kubelet" = { };
      "/var/lib/rancher/k3s" = { };
      "/var/log" = { };
    };
    Labels = {
      "org.opencontainers.image.source" = wiki-service.meta.homepage;
      "org.opencontainers.image.title" = "k3s";
      "org.opencontainers.image.version" = k3s.version;
      "org.opencontainers.image.licenses" = "Apache-2.0";
    };
  };
}
