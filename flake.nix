{
  description = "A wiki API, and the images, chart and cluster it runs in";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
        "x86_64-darwin"
        "aarch64-darwin"
      ];
      forAllSystems =
        f:
        lib.genAttrs systems (
          system:
          let
            pkgs = nixpkgs.legacyPackages.${system};
          in
          f pkgs (pkgs.newScope self.packages.${system})
        );
    in
    {
      packages =
        forAllSystems (
          pkgs: callPackage:
          let
            inherit (pkgs.stdenv.hostPlatform) system;
          in
          {
            default = self.packages.${system}.wiki-service;
            wiki-service = callPackage ./nix/wiki-service.nix { };
            chart = callPackage ./nix/chart.nix { };
          }
          // (
            if pkgs.stdenv.hostPlatform.isLinux then
              {
                wiki-image = callPackage ./nix/wiki-image.nix { };
                postgresql-image = callPackage ./nix/postgresql-image.nix { };
                prometheus-image = callPackage ./nix/prometheus-image.nix { };
                grafana-image = callPackage ./nix/grafana-image.nix { };
              }
            else
              {
                inherit (self.packages.${lib.replaceStrings [ "darwin" ] [ "linux" ] system})
                  wiki-image
                  postgresql-image
                  prometheus-image
                  grafana-image
                  ;
              }
          )
        )
        // lib.genAttrs (lib.subtractLists systems lib.systems.flakeExposed) (
          system:
          lib.mapAttrs (
            name: _:
            throw "${name} cannot be built for ${system}: take packages.x86_64-linux.${name} or packages.aarch64-linux.${name}"
          ) self.packages.x86_64-linux
        );

      apps = forAllSystems (
        pkgs: _: {
          default = {
            type = "app";
            program = lib.getExe self.packages.${pkgs.stdenv.hostPlatform.system}.wiki-service;
            meta.description = "The service, on a SQLite file in the current directory";
          };
        }
      );

      checks = forAllSystems (_: callPackage: callPackage ./nix/checks.nix { });

      devShells = forAllSystems (
        _: callPackage: {
          default = callPackage ./nix/dev-shell.nix { };
        }
      );

      formatter = forAllSystems (pkgs: _: pkgs.nixfmt-tree);
    };
}
