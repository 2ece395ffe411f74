{
  lib,
  mkShell,
  stdenv,
  cargo,
  cargo-deny,
  chromium,
  clippy,
  curl,
  docker-client,
  iproute2,
  k3d,
  kubectl,
  kubernetes-helm,
  libfaketime,
  nixfmt,
  postgresql_16,
  prometheus,
  rust-analyzer,
  rustc,
  rustfmt,
  shellcheck,
  skopeo,
  sqlite,
  strace,
}:

mkShell {
  packages = [
    # the service
    cargo
    cargo-deny
    clippy
    rust-analyzer
    rustc
    rustfmt
    # its databases
    postgresql_16
    sqlite
    # the chart and the cluster
    k3d
    kubectl
    kubernetes-helm
    prometheus.cli # promtool
    # the tests; they use the system's Python, for which their packages are built
    curl
    docker-client
    nixfmt
    shellcheck
    skopeo
  ]
  ++ lib.optionals stdenv.hostPlatform.isLinux [
    chromium
    iproute2
    libfaketime
    strace
  ];
}
