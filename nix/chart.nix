{
  lib,
  kubernetes-helm,
  runCommand,
  yq-go,
  wiki-image,
  postgresql-image,
  prometheus-image,
  grafana-image,
}:

let
  # What the chart calls them.
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
    helm package wiki

    # Packed anew, for helm writes the time of day into the archive.
    tar --extract --touch --file wiki-*.tgz --one-top-level=packed
    mkdir $out
    tar --create --sort=name --mtime=@$SOURCE_DATE_EPOCH --owner=0 --group=0 --numeric-owner --mode=u=rw,go=r,a+X \
      --directory=packed wiki | gzip --no-name >$out/$(basename wiki-*.tgz)
  ''
