# What a release pushes, as files: for each image its OCI layout, digest, tag, and SBOM (CycloneDX).
# Compressed here and not while pushing, so that anyone knows the digest beforehand.
{
  lib,
  callPackage,
  jq,
  linkFarm,
  runCommand,
  skopeo,
  wiki-service,
  images,
}:

let
  # The crates that are compiled into our programs.
  programs = [
    {
      path = baseNameOf wiki-service.outPath;
      crates = (lib.importTOML ../../Cargo.lock).package;
    }
    {
      path = baseNameOf (callPackage ../wiki-cluster.nix { }).outPath;
      crates = (lib.importTOML ../../cluster/Cargo.lock).package;
    }
  ];

  release =
    image:
    runCommand "${image.imageName}-release"
      {
        nativeBuildInputs = [
          jq
          skopeo
        ];
        inherit (image) imageName imageTag stream;
        programs = builtins.toJSON programs;
        passAsFile = [ "programs" ];
      }
      ''
        mkdir $out
        "$stream" >image.tar
        skopeo --insecure-policy --tmpdir "$TMPDIR" copy --quiet docker-archive:image.tar "oci:$out/oci:$imageTag"
        jq --raw-output '.manifests[0].digest' $out/oci/index.json >$out/digest
        echo "$imageTag" >$out/tag

        blob() {
          echo "$out/oci/blobs/''${1/://}"
        }
        for layer in $(jq --raw-output '.layers[].digest' "$(blob "$(cat $out/digest)")"); do
          tar --list --absolute-names --gzip --file "$(blob "$layer")"
        done | sed -nE 's,^(\.?/)?nix/store/([^/]+)/?$,\2,p' | sort -u >paths
        if [ ! -s paths ]; then
          echo "$imageName: its layers contain no store path, so its SBOM would be empty" >&2
          exit 1
        fi
        jq --raw-input --null-input --arg name "$imageName" --arg tag "$imageTag" \
          --slurpfile programs "$programsPath" --from-file ${./sbom.jq} <paths >$out/sbom.cdx.json
      '';
in
linkFarm "wiki-release-images" (
  lib.mapAttrs' (_: image: lib.nameValuePair image.imageName (release image)) images
)
