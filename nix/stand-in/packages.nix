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
            ${buildCommand}
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

  # Copies the libraries that the programs in $out load to $out/lib, and binds each program to them.
  bundleLibraries = ''
    mkdir -p $out/lib
    elfs=$(find $out -type f -exec sh -c 'head -c 4 "$1" | grep -q ELF' _ {} \; -print)
    for elf in $elfs; do
      ldd "$elf" 2>/dev/null | sed -nE 's/.*(=> |^\s+)(\/\S+) \(.*/\2/p'
    done | sort -u | xargs -r cp -Lnt $out/lib
    for elf in $elfs; do
      if patchelf --print-interpreter "$elf" >/dev/null 2>&1; then
        patchelf --set-interpreter $out/lib/$(basename "$(patchelf --print-interpreter "$elf")") "$elf"
      fi
      patchelf --force-rpath --set-rpath $out/lib "$elf"
    done
  '';
in
lib.fix (
  pkgs:
  {
    inherit lib runCommand;
    newScope = scope: lib.callPackageWith (pkgs // scope);
    callPackage = pkgs.newScope { };

    stdenv = {
      inherit mkDerivation;
      hostPlatform = {
        inherit system;
        isLinux = lib.hasSuffix "-linux" system;
      };
    };

    rustPlatform.buildRustPackage =
      args:
      let
        build = ''
          mkdir -p .cargo
          cp /machine/vendor/config.toml .cargo/
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
            filter =
              path: type:
              type == "directory" || builtins.match "Cargo\\..*" (baseNameOf path) != null;
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
            find . -name '*.rs' -not -path './target/*' -exec touch {} +
            ${build}
          '';
          installPhase = ''
            mkdir -p $out/bin
            find target/release -maxdepth 1 -type f -executable -not -name '*.so' -exec cp -t $out/bin {} +
            ${bundleLibraries}
          '';
          passthru = { inherit dependencies; };
        }
      );

    writeTextDir =
      path: text:
      runCommand (baseNameOf path) {
        inherit text;
        passAsFile = [ "text" ];
      } "mkdir -p $out/$(dirname ${path}) && cp $textPath $out/${path}";

    dockerTools = pkgs.callPackage ./docker-tools.nix { };
  }
)
