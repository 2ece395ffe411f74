{ lib, rustPlatform }:

let
  manifest = lib.importTOML ../Cargo.toml;
in
rustPlatform.buildRustPackage {
  pname = manifest.package.name;
  inherit (manifest.workspace.package) version;

  # Nothing else may be included: the images' tags are hashes of it.
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../Cargo.toml
      ../Cargo.lock
      ../migration
      ../src
    ];
  };
  cargoLock.lockFile = ../Cargo.lock;

  # The tests drive the program over HTTP: see checks.nix.
  doCheck = false;

  meta = {
    inherit (manifest.package) description;
    homepage = manifest.workspace.package.repository;
    license = [
      lib.licenses.mit
      lib.licenses.asl20
    ];
    mainProgram = manifest.package.name;
  };
}
