# The node: provides what k3d and its entrypoint scripts expect of rancher/k3s.
{
  busybox,
  callPackage,
  dockerTools,
  fakeNss,
  k3s,
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
    Labels = callPackage ./labels.nix { } {
      title = "k3s";
      version = k3s.version;
      licenses = "Apache-2.0";
    };
  };
}
