# PostgreSQL's own defaults are those of nixpkgs, except for two: the socket's folder, which the wrappers and the sample of the
# configuration set, and the locales, which Debian's C library finds by LOCPATH and that of nixpkgs by LOCALE_ARCHIVE.
{
  lib,
  bash,
  builders,
  machine,
}:

let
  inherit (builders) bundleBy bundleLibraries onMachine;

  postgresql =
    {
      version,
      # Copies everything into $out, and leaves the shell in the programs' folder.
      copy,
      ldd ? "ldd",
    }:
    bundleBy ldd "postgresql" "postgres" ''
      ${copy}
      for program in *; do
        cat >"$out/bin/$program" <<END
      #!${lib.getExe bash}
      export LOCPATH=\''${LOCALE_ARCHIVE%/*-archive} PGHOST=\''${PGHOST-/run/postgresql}
      exec $PWD/$program "\$@"
      END
      done
      chmod +x $out/bin/*
    ''
    // {
      inherit version;
    };
in
{
  # PostgreSQL's own, except for the languages that nixpkgs leaves out, too.
  postgresql_16 = postgresql {
    version = "16";
    copy = ''
      mkdir -p $out/lib $out/opt/lib
      cp -r /machine/postgresql-16/clients/bin $out/opt/
      cp --force /machine/postgresql-16/server/bin/* $out/opt/bin/
      cp -r /machine/postgresql-16/server/share $out/opt/
      cp -r /machine/postgresql-16/server/lib/postgresql $out/opt/lib/
      rm -rf $out/opt/lib/postgresql/{pgxs,*pl{perl,python3,tcl}.so}
      cp -d /machine/postgresql-16/clients/lib/libpq.so.* $out/lib/
      cp -d --no-clobber /machine/postgresql-16/server/lib/*.so.* $out/lib/
      echo "unix_socket_directories = '/run/postgresql'" >>$out/opt/share/postgresql/postgresql.conf.sample
      cd $out/opt/bin
    '';
  };

  # Trixie's, which a test fetches. Only its own loader can load its libraries.
  postgresql_17 = postgresql {
    version = "17";
    copy = ''
      cd /machine/postgresql-17/usr # ${machine.postgresql-17}
      cp -r --parents lib/postgresql/*/bin lib/postgresql/*/lib share/postgresql/* $out/
      rm -rf $out/lib/postgresql/*/lib/{bitcode,pgxs,llvmjit*}
      cd $out/lib/postgresql/*/bin
    '';
    ldd = "/machine/postgresql-17/usr/lib/*-linux-gnu/ld-linux-*.so.* --library-path $(echo /machine/postgresql-17/usr/lib/*-linux-gnu) --list";
  };

  glibcLocales =
    lib.makeOverridable
      (
        { allLocales, locales }:
        onMachine "glibc-locales" { inherit locales; } ''
          mkdir -p $out/lib/locale
          for locale in $locales; do
            name=''${locale%/*}
            localedef --inputfile "''${name%.*}" --charmap "''${locale#*/}" $out/lib/locale/''${name%.*}.utf8
          done
        ''
      )
      {
        allLocales = true;
        locales = [ ];
      };

  nss_wrapper = onMachine "nss_wrapper" { } ''
    mkdir -p $out/lib
    cp -L /usr/lib/*/libnss_wrapper.so $out/lib/
    ${bundleLibraries "ldd"}
  '';
}
