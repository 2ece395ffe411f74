{
  release-images,
  skopeo,
  writeShellApplication,
}:

writeShellApplication {
  name = "push-images";
  runtimeInputs = [ skopeo ];
  text = ''
    repository=''${1:?give where to push to, such as ghcr.io/OWNER/NAME}
    for image in ${release-images}/*; do
      target=$repository/$(basename "$image"):$(cat "$image/tag")
      echo "Pushing $target" >&2
      skopeo --insecure-policy copy --preserve-digests "oci:$image/oci" "docker://$target" >&2
      echo "$repository/$(basename "$image")@$(cat "$image/digest")"
    done
  '';
}
