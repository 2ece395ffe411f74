{
  lib,
  kubernetes-helm,
  runCommand,
  yq-go,
  wiki-service,
  wiki-image,
  postgresql-image,
  prometheus-image,
  grafana-image,
}:

let
  # Their names in the chart.
  images = {
    api = wiki-image;
    postgresql = postgresql-image;
    prometheus = prometheus-image;
    grafana = grafana-image;
  };
  naming = lib.concatMapAttrsStringSep " | " (
    component: image:
    ''.${component}.image = {"repository": "${image.imageName}", "tag": "${image.imageTag}", "digest": ""}''
  ) images;
in
runCommand "wiki-chart"
  {
    src = ../chart;
    nativeBuildInputs = [
      kubernetes-helm
      yq-go
    ];
    inherit naming;
  }
  ''
    cp -r "$src" wiki
    chmod -R u+w wiki
    yq --inplace "$naming" wiki/values.yaml
    helm lint --strict wiki
    helm package --version ${wiki-service.version} --app-version ${wiki-service.version} wiki

    # Repacked, since helm writes the current time into the archive.
    tar --extract --file wiki-*.tgz --one-top-level=packed
    mkdir $out
    bash ${./pack-chart.sh} packed/wiki >$out/$(basename wiki-*.tgz)
  ''
