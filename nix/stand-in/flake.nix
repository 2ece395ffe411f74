# What the flake uses of nixpkgs, made from this machine's own programs, for tests where nixpkgs cannot be fetched:
# `nix/stand-in/nix build .#wiki-image`. Every name and argument here exists, with the same meaning, in nixpkgs.
{
  # The hashes of the machine's programs, written by ./nix, which become part of each derivation's hash.
  inputs.machine = {
    url = "path:/machine";
    flake = false;
  };

  outputs =
    { self, machine }:
    let
      lib = import ./lib.nix;
    in
    {
      inherit lib;
      legacyPackages = lib.genAttrs lib.systems.flakeExposed (
        system:
        import ./packages.nix {
          inherit lib system;
          machine = builtins.fromJSON (builtins.readFile "${machine}/machine.json");
        }
      );
    };
}
