# Each check is a derivation whose name says what broke.
{
  lib,
  cargo,
  clippy,
  grafanaPlugins,
  jq,
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
  wiki-image,
  postgresql-image,
  prometheus-image,
  grafana-image,
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

  # Reads an image as a runtime does, without one: its configuration is $config, its files are listed in $files.
  imageContract =
    image: megabytes: conditions: assertions:
    runCommand "${image.imageName}-contract"
      {
        nativeBuildInputs = [ jq ];
        inherit conditions;
      }
      ''
        fail() {
          echo "${image.imageName}: $1" >&2
          exit 1
        }
        mkdir image
        tar --extract --file ${image} --directory image
        config=image/$(jq --raw-output '.[0].Config' image/manifest.json)
        files=$PWD/files
        for layer in $(jq --raw-output '.[0].Layers[]' image/manifest.json); do
          tar --list --file "image/$layer" | sed -E 's,^\.?/?,/,'
        done >"$files"

        jq --exit-status '.created == "1970-01-01T00:00:01+00:00" or .created == "1970-01-01T00:00:01Z"' "$config" >/dev/null ||
          fail "its date is not fixed"
        jq --exit-status '.config.Labels."org.opencontainers.image.version"' "$config" >/dev/null || fail "no version label"
        while IFS= read -r condition; do
          [ -z "$condition" ] || jq --exit-status "$condition" "$config" >/dev/null || fail "not so: $condition"
        done <<<"$conditions"
        [ "$(stat --dereference --format %s ${image})" -le ${toString (megabytes * 1000000)} ] ||
          fail "more than ${toString megabytes} MB compressed"
        ${assertions}
        touch $out
      '';
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
          ../test.sh
          ../tests/nix/install-nix
          ./postgresql-entrypoint.sh
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
        src = rustSources;
        nativeBuildInputs = [
          cargo
          rustfmt
        ];
      }
      ''
        cd "$src"
        cargo fmt --all --check
        touch $out
      '';

  clippy = stdenv.mkDerivation {
    name = "clippy";
    src = rustSources;
    inherit (wiki-service) cargoDeps;
    nativeBuildInputs = [
      cargo
      clippy
      rustPlatform.cargoSetupHook
      rustc
    ];
    buildPhase = ''
      cargo clippy --workspace --all-targets --offline --locked -- --deny warnings
    '';
    installPhase = "touch $out";
  };

  # Those that need no browser, no tracing of the process and no minutes.
  service-tests =
    runCommand "service-tests"
      {
        src = sources [
          ../Cargo.toml
          ../README.md
          ../pyproject.toml
          ../tests/service
          ../tests/support
        ];
        nativeBuildInputs = [
          postgresql_16
          (python3.withPackages (packages: [
            packages.httpx
            packages.playwright
            packages.psutil
            packages.psycopg
            packages.pytest
            packages.pytest-timeout
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
// lib.optionalAttrs stdenv.hostPlatform.isLinux {
  wiki-image =
    imageContract wiki-image 25
      ''
        .config.User == "65532:65532"
        .config.ExposedPorts | has("8000/tcp")
        .config.Entrypoint[0] | endswith("/bin/wiki-service")
        .config.Labels."org.opencontainers.image.licenses" == "MIT OR Apache-2.0"
      ''
      "! grep -E '/(bash|sh|busybox|nix-store|apt|apk)$' $files || fail 'it has a shell or a package manager'";

  postgresql-image = imageContract postgresql-image 150 ''
    .config.User == "999:999"
    .config.ExposedPorts | has("5432/tcp")
    .config.StopSignal == "SIGINT"
  '' "grep -q '/bin/initdb$' $files || fail 'no initdb'";

  prometheus-image = imageContract prometheus-image 150 ''
    .config.User == "65534:65534"
    .config.ExposedPorts | has("9090/tcp")
  '' "grep -q '^/etc/prometheus/prometheus.yml$' $files || fail 'no configuration'";

  grafana-image =
    imageContract grafana-image 300
      ''
        .config.User == "472:472"
        .config.ExposedPorts | has("3000/tcp")
        .config.Env | any(. == "GF_PLUGINS_PREINSTALL_DISABLED=true")
      ''
      ''
        plugins=$(jq --raw-output '.config.Env[] | select(startswith("GF_PATHS_PLUGINS=")) | sub(".*="; "")' "$config")
      '';
}
