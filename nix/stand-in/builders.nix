# Derivations built with this machine's programs. Those that only the stand-in has (onMachine, bundle, …) see the whole machine;
# those that the flake calls (mkDerivation, runCommand, …) see what they would see in nixpkgs.
{
  lib,
  system,
  machine,
}:

let
  # The machine's programs are in /usr, and those that Debian does not have in /machine, which ./nix fills.
  machinePath = "/machine/rust/bin:/machine/bin:/usr/bin:/bin:/usr/sbin";

  derivationWith =
    prepare:
    {
      nativeBuildInputs ? [ ],
      passthru ? { },
      meta ? { },
      madeOf ? machine.programs,
      buildPhase ? "",
      installPhase ? "",
      buildCommand ? ''
        cp -r "$src" source
        chmod -R u+w source
        cd source
        mkdir -p .cargo
        cp ${./cargo.toml} .cargo/config.toml
        export CARGO_HOME=${machine.cargo-home}
        # nixpkgs' are the sources; these are compiled as well.
        if [ -n "''${cargoDeps-}" ]; then
          cp -r "$cargoDeps" target
          chmod -R u+w target
          # cargo compares timestamps: the same for all dependencies, and a later one for the source.
          find target -exec touch --reference=Cargo.toml {} +
          find . -name '*.rs' -not -path './target/*' -exec touch {} +
        fi
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
            # ${madeOf}
            PATH=${lib.makeBinPath nativeBuildInputs}:${prepare}
            ${
              lib.optionalString (args.__structuredAttrs or false) ". ./.attrs.sh; out=\${outputs[out]}; "
            }${buildCommand}
            # So that bash itself is the last to close the log: Nix kills a builder that does so before it exits.
            true
          ''
        ];
      }
      // removeAttrs args [
        "nativeBuildInputs"
        "passthru"
        "meta"
        "madeOf"
        "buildPhase"
        "installPhase"
        "buildCommand"
      ]
    )
    // {
      inherit meta;
    }
    // passthru;

  commandWith =
    make: name: env: buildCommand:
    make ({ inherit name buildCommand; } // env);
in
rec {
  mkMachineDerivation = derivationWith ''
    ${machinePath}
    export HOME=$NIX_BUILD_TOP SOURCE_DATE_EPOCH=315532800 LC_ALL=C.UTF-8'';
  onMachine = commandWith mkMachineDerivation;

  # Only the programs of nixpkgs' stdenv, its shell options, and Nix' own HOME, which does not exist.
  mkDerivation = derivationWith ''
    /machine/stdenv
    export SOURCE_DATE_EPOCH=315532800
    set -o pipefail'';
  runCommand = commandWith mkDerivation;

  # Copies the libraries of the programs in $out, as listed by `ldd`, to $out/lib, and links each program to them.
  bundleLibraries = ldd: ''
    mkdir -p $out/lib
    elfs=$(
      find $out -type f -not -name '*.o' | while IFS= read -r file; do
        if IFS= read -rN 4 magic <"$file" && [ "$magic" = $'\x7fELF' ]; then echo "$file"; fi
      done
    )
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

  # For an image: the programs bring their libraries along.
  bundle = bundleBy "ldd";
  bundleBy =
    ldd: name: mainProgram: copy:
    onMachine name { meta = { inherit mainProgram; }; } ''
      mkdir -p $out/bin
      (
        ${copy}
      )
      ${bundleLibraries ldd}
    '';

  # For programs that also run outside a build, where there is no /machine.
  copy =
    name:
    onMachine name { meta.mainProgram = name; } ''
      mkdir -p $out/bin
      cp "$(command -v ${name})" $out/bin/
    '';

  # Tools of a build, which stay where they are.
  program = name: programs name [ name ];
  programs =
    name: names:
    onMachine name { meta.mainProgram = name; } ''
      mkdir -p $out/bin
      for name in ${toString names}; do
        ln -s "$(command -v $name)" $out/bin/
      done
    '';

  # Programs as they are, with the libraries at the paths where they look for them: for the root of an image.
  asTheyAre =
    name: version: copy:
    onMachine name { meta.mainProgram = name; } ''
      mkdir -p $out/bin
      (
        ${copy}
      )
      find $out -type f -exec ldd {} + 2>/dev/null | grep -oE '/lib\S+' | sort -u | xargs -I{} cp -Ln --parents {} $out/ || true
    ''
    // {
      inherit version;
    };

  buildRustPackage =
    args:
    let
      build = "cargo build --quiet --release --offline --locked";
    in
    mkMachineDerivation (
      removeAttrs args [
        "cargoLock"
        "doCheck"
      ]
      // {
        # From the manifests only, so that a change of the source does not recompile every crate. With what is in nixpkgs' stdenv.
        cargoDeps = mkMachineDerivation {
          name = "${args.pname}-dependencies";
          madeOf = machine.compilers;
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
            export HOME=/homeless-shelter PATH=/machine/rust/bin:/machine/stdenv
            ${build}
          '';
          installPhase = "cp -r target $out";
        };
        src = "${args.src}";
        buildPhase = build;
        installPhase = ''
          mkdir -p $out/bin
          find target/release -maxdepth 1 -type f -executable -not -name '*.so' -exec cp -t $out/bin {} +
          ${bundleLibraries "ldd"}
        '';
      }
    );

  writeTextDir =
    path: text:
    onMachine (baseNameOf path) {
      inherit text;
      passAsFile = [ "text" ];
    } "mkdir -p $out/$(dirname ${path}) && cp $textPath $out/${path}";

  linkFarm =
    name: entries:
    onMachine name { } (
      lib.concatLines (
        [ "mkdir $out" ] ++ lib.mapAttrsToList (name: path: "ln -s ${path} $out/${name}") entries
      )
    );

  mkShell =
    { packages }:
    onMachine "nix-shell" { inherit packages; } "touch $out";
}
