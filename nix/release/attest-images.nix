{
  cosign,
  release-images,
  writeShellApplication,
}:

writeShellApplication {
  name = "attest-images";
  runtimeInputs = [ cosign ];
  text = ''
    repository=''${1:?give where the images were pushed to, such as ghcr.io/OWNER/NAME}
    for image in ${release-images}/*; do
      cosign attest --yes --type cyclonedx --predicate "$image/sbom.cdx.json" \
        "$repository/$(basename "$image")@$(cat "$image/digest")"
    done
  '';
}
