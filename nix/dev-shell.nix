{
  mkShell,
  cargo,
  clippy,
  k3d,
  kubectl,
  kubernetes-helm,
  nixfmt,
  postgresql_16,
  prometheus,
  python3,
  rust-analyzer,
  rustc,
  rustfmt,
  shellcheck,
  sqlite,
}:

mkShell {
  packages = [
    # the service
    cargo
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
    # the tests
    nixfmt
    python3
    shellcheck
  ];
}
