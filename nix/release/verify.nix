{
  coreutils,
  diffutils,
  kubernetes-helm,
  regclient,
  release-chart,
  release-images,
  stdenv,
  writeShellApplication,
  wiki-service,
}:

let
  inherit (wiki-service) version;
  platform = "linux/${if stdenv.hostPlatform.isAarch64 then "arm64" else "amd64"}";
in
writeShellApplication {
  name = "verify";
  runtimeInputs = [
    coreutils
    diffutils
    kubernetes-helm
    regclient
    release-chart
  ];
  text = ''
    repository=''${1:?give the repository to compare with this source, such as ghcr.io/OWNER/NAME}
    cd "$(mktemp -d)"
    trap 'rm -r "$PWD"' EXIT

    differs=0
    for image in ${release-images}/*; do
      name=$(basename "$image"):${version}
      source=$(cat "$image/digest")
      served=$(regctl manifest head --platform ${platform} "$repository/$name")
      if [ "$served" = "$source" ]; then
        echo "same     $name for ${platform}: $source"
      else
        echo "differs  $name for ${platform}: the source builds $source, the registry serves $served"
        differs=1
      fi
    done

    release-chart "$repository" >source.tgz
    helm pull "oci://$repository/wiki" --version ${version} >/dev/null
    if cmp source.tgz wiki-${version}.tgz; then
      echo "same     chart wiki ${version}"
    else
      echo "differs  chart wiki ${version}"
      differs=1
    fi
    exit "$differs"
  '';
}
