# Each check is a derivation whose name says what is broken. The images' checks are in images/checks.nix.
{
  lib,
  callPackage,
  cargo,
  clippy,
  curl,
  kubernetes-helm,
  nixfmt,
  postgresql_16,
  python3,
  runCommand,
  rustPlatform,
  rustc,
  rustfmt,
  shellcheck,
  stdenv,
  wiki-service,
}:

let
  inherit (lib) fileset;
  sources =
    files:
    fileset.toSource {
      root = ../.;
      fileset = fileset.unions files;
    };
  rustSources = sources [
    ../Cargo.toml
    ../Cargo.lock
    ../clippy.toml
    ../migration
    ../rustfmt.toml
    ../src
  ];

  wiki-cluster = callPackage ./wiki-cluster.nix { };

  clippyOf =
    package: src:
    stdenv.mkDerivation {
      name = "clippy-${package.pname}";
      inherit src;
      inherit (package) cargoDeps;
      nativeBuildInputs = [
        cargo
        clippy
        rustPlatform.cargoSetupHook
        rustc
      ];
      buildPhase = ''
        cargo clippy --release --workspace --all-targets --offline --locked -- --deny warnings
      '';
      installPhase = "touch $out";
    };

in
{
  nix-format =
    runCommand "nix-format"
      {
        src = sources [
          ../flake.nix
          (fileset.fileFilter (file: file.hasExt "nix") ./.)
        ];
        nativeBuildInputs = [ nixfmt ];
      }
      ''
        find "$src" -name '*.nix' -exec nixfmt --check {} +
        touch $out
      '';

  shellcheck =
    runCommand "shellcheck"
      {
        src = sources [
          ../.ci/run
          ../test.sh
          ../tests/nix/install-nix
          ../tests/support/unpack-debian
          ./pack-chart.sh
          ./images/postgresql-entrypoint.sh
          ./stand-in/cargo-clippy
          ./stand-in/k3d
          ./stand-in/k3s
          ./stand-in/nix
        ];
        nativeBuildInputs = [ shellcheck ];
      }
      ''
        find "$src" -type f -exec shellcheck --shell=bash {} +
        touch $out
      '';

  chart-lint =
    runCommand "chart-lint"
      {
        src = ../chart;
        nativeBuildInputs = [ kubernetes-helm ];
      }
      ''
        for values in "$src"/values.yaml "$src"/ci/*.yaml; do
          helm lint --strict --values "$values" "$src"
        done
        touch $out
      '';

  rust-format =
    runCommand "rust-format"
      {
        src = sources [
          ../Cargo.toml
          ../Cargo.lock
          ../cluster/Cargo.toml
          ../cluster/Cargo.lock
          ../cluster/src
          ../migration
          ../rustfmt.toml
          ../src
        ];
        nativeBuildInputs = [
          cargo
          rustfmt
        ];
      }
      ''
        cd "$src"
        cargo fmt --all --check
        cargo fmt --check --manifest-path cluster/Cargo.toml
        touch $out
      '';

  clippy = clippyOf wiki-service rustSources;
  cluster-clippy = clippyOf wiki-cluster wiki-cluster.src;

  # Those that need no browser and no process tracing, and are quick.
  service-tests =
    runCommand "service-tests"
      {
        src = sources [
          ../Cargo.toml
          ../docs/configuration.md
          ../pyproject.toml
          ../tests/conftest.py
          ../tests/service
          ../tests/support
        ];
        nativeBuildInputs = [
          curl
          postgresql_16
          (python3.withPackages (packages: [
            packages.httpx
            packages.playwright
            packages.psutil
            packages.psycopg
            packages.pytest
            packages.pytest-timeout
            packages.pyyaml
            packages.trustme
          ]))
        ];
        WIKI_SERVICE = lib.getExe wiki-service;
        __darwinAllowLocalNetworking = true;
      }
      ''
        cd "$src"
        python -m pytest tests/service/test_{configuration,cors,problems,schema,users_and_posts,validation}.py
        touch $out
      '';
}
