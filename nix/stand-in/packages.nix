{ lib, system }:

let
  # Machine programs are found by /usr, and those that Debian does not have by /machine, which ./nix fills.
  path = "/machine/rust/bin:/machine/bin:/usr/bin:/bin:/usr/sbin";

  mkDerivation =
    {
      nativeBuildInputs ? [ ],
      passthru ? { },
      meta ? { },
      buildPhase ? "",
      installPhase ? "",
      buildCommand ? ''
        cp -r "$src" source
        chmod -R u+w source
        cd source
        mkdir -p .cargo
        cp /machine/vendor/config.toml .cargo/
        ${buildPhase}
        ${installPhase}
      '',
      ...
    }@args:
    derivation (
      {
        name = "${args.pname}-${args.version}";
        inherit system;
        builder = "/bin/bash";
        args = [
          "-euc"
          ''
            PATH=${lib.makeBinPath nativeBuildInputs}:${path}
            export HOME=$NIX_BUILD_TOP SOURCE_DATE_EPOCH=315532800 LC_ALL=C.UTF-8
            ${
              lib.optionalString (args.__structuredAttrs or false) ". ./.attrs.sh; out=\${outputs[out]}; "
            }${buildCommand}
            # So that bash itself is the last to close the log: Nix kills a builder that does so before it ends.
            true
          ''
        ];
      }
      // removeAttrs args [
        "nativeBuildInputs"
        "passthru"
        "meta"
        "buildPhase"
        "installPhase"
        "buildCommand"
      ]
    )
    // {
      inherit meta;
    }
    // passthru;

  runCommand =
    name: env: buildCommand:
    mkDerivation ({ inherit name buildCommand; } // env);

  # Copies the libraries that the programs in $out load, by the word of `ldd`, to $out/lib, and binds each program to them.
  bundleLibraries = ldd: ''
    mkdir -p $out/lib
    elfs=$(find $out -type f -not -name '*.o' -exec sh -c 'head -c 4 "$1" | grep -q ELF' _ {} \; -print)
    for elf in $elfs; do
      ${ldd} "$elf" 2>/dev/null | sed -nE 's/.*(=> |^\s+)(\/\S+) \(.*/\2/p'
    done | sort -u | xargs -r cp -Lnt $out/lib
    for elf in $elfs; do
      if patchelf --print-interpreter "$elf" >/dev/null 2>&1; then
        patchelf --set-interpreter $out/lib/$(basename "$(patchelf --print-interpreter "$elf")") "$elf"
      fi
      patchelf --force-rpath --set-rpath $out/lib "$elf"
    done
  '';

  bundle = bundleBy "ldd";
  bundleBy =
    ldd: name: mainProgram: copy:
    runCommand name { meta = { inherit mainProgram; }; } ''
      mkdir -p $out/bin
      (
        ${copy}
      )
      ${bundleLibraries ldd}
    '';

  # Debian's, whose programs find their own files by the path from one to the other. Its C library knows no
  # LOCALE_ARCHIVE, as that of nixpkgs does, but LOCPATH.
  postgresql =
    {
      bash,
      version,
      root ? "",
      ldd ? "ldd",
    }:
    bundleBy ldd "postgresql" "postgres" ''
      cd ${root}/usr
      cp -r --parents lib/postgresql/*/bin lib/postgresql/*/lib share/postgresql/* $out/
      rm -rf $out/lib/postgresql/*/lib/{bitcode,pgxs,llvmjit*}
      cd $out/lib/postgresql/*/bin
      for program in *; do
        printf '#!${lib.getExe bash}\nLOCPATH=''${LOCALE_ARCHIVE%%/*-archive} exec %s "$@"\n' "$PWD/$program" \
          >"$out/bin/$program"
      done
      chmod +x $out/bin/*
    ''
    // {
      inherit version;
    };

  # For programs that are run outside of a build too, where there is no /machine.
  copy =
    name:
    runCommand name { meta.mainProgram = name; } ''
      mkdir -p $out/bin
      cp "$(command -v ${name})" $out/bin/
    '';

  program =
    name:
    runCommand name { meta.mainProgram = name; } ''
      mkdir -p $out/bin
      ln -s "$(command -v ${name})" $out/bin/
    '';

  # Programs as they are, with the libraries at the paths where they look for them: for the root of an image.
  asTheyAre =
    name: version: copy:
    runCommand name { meta.mainProgram = name; } ''
      mkdir -p $out/bin
      (
        ${copy}
      )
      find $out -type f -exec ldd {} + 2>/dev/null | grep -oE '/lib\S+' | sort -u | xargs -I{} cp -Ln --parents {} $out/ || true
    ''
    // {
      inherit version;
    };
in
lib.fix (pkgs: {
  inherit lib runCommand;
  newScope = scope: lib.callPackageWith (pkgs // scope);
  callPackage = pkgs.newScope { };

  stdenv = {
    inherit mkDerivation;
    hostPlatform = {
      inherit system;
      isLinux = lib.hasSuffix "-linux" system;
      isAarch64 = lib.hasPrefix "aarch64-" system;
    };
  };

  rustPlatform.cargoSetupHook = runCommand "cargo-setup-hook" { } "mkdir $out";
  rustPlatform.buildRustPackage =
    args:
    let
      build = ''
        # No link-time optimisation: this is for tests.
        export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
        export RUSTFLAGS="--remap-path-prefix=$PWD=. --remap-path-prefix=/machine/vendor=vendor"
        nice cargo build --quiet --release --offline --locked
      '';
      # Built of the manifests alone, so that a change of the source does not compile every crate again.
      dependencies = mkDerivation {
        name = "${args.pname}-dependencies";
        src = builtins.path {
          name = "manifests";
          path = args.src;
          filter = path: type: type == "directory" || builtins.match "Cargo\\..*" (baseNameOf path) != null;
        };
        buildPhase = ''
          for manifest in $(find . -name Cargo.toml); do
            mkdir -p "$(dirname "$manifest")/src"
            echo 'fn main() {}' >"$(dirname "$manifest")/src/main.rs"
            touch "$(dirname "$manifest")/src/lib.rs"
          done
          ${build}
        '';
        installPhase = "cp -r target $out";
      };
    in
    mkDerivation (
      removeAttrs args [
        "cargoLock"
        "doCheck"
      ]
      // {
        src = "${args.src}";
        buildPhase = ''
          cp -r ${dependencies} target
          chmod -R u+w target
          # cargo goes by the order of times: all of the dependencies' alike, and the source after them.
          find target -exec touch --reference=Cargo.toml {} +
          find . -name '*.rs' -not -path './target/*' -exec touch {} +
          ${build}
        '';
        installPhase = ''
          mkdir -p $out/bin
          find target/release -maxdepth 1 -type f -executable -not -name '*.so' -exec cp -t $out/bin {} +
          ${bundleLibraries "ldd"}
        '';
        passthru.cargoDeps = dependencies;
      }
    );

  writeTextDir =
    path: text:
    runCommand (baseNameOf path) {
      inherit text;
      passAsFile = [ "text" ];
    } "mkdir -p $out/$(dirname ${path}) && cp $textPath $out/${path}";

  writeShellApplication =
    {
      name,
      text,
      runtimeInputs ? [ ],
    }:
    runCommand name
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

  linkFarm =
    name: entries:
    runCommand name { } (
      lib.concatLines (
        [ "mkdir $out" ] ++ lib.mapAttrsToList (name: path: "ln -s ${path} $out/${name}") entries
      )
    );

  dockerTools = pkgs.callPackage ./docker-tools.nix { };

  fakeNss = lib.makeOverridable (
    {
      extraPasswdLines ? [ ],
      extraGroupLines ? [ ],
    }:
    runCommand "fake-nss"
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

        # Not in that of nixpkgs: Debian's PostgreSQL looks for time zones here, and not in the store.
        mkdir -p $out/usr/share/zoneinfo
        cp /usr/share/zoneinfo/{UTC,GMT} $out/usr/share/zoneinfo/
      ''
  ) { };

  # What goes into an image brings its libraries along.
  bash = bundle "bash" "bash" "cp /bin/bash $out/bin/ && ln -s bash $out/bin/sh";
  coreutils = bundle "coreutils" "cat" ''
    cd /usr/bin
    cp basename cat chmod cp cut date df dirname du env head id ls mkdir mktemp mv nproc rm rmdir sleep sort stat \
      sync tail tee test touch tr true uname wc $out/bin/
  '';
  findutils = bundle "findutils" "find" "cp /usr/bin/find /usr/bin/xargs $out/bin/";
  # patchelf spoils what Go's linker made: started by way of the loader instead.
  prometheus =
    runCommand "prometheus"
      {
        meta.mainProgram = "prometheus";
        passthru.cli = program "promtool";
      }
      ''
        mkdir -p $out/bin $out/lib
        cp /machine/bin/prometheus $out/lib/
        ldd /machine/bin/prometheus | sed -nE 's/.*(=> |^\s+)(\/\S+) \(.*/\2/p' | xargs cp -Lt $out/lib
        printf '#!${lib.getExe pkgs.bash}\nexec %s --library-path %s %s "$@"\n' \
          $out/lib/ld-linux-*.so.* $out/lib $out/lib/prometheus >$out/bin/prometheus
        chmod +x $out/bin/prometheus
      ''
    // {
      version = "3.16.0";
    };

  postgresql_16 = postgresql {
    inherit (pkgs) bash;
    version = "16";
  };
  # Trixie's, which a test fetches. Its libraries are read by its own loader alone.
  postgresql_17 = postgresql rec {
    inherit (pkgs) bash;
    version = "17";
    root = "/machine/postgresql-17";
    ldd = "${root}/usr/lib/*-linux-gnu/ld-linux-*.so.* --library-path $(echo ${root}/usr/lib/*-linux-gnu) --list";
  };
  glibcLocales =
    lib.makeOverridable
      (
        { allLocales, locales }:
        runCommand "glibc-locales" { inherit locales; } ''
          mkdir -p $out/lib/locale
          for locale in $locales; do
            name=''${locale%/*}
            localedef --inputfile "''${name%.*}" --charmap "''${locale#*/}" $out/lib/locale/''${name%.*}.utf8
          done
        ''
      )
      {
        allLocales = true;
        locales = [ ];
      };

  # Debian's, with what its dockerd runs.
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

  # The real one where it is given, and else one that answers what was recorded.
  k3d =
    let
      given = builtins.getEnv "WIKI_TEST_K3D";
    in
    asTheyAre "k3d" "5.8.3" (
      if given != "" then "cp /machine/k3d $out/bin/k3d # ${given}" else "cp ${./k3d} $out/bin/k3d"
    );

  # A double of it where one is given: a folder with programs and libraries as in the root of an image.
  k3s =
    let
      given = builtins.getEnv "WIKI_TEST_K3S";
    in
    runCommand "k3s" { meta.mainProgram = "k3s"; } ''
      mkdir -p $out/bin
      ${lib.optionalString (given != "") ''
        # ${given}
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
      airgap-images = runCommand "k3s-airgap-images.tar.zst" { } ''
        ${(pkgs.dockerTools.buildLayeredImage { name = "mirrored-pause"; }).stream} | zstd --quiet >$out
      '';
    };

  # A double of it, that its own text describes.
  grafana =
    bundle "grafana" "grafana" ''
      mkdir -p $out/share/grafana/conf $out/python/bin $out/python/lib
      touch $out/share/grafana/conf/defaults.ini
      python=$(basename "$(realpath /usr/bin/python3)")
      cp /usr/bin/$python $out/python/bin/
      cp -r /usr/lib/$python $out/python/lib/
      cp -r /usr/lib/python3/dist-packages/yaml $out/python/lib/$python/
      find $out/python \( -name __pycache__ -o -name 'config-*' \) -prune -exec rm -rf {} +
      printf '#!${lib.getExe pkgs.bash}\nexec %s -B ${./grafana.py} "$@"\n' $out/python/bin/$python >$out/bin/grafana
      chmod +x $out/bin/grafana
    ''
    // {
      version = "13.2.0";
    };
  grafanaPlugins.prometheus = runCommand "grafana-prometheus-plugin" { } ''
    mkdir $out
    echo '{"id": "prometheus", "type": "datasource"}' >$out/plugin.json
  '';

  # Tools of a build, and of the shell, stay where they are.
  cargo = program "cargo";
  cargo-deny = program "cargo-deny";
  chromium = program "chromium";
  clippy = program "cargo-clippy";
  # Keyless signing takes an identity and a service on the internet: this double says what it was asked to sign.
  cosign = runCommand "cosign" { } ''
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
  rustfmt = program "rustfmt";
  shellcheck = program "shellcheck";
  sqlite = program "sqlite3";
  strace = program "strace";
  skopeo = program "skopeo";
  yq-go = copy "yq";

  # The environment that the tests run in, whatever is asked of it.
  python3 = program "python3" // {
    withPackages =
      _:
      runCommand "python3-env" { } ''
        mkdir -p $out/bin
        printf '#!/bin/sh\nexec /machine/venv/bin/python "$@"\n' >$out/bin/python
        chmod +x $out/bin/python
      '';
  };

  mkShell =
    { packages }:
    mkDerivation {
      name = "nix-shell";
      inherit packages;
      buildCommand = "touch $out";
    };
})
