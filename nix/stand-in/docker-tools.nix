{
  lib,
  runCommand,
  stdenv,
}:

rec {
  streamLayeredImage =
    {
      name,
      contents ? [ ],
      config ? { },
      created ? "1970-01-01T00:00:01Z",
      maxLayers ? 100,
      extraCommands ? "",
      fakeRootCommands ? "",
    }:
    let
      baseJson = runCommand "${name}-base.json" {
        json = builtins.toJSON {
          inherit config created;
          os = "linux";
          architecture =
            {
              x86_64-linux = "amd64";
              aarch64-linux = "arm64";
            }
            .${stdenv.hostPlatform.system};
        };
        passAsFile = [ "json" ];
      } "cp $jsonPath $out";

      customisationLayer =
        runCommand "${name}-customisation-layer" { inherit contents extraCommands fakeRootCommands; }
          ''
            mkdir root
            # As with lndir in nixpkgs, of two files with one name the first is taken.
            for content in $contents; do
              (cd "$content" && find . -type d -exec mkdir -p "$OLDPWD/root/{}" \;)
              (cd "$content" && find . ! -type d -exec ln -s "$content/{}" "$OLDPWD/root/{}" \;) 2>/dev/null || true
            done
            cd root
            eval "$extraCommands"
            mkdir $out
            # Without the patch of nixpkgs' fakeroot, chown fails where the sandbox has no such user.
            FAKEROOTDONTTRYCHOWN=1 fakeroot bash -euc '
              eval "$fakeRootCommands"
              tar --sort name --numeric-owner --mtime "@$SOURCE_DATE_EPOCH" --hard-dereference -cf $out/layer.tar .
            '
          '';

      conf =
        runCommand "${name}-conf.json"
          {
            inherit baseJson customisationLayer maxLayers;
            imageName = lib.toLower name;
            exportReferencesGraph = [
              "base"
              baseJson
              "customisation"
              customisationLayer
            ];
            passthru.imageTag = builtins.head (
              lib.splitString "-" (baseNameOf (builtins.unsafeDiscardStringContext conf.outPath))
            );
          }
          ''
            python3 ${./image.py} configure
          '';
    in
    runCommand "stream-${name}"
      {
        inherit (conf) imageName;
        passthru = {
          inherit (conf) imageTag;
        };
      }
      ''
        printf '#!/bin/sh\nexec python3 %s stream %s\n' ${./image.py} ${conf} >$out
        chmod +x $out
      '';

  buildLayeredImage =
    {
      compressor ? "gz",
      ...
    }@args:
    let
      stream = streamLayeredImage (removeAttrs args [ "compressor" ]);
      compress =
        {
          none = "cat";
          gz = "gzip -n";
          zstd = "zstd -T0";
        }
        .${compressor};
    in
    runCommand "${args.name}.tar.${compressor}" {
      inherit (stream) imageName;
      passthru = {
        inherit (stream) imageTag;
        inherit stream;
      };
    } "${stream} | ${compress} >$out";

  caCertificates = runCommand "ca-certificates" { } ''
    mkdir -p $out/etc/ssl/certs
    touch $out/etc/ssl/certs/ca-bundle.crt
  '';
}
