{
  lib,
  callPackage,
  dockerTools,
  wiki-service,
}:

dockerTools.buildLayeredImage {
  name = "wiki-service";

  # For the SQLite file, unless DATABASE_URL says otherwise.
  fakeRootCommands = ''
    mkdir data
    chown 65532:65532 data
  '';

  config = {
    Entrypoint = [ (lib.getExe wiki-service) ];
    User = "65532:65532";
    Env = [ "LISTEN_ADDRESS=::" ];
    ExposedPorts."8000/tcp" = { };
    WorkingDir = "/data";
    Volumes."/data" = { };
    Healthcheck.Test = [
      "CMD"
      (lib.getExe wiki-service)
      "healthcheck"
    ];
    Labels = callPackage ./labels.nix { } {
      title = wiki-service.pname;
      description = wiki-service.meta.description;
      version = wiki-service.version;
      licenses = lib.concatMapStringsSep " OR " (license: license.spdxId) wiki-service.meta.license;
    };
  };
}
