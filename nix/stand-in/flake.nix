# What the flake takes from nixpkgs, made from this machine's own programs, for tests where nixpkgs can't be fetched:
# `nix/stand-in/nix build .#wiki-image`. Every name and argument here exists, with the same meaning, in nixpkgs.
{
  # What the machine's programs are, by ./nix. Whatever is made of them has it in its hash.
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
