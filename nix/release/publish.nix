{
  lib,
  coreutils,
  gnugrep,
  kubernetes-helm,
  regclient,
  release-chart,
  writeShellApplication,
  wiki-service,
  imagesOf,
}:

let
  inherit (wiki-service) version;
  amd64 = imagesOf "x86_64-linux";
  arm64 = imagesOf "aarch64-linux";
in
writeShellApplication {
  name = "publish";
  runtimeInputs = [
    coreutils
    gnugrep
    kubernetes-helm
    regclient
    release-chart
  ];
  text = ''
    repository=''${1:?give where the images of both architectures were pushed to, such as ghcr.io/OWNER/NAME}
    cd "$(mktemp -d)"
    trap 'rm -r "$PWD"' EXIT

    while read -r name amd64 arm64; do
      image=$repository/$name
      echo "Publishing $image:${version}" >&2
      digest=$(regctl index create "$image" --by-digest --ref "$image:$amd64" --ref "$image:$arm64")
      tags=$(regctl tag ls "$image")
      if grep --quiet --line-regexp --fixed-strings ${version} <<<"$tags"; then
        served=$(regctl manifest head "$image:${version}")
        if [ "$served" != "$digest" ]; then
          echo "$image:${version} already exists, as $served, but this would be $digest: a version is published only once, so change the version in Cargo.toml" >&2
          exit 1
        fi
      fi
      regctl image copy "$image@$digest" "$image:${version}" >&2
      echo "$image@$digest"
    done <<'END'
    ${lib.concatMapAttrsStringSep "\n" (
      name: image: "${image.imageName} ${image.imageTag} ${arm64.${name}.imageTag}"
    ) amd64}
    END

    if ! regctl manifest head "$repository/wiki:${version}" >/dev/null 2>&1; then
      release-chart "$repository" >wiki-${version}.tgz
      helm push wiki-${version}.tgz "oci://$repository" >&2
    fi
    echo "$repository/wiki@$(regctl manifest head "$repository/wiki:${version}")"
  '';
}
