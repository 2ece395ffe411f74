# The program that boots the cluster image. Not in the service's workspace, so that a change here changes no other image.
{ lib, rustPlatform }:

let
  manifest = lib.importTOML ../cluster/Cargo.toml;
in
rustPlatform.buildRustPackage {
  pname = manifest.package.name;
  inherit ((lib.importTOML ../Cargo.toml).workspace.package) version;

  src = lib.fileset.toSource {
    root = ../cluster;
    fileset = lib.fileset.unions [
      ../cluster/Cargo.toml
      ../cluster/Cargo.lock
      ../cluster/src
    ];
  };
  cargoLock.lockFile = ../cluster/Cargo.lock;

  meta = {
    inherit (manifest.package) description;
    mainProgram = manifest.package.name;
  };
}
