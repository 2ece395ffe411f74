{
  lib,
  system,
  machine,
}:

let
  builders = import ./builders.nix { inherit lib system machine; };
  inherit (builders)
    asTheyAre
    bundle
    copy
    onMachine
    program
    programs
    ;
in
lib.fix (pkgs: {
  inherit lib;
  inherit (builders)
    linkFarm
    mkShell
    runCommand
    writeTextDir
    ;
  newScope = scope: lib.callPackageWith (pkgs // scope);
  callPackage = pkgs.newScope { };

  stdenv = {
    inherit (builders) mkDerivation;
    hostPlatform = {
      inherit system;
      isLinux = lib.hasSuffix "-linux" system;
      isAarch64 = lib.hasPrefix "aarch64-" system;
    };
  };

  rustPlatform = {
    inherit (builders) buildRustPackage;
    cargoSetupHook = onMachine "cargo-setup-hook" { } "mkdir $out";
  };

  writeShellApplication =
    {
      name,
      text,
      runtimeInputs ? [ ],
    }:
    onMachine name
      {
        text =
          lib.optionalString (runtimeInputs != [ ]) "export PATH=${lib.makeBinPath runtimeInputs}:$PATH\n"
          + text;
        passAsFile = [ "text" ];
        meta.mainProgram = name;
      }
      ''
        mkdir -p $out/bin
        printf '#!%s\nset -o errexit\nset -o nounset\nset -o pipefail\n\n' ${lib.getExe pkgs.bash} |
          cat - $textPath >$out/bin/${name}
        chmod +x $out/bin/${name}
        shellcheck $out/bin/${name}
      '';

  dockerTools = import ./docker-tools.nix {
    inherit lib system;
    inherit (builders) onMachine runCommand;
    inherit (pkgs) fakeroot;
  };
  fakeroot = onMachine "fakeroot" { } ''
    mkdir -p $out/bin
    sed 's,\<getopt ,/usr/bin/getopt ,' /usr/bin/fakeroot >$out/bin/fakeroot
    chmod +x $out/bin/fakeroot
  '';

  fakeNss = lib.makeOverridable (
    {
      extraPasswdLines ? [ ],
      extraGroupLines ? [ ],
    }:
    onMachine "fake-nss"
      {
        passwd = lib.concatLines (
          [
            "root:x:0:0:root user:/var/empty:/bin/sh"
            "nobody:x:65534:65534:nobody:/var/empty:/bin/sh"
          ]
          ++ extraPasswdLines
        );
        group = lib.concatLines (
          [
            "root:x:0:"
            "nobody:x:65534:"
          ]
          ++ extraGroupLines
        );
      }
      ''
        mkdir -p $out/etc $out/var/empty
        printf %s "$passwd" >$out/etc/passwd
        printf %s "$group" >$out/etc/group
        echo 'hosts: files dns' >$out/etc/nsswitch.conf

        # Not in nixpkgs' own: trixie's PostgreSQL 17 looks for time zones here, and not in the store.
        mkdir -p $out/usr/share/zoneinfo
        cp /usr/share/zoneinfo/{UTC,GMT} $out/usr/share/zoneinfo/
      ''
  ) { };

  # What goes into an image includes its libraries.
  bash = bundle "bash" "bash" "cp /bin/bash $out/bin/ && ln -s bash $out/bin/sh";
  coreutils = bundle "coreutils" "cat" ''
    cd /usr/bin
    cp basename cat chmod cp cut date df dirname du env head id ls mkdir mktemp mv nproc rm rmdir sleep sort stat \
      sync tail tee test touch tr true uname wc $out/bin/
  '';
  findutils = bundle "findutils" "find" "cp /usr/bin/find /usr/bin/xargs $out/bin/";
  prometheus = copy "prometheus" // {
    version = "3.16.0";
    cli = program "promtool";
  };

  inherit
    (import ./postgresql.nix {
      inherit lib builders machine;
      inherit (pkgs) bash;
    })
    glibcLocales
    nss_wrapper
    postgresql_16
    postgresql_17
    ;

  # Debian's, with the programs that its dockerd runs.
  docker = asTheyAre "docker" "20.10.24" ''
    cd $out/bin
    for program in containerd containerd-shim-runc-v2 docker docker-init docker-proxy dockerd runc mkfs.ext4 xz ps; do
      cp -L "$(command -v $program)" .
    done
  '';
  iptables = asTheyAre "iptables" "1.8.9" ''
    cp -L /usr/sbin/xtables-nft-multi $out/bin/
    for program in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
      ln -s xtables-nft-multi $out/bin/$program
    done
    cp -r --parents /usr/lib/*/xtables $out/
  '';
  busybox = asTheyAre "busybox" "1.35.0" ''
    cp -L /bin/busybox $out/bin/
    for applet in $(/bin/busybox --list); do
      [ -e $out/bin/$applet ] || ln -s busybox $out/bin/$applet
    done
  '';
  zstd = asTheyAre "zstd" "1.5.4" "cp -L /usr/bin/zstd $out/bin/";
  kubectl = asTheyAre "kubectl" "1.35.0" ''cp -L "$(command -v kubectl)" $out/bin/'';
  kubernetes-helm = asTheyAre "helm" "3.22.0" "cp /machine/bin/helm $out/bin/";

  # The real one if it is given, otherwise one that replays recorded output.
  k3d = asTheyAre "k3d" "5.8.3" (
    if machine.k3d != "" then
      "cp /machine/k3d $out/bin/k3d # ${machine.k3d}"
    else
      "cp ${./k3d} $out/bin/k3d"
  );

  # A test double if one is given: a folder with programs and libraries like an image's root.
  k3s =
    onMachine "k3s" { meta.mainProgram = "k3s"; } ''
      mkdir -p $out/bin
      ${lib.optionalString (machine.k3s != "") ''
        # ${machine.k3s}
        cp -r /machine/k3s/{bin,lib,lib64,opt,usr} $out/
        chmod -R u+w $out
        mkdir -p $out/libexec
        mv $out/bin/k3s $out/libexec/
        for program in $out/usr/bin/*; do
          ln -sf "../usr/bin/$(basename "$program")" $out/bin/
        done
      ''}
      cp ${./k3s} $out/bin/k3s
      for program in crictl ctr kubectl; do
        [ -e $out/bin/$program ] || ln -s k3s $out/bin/$program
      done
    ''
    // {
      version = "1.34.4+double1";
      airgap-images = onMachine "k3s-airgap-images.tar.zst" { } ''
        ${(pkgs.dockerTools.buildLayeredImage { name = "mirrored-pause"; }).stream} | zstd --quiet >$out
      '';
    };

  # A test double, described in its own file. From 13.2 on, the Prometheus datasource is a plugin.
  grafana =
    let
      version = "13.0.7";
    in
    bundle "grafana" "grafana" ''
      mkdir -p $out/share/grafana/conf $out/python/bin $out/python/lib
      touch $out/share/grafana/conf/defaults.ini
      ${lib.optionalString (!lib.versionAtLeast version "13.2") ''
        mkdir -p $out/share/grafana/public/app/plugins/datasource
        cp -r ${pkgs.grafanaPlugins.prometheus} $out/share/grafana/public/app/plugins/datasource/prometheus
      ''}
      python=$(basename "$(realpath /usr/bin/python3)")
      cp /usr/bin/$python $out/python/bin/
      cp -r /usr/lib/$python $out/python/lib/
      cp -r /usr/lib/python3/dist-packages/yaml $out/python/lib/$python/
      find $out/python \( -name __pycache__ -o -name 'config-*' \) -prune -exec rm -rf {} +
      printf '#!${lib.getExe pkgs.bash}\nexec %s -B ${./grafana.py} "$@"\n' $out/python/bin/$python >$out/bin/grafana
      chmod +x $out/bin/grafana
    ''
    // {
      inherit version;
    };
  grafanaPlugins.prometheus = onMachine "grafana-prometheus-plugin" { } ''
    mkdir $out
    echo '{"id": "prometheus", "type": "datasource"}' >$out/plugin.json
  '';

  # Tools of a build, and of the shell, stay where they are.
  cargo = program "cargo";
  cargo-deny = program "cargo-deny";
  chromium = program "chromium";
  clippy = onMachine "clippy" { } ''
    mkdir -p $out/bin
    ln -s "$(command -v clippy-driver)" $out/bin/
    cp ${./cargo-clippy} $out/bin/cargo-clippy
  '';
  # Keyless signing needs an identity and a service on the internet: this test double prints what it was asked to sign.
  cosign = onMachine "cosign" { } ''
    mkdir -p $out/bin
    printf '#!/bin/sh\necho cosign "$@"\n' >$out/bin/cosign
    chmod +x $out/bin/cosign
  '';
  curl = program "curl";
  diffutils = program "cmp";
  docker-client = program "docker";
  gnugrep = program "grep";
  gnutar = program "tar";
  gzip = program "gzip";
  iproute2 = program "ip";
  jq = program "jq";
  libfaketime = program "faketime";
  nixfmt = program "nixfmt";
  nixfmt-tree = program "treefmt";
  regclient = copy "regctl";
  rust-analyzer = program "rust-analyzer";
  rustc = program "rustc";
  rustfmt = programs "rustfmt" [
    "cargo-fmt"
    "rustfmt"
  ];
  shellcheck = program "shellcheck";
  sqlite = program "sqlite3";
  strace = program "strace";
  skopeo = program "skopeo";
  yq-go = copy "yq";

  # The requested packages, from the tests' own environment. One that is missing, or has another name in nixpkgs, fails.
  python3 = program "python3" // {
    withPackages =
      choose:
      let
        names = [
          "httpx"
          "playwright"
          "psutil"
          "psycopg"
          "pytest"
          "pytest-timeout"
          "pyyaml"
          "trustme"
        ];
      in
      onMachine "python3-env" { } ''
        # ${machine.python}
        mkdir -p $out/{bin,lib}
        /machine/venv/bin/python ${./python_env.py} $out/lib ${
          toString (choose (lib.genAttrs names (name: name)))
        }
        python=$(/machine/venv/bin/python -c 'import sys; print(sys._base_executable)')
        printf '#!/bin/sh\nPYTHONPATH=%s exec %s -S "$@"\n' $out/lib "$python" >$out/bin/python
        chmod +x $out/bin/python
      '';
  };
})
