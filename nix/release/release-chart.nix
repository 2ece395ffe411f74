# Writes the chart that names this version's images by their digests in a registry.
{
  chart,
  coreutils,
  gnutar,
  gzip,
  regclient,
  writeShellApplication,
  wiki-service,
  yq-go,
}:

writeShellApplication {
  name = "release-chart";
  runtimeInputs = [
    coreutils
    gnutar
    gzip
    regclient
    yq-go
  ];
  text = ''
    repository=$1
    work=$(mktemp -d)
    trap 'rm -r "$work"' EXIT
    tar --extract --file ${chart}/wiki-*.tgz --directory "$work"
    for component in api postgresql prometheus grafana; do
      name=$(yq ".$component.image.repository" "$work/wiki/values.yaml")
      digest=$(regctl manifest head --require-list "$repository/$name:${wiki-service.version}")
      image="{\"repository\": \"$repository/$name\", \"tag\": \"${wiki-service.version}\", \"digest\": \"$digest\"}"
      yq --inplace ".$component.image = $image" "$work/wiki/values.yaml"
    done
    bash ${../pack-chart.sh} "$work/wiki"
  '';
}
