{
  lib,
  bash,
  callPackage,
  coreutils,
  dockerTools,
  fakeNss,
  findutils,
  glibcLocales,
  nss_wrapper,
  postgresql_16,
  writeShellApplication,
}:

let
  # The official image's locale, so that text sorts the same.
  locales = glibcLocales.override {
    allLocales = false;
    locales = [ "en_US.UTF-8/UTF-8" ];
  };

  entrypoint = writeShellApplication {
    name = "postgresql-entrypoint";
    text = builtins.readFile ./postgresql-entrypoint.sh;
  };
in
dockerTools.buildLayeredImage {
  name = "wiki-postgresql";

  contents = [
    (fakeNss.override {
      extraPasswdLines = [ "postgres:x:999:999:PostgreSQL:/var/lib/postgresql:/bin/sh" ];
      extraGroupLines = [ "postgres:x:999:" ];
    })
  ];

  extraCommands = ''
    mkdir bin
    ln -s ${lib.getExe bash} bin/sh
  '';
  fakeRootCommands = ''
    mkdir -p run/postgresql var/lib/postgresql/data
    ln -s /run var/run
    chown -R 999:999 run/postgresql var/lib/postgresql
    # A tmpfs mounted there inherits the mode.
    chmod 3777 run/postgresql
    mkdir -m 1777 tmp
  '';

  config = {
    Entrypoint = [ (lib.getExe entrypoint) ];
    Cmd = [ "postgres" ];
    User = "999:999";
    Env = [
      "PATH=${
        lib.makeBinPath [
          postgresql_16
          bash
          coreutils
          findutils
        ]
      }"
      "PGDATA=/var/lib/postgresql/data"
      "LANG=en_US.utf8"
      "LOCALE_ARCHIVE=${locales}/lib/locale/locale-archive"
      "LIBNSS_WRAPPER=${nss_wrapper}/lib/libnss_wrapper.so"
    ];
    ExposedPorts."5432/tcp" = { };
    Volumes."/var/lib/postgresql/data" = { };
    # Fast shutdown: ends sessions instead of waiting for them.
    StopSignal = "SIGINT";
    Labels = callPackage ./labels.nix { } {
      title = "PostgreSQL";
      version = postgresql_16.version;
      licenses = "PostgreSQL";
    };
  };
}
