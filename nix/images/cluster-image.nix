# A privileged container that boots the whole cluster, offline. The program is in ../../cluster.
{
  lib,
  bash,
  callPackage,
  coreutils,
  docker,
  dockerTools,
  fakeNss,
  iptables,
  jq,
  k3d,
  k3s,
  kubectl,
  kubernetes-helm,
  postgresql_16,
  prometheus,
  grafana,
  runCommand,
  zstd,
  chart,
  k3s-image,
  wiki-service,
  wiki-image,
  postgresql-image,
  prometheus-image,
  grafana-image,
}:

let
  wiki-cluster = callPackage ../wiki-cluster.nix { };

  reference = image: "${image.imageName}:${image.imageTag}";
  # In the order in which a response depends on the pods.
  images = [
    postgresql-image
    wiki-image
    prometheus-image
    grafana-image
  ];

  contents = {
    versions = {
      wiki-cluster = wiki-service.version;
      docker = docker.version;
      k3d = k3d.version;
      k3s = k3s.version;
      kubectl = kubectl.version;
      helm = kubernetes-helm.version;
      postgresql = postgresql_16.version;
      prometheus = prometheus.version;
      grafana = grafana.version;
    };
    node = reference k3s-image;
    images = map reference images;
  };

  values = {
    ingress.exposeMetrics = true;
    api = {
      # There is no other node.
      nodeLossSeconds = 300;
      search = true;
    };
  };

  # k3s' Traefik checks for new versions unless told otherwise.
  traefik = {
    apiVersion = "helm.cattle.io/v1";
    kind = "HelmChartConfig";
    metadata = {
      name = "traefik";
      namespace = "kube-system";
    };
    spec.valuesContent = builtins.toJSON {
      global = {
        checkNewVersion = false;
        sendAnonymousUsage = false;
      };
    };
  };

  daemon = {
    # Images are only in /var/lib/docker, and `docker load` unpacks them once.
    features.containerd-snapshotter = false;
    # Keeps five files of 20 MB per container; the default keeps everything.
    log-driver = "local";
    # Its last lines are shown when something fails.
    log-level = "warn";
  };

  # The archives mention store paths, which they already contain.
  withoutReferences = {
    __structuredAttrs = true;
    unsafeDiscardReferences.out = true;
  };
  archive =
    image:
    runCommand "${image.imageName}.tar.zst" (
      withoutReferences // { nativeBuildInputs = [ zstd ]; }
    ) "${image.stream} | zstd -T0 -6 --quiet -o $out";
  save =
    image: directory:
    "cp ${archive image} $share/${directory}/${image.imageName}-${image.imageTag}.tar.zst";

  # Real files: symlinks into the store would lead nowhere in the node.
  files =
    runCommand "wiki-cluster-files"
      (
        withoutReferences
        // {
          nativeBuildInputs = [ jq ];
          contents = builtins.toJSON contents;
          values = builtins.toJSON values;
          traefik = builtins.toJSON traefik;
          daemon = builtins.toJSON daemon;
        }
      )
      ''
        share=$out/usr/share/wiki-cluster
        mkdir -p $out/etc/docker $share/{airgap,images,node}
        ${save k3s-image "node"}
        ${lib.concatMapStringsSep "\n" (image: save image "images") images}
        cp ${k3s.airgap-images} $share/airgap/k3s-${k3s.version}.tar.zst
        # k3s records here what it has imported, and does not import it again.
        touch $share/airgap/.cache.json
        cp ${chart}/wiki-*.tgz $share/chart.tgz
        cp ${../../chart/restore.sql} $share/restore.sql

        printf %s "$daemon" >$out/etc/docker/daemon.json
        printf %s "$values" >$share/values.yaml
        printf %s "$traefik" >$share/traefik.yaml
        ${lib.getExe' k3s "k3s"} server --help | grep --only-matching -e '--[a-z][a-z0-9-]*' | sort --unique |
          jq --raw-input --null-input --argjson contents "$contents" '$contents + {k3s_options: [inputs]}' >$share/contents.json
        jq --exit-status '.k3s_options | index("--kubelet-arg")' $share/contents.json >/dev/null
      '';
in
dockerTools.buildLayeredImage {
  name = "wiki-cluster";
  # The large files are already compressed.
  compressor = "zstd";

  contents = [
    bash
    coreutils
    docker
    dockerTools.caCertificates
    fakeNss
    iptables # the one that dockerd runs
    k3d
    kubectl
    kubernetes-helm
    wiki-cluster
    zstd
  ];

  fakeRootCommands = ''
    cp -r ${files}/. .
    chmod -R u+w .
    ln -s wiki-cluster bin/wiki-status
    mkdir -p root run var/lib/docker var/log
    ln -s /run var/run
    mkdir -m 1777 tmp
  '';

  config = {
    Entrypoint = [ "/bin/wiki-cluster" ];
    Env = [
      "PATH=/bin"
      "HOME=/root"
      # k3d starts a helper container from this image; any available one will do.
      "K3D_IMAGE_TOOLS=${reference k3s-image}"
      "K3D_FIX_DNS=0"
      # Installs k3d's entrypoint, which drains the node on a stop, even where there is nothing to fix.
      "K3D_FIX_CGROUPV2=1"
    ];
    ExposedPorts."8080/tcp" = { };
    Volumes."/var/lib/docker" = { };
    Healthcheck =
      let
        seconds = 1000000000;
      in
      {
        Test = [
          "CMD"
          "/bin/wiki-cluster"
          "health"
        ];
        Interval = 10 * seconds;
        Timeout = 10 * seconds;
        # The boot takes a minute or two.
        StartPeriod = 600 * seconds;
        StartInterval = 2 * seconds;
        Retries = 3;
      };
    Labels = callPackage ./labels.nix { } {
      title = "wiki-cluster";
      description = wiki-cluster.meta.description;
      version = wiki-service.version;
      licenses = "MIT OR Apache-2.0";
    };
  };
}
