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
      forAllSystems = lib.genAttrs systems;
      callPackageFor = system: nixpkgs.legacyPackages.${system}.newScope self.packages.${system};
      imagesOf = system: lib.filterAttrs (name: _: lib.hasSuffix "-image" name) self.packages.${system};
    in
    {
      packages = forAllSystems (
        system:
        let
          callPackage = callPackageFor system;
          # Images contain Linux programs, even when built from macOS.
          callLinuxPackage = callPackageFor (lib.replaceStrings [ "darwin" ] [ "linux" ] system);
        in
        {
          default = self.packages.${system}.wiki-service;
          wiki-service = callPackage ./nix/wiki-service.nix { };
          wiki-image = callLinuxPackage ./nix/images/wiki-image.nix { };
          postgresql-image = callLinuxPackage ./nix/images/postgresql-image.nix { };
          prometheus-image = callLinuxPackage ./nix/images/prometheus-image.nix { };
          grafana-image = callLinuxPackage ./nix/images/grafana-image.nix { };
          k3s-image = callLinuxPackage ./nix/images/k3s-image.nix { };
          chart = callPackage ./nix/chart.nix { };
          cluster-image = callLinuxPackage ./nix/images/cluster-image.nix { };
          release-images = callLinuxPackage ./nix/release/release-images.nix { images = imagesOf system; };
        }
      );

      # Where Nix looks next, and `nix flake check --all-systems` does not: a clear error on unsupported systems.
      legacyPackages = lib.genAttrs (lib.subtractLists systems lib.systems.flakeExposed) (
        system:
        lib.mapAttrs (
          name: package:
          package
          // {
            drvPath = throw "${name} cannot be built for ${system}: use packages.x86_64-linux.${name} or packages.aarch64-linux.${name}";
          }
        ) self.packages.x86_64-linux
      );

      apps = forAllSystems (
        system:
        let
          callPackage = callPackageFor system;
          release-chart = callPackage ./nix/release/release-chart.nix { };
          app = package: description: {
            type = "app";
            program = lib.getExe package;
            meta = { inherit description; };
          };
        in
        {
          default =
            app self.packages.${system}.wiki-service
              "Run the service on a SQLite file in the current directory";
          up = app (callPackage ./nix/up.nix { }) "Start the whole cluster in the local Docker, on port 8080";
          down = app (callPackage ./nix/down.nix
            { }
          ) "Stop the cluster and keep its data; --purge deletes it";
          push-images = app (callPackage ./nix/release/push-images.nix { }) "Push this architecture's images";
          attest-images = app (callPackage ./nix/release/attest-images.nix
            { }
          ) "Attest the SBOMs of this architecture's images";
          publish = app (callPackage ./nix/release/publish.nix {
            inherit imagesOf release-chart;
          }) "Publish this version: indexes of the pushed images, and the chart";
          verify = app (callPackage ./nix/release/verify.nix {
            inherit release-chart;
          }) "Compare what a registry serves with what this source builds";
          probe = app (callPackage ./nix/probe.nix
            { }
          ) "Exercise the API at a URL, as far as it is switched on";
        }
      );

      checks = forAllSystems (
        system:
        let
          # callPackage adds attributes that a flake would take for checks, but that are no derivations.
          checksOf =
            file:
            removeAttrs (callPackageFor system file { }) [
              "override"
              "overrideDerivation"
            ];
        in
        checksOf ./nix/checks.nix
        // lib.optionalAttrs (lib.hasSuffix "-linux" system) (checksOf ./nix/images/checks.nix)
      );

      devShells = forAllSystems (system: {
        default = callPackageFor system ./nix/dev-shell.nix { };
      });

      formatter = forAllSystems (system: nixpkgs.legacyPackages.${system}.nixfmt-tree);
    };
}
