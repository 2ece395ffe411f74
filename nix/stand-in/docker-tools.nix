{
  lib,
  system,
  fakeroot,
  onMachine,
  runCommand,
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
      baseJson = onMachine "${name}-base.json" {
        json = builtins.toJSON {
          inherit config;
          os = "linux";
          architecture =
            {
              x86_64-linux = "amd64";
              aarch64-linux = "arm64";
            }
            .${system};
        };
        passAsFile = [ "json" ];
      } "cp $jsonPath $out";

      customisationLayer =
        runCommand "${name}-customisation-layer"
          {
            inherit contents extraCommands fakeRootCommands;
            nativeBuildInputs = [ fakeroot ];
          }
          ''
            mkdir old_out
            # Like lndir: creates folders, copies links, links files, and of two with the same name takes the first.
            for content in $contents; do
              find "$content" -mindepth 1 -printf '%y %P\n' | while read -r type path; do
                if [ -e "old_out/$path" ] || [ -L "old_out/$path" ]; then
                  continue
                fi
                case $type in
                  d) mkdir "old_out/$path" ;;
                  l) cp --no-dereference "$content/$path" "old_out/$path" ;;
                  *) ln -s "$content/$path" "old_out/$path" ;;
                esac
              done
            done
            (cd old_out && eval "$extraCommands")
            mkdir $out
            # Without the patch of nixpkgs' fakeroot, chown fails where the sandbox has no such user.
            FAKEROOTDONTTRYCHOWN=1 fakeroot bash -euo pipefail -c '
              cd old_out
              eval "$fakeRootCommands"
              tar --sort name --numeric-owner --mtime "@$SOURCE_DATE_EPOCH" --hard-dereference -cf $out/layer.tar .
            '
          '';

      conf =
        onMachine "${name}-conf.json"
          {
            inherit
              baseJson
              created
              customisationLayer
              maxLayers
              ;
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
    onMachine "stream-${name}"
      {
        inherit (conf) imageName;
        passthru = {
          inherit (conf) imageTag;
        };
      }
      ''
        printf '#!/bin/sh\nexec /usr/bin/python3 %s stream %s\n' ${./image.py} ${conf} >$out
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
          gz = "gzip -n --fast";
          zstd = "zstd -T0";
        }
        .${compressor};
      extension =
        {
          none = "";
          gz = ".gz";
          zstd = ".zst";
        }
        .${compressor};
    in
    onMachine "${args.name}.tar${extension}" {
      inherit (stream) imageName;
      passthru = {
        inherit (stream) imageTag;
        inherit stream;
      };
    } "${stream} | ${compress} >$out";

  caCertificates = onMachine "ca-certificates" { } ''
    mkdir -p $out/etc/ssl/certs
    touch $out/etc/ssl/certs/ca-bundle.crt
  '';
}
