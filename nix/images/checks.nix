# Checks each image's contract by reading its archive, without a container runtime.
{
  lib,
  grafana,
  grafanaPlugins,
  jq,
  runCommand,
  zstd,
  wiki-image,
  postgresql-image,
  prometheus-image,
  grafana-image,
  k3s-image,
  cluster-image,
}:

let
  # Reads an image without a runtime: $config is its configuration file, $files lists its files.
  imageContract =
    {
      image,
      user ? null,
      port ? null,
      megabytes,
      script,
    }:
    runCommand "${image.imageName}-contract"
      {
        nativeBuildInputs = [
          jq
          zstd
        ];
      }
      ''
        fail() {
          echo "${image.imageName}: $1" >&2
          exit 1
        }
        holds() {
          jq --exit-status "$1" "$config" >/dev/null || fail "not so: $1"
        }
        has_file() {
          grep --quiet --line-regexp --extended-regexp "$1" "$files"
        }

        mkdir image
        tar --extract --file ${image} --directory image
        config=image/$(jq --raw-output '.[0].Config' image/manifest.json)
        files=$PWD/files
        for layer in $(jq --raw-output '.[0].Layers[]' image/manifest.json); do
          tar --list --absolute-names --file "image/$layer" | sed -E 's,^\.?/?,/,'
        done >"$files"
        has_file "$(jq --raw-output '.config.Entrypoint[0]' "$config")" || fail "its entrypoint is missing"

        ${lib.optionalString (user != null) "holds '.config.User == \"${user}\"'"}
        ${lib.optionalString (port != null) "holds '.config.ExposedPorts | has(\"${port}/tcp\")'"}
        for label in licenses source version; do
          holds ".config.Labels | has(\"org.opencontainers.image.$label\")"
        done
        holds '.created | startswith("1970-01-01T00:00:01")'
        size=$(stat --dereference --format %s ${image})
        [ "$size" -le ${toString (megabytes * 1000000)} ] || fail "$size bytes compressed, more than ${toString megabytes} MB"
        ${script}
        touch $out
      '';
in
{
  wiki-image = imageContract {
    image = wiki-image;
    user = "65532:65532";
    port = "8000";
    megabytes = 25;
    script = ''
      holds '.config.Entrypoint[0] | endswith("/bin/wiki-service")'
      holds '.config.Labels."org.opencontainers.image.licenses" == "MIT OR Apache-2.0"'
      ! has_file '.*/(bash|sh|busybox|nix-store|apt|apk)' || fail "it has a shell or a package manager"
    '';
  };

  postgresql-image = imageContract {
    image = postgresql-image;
    user = "999:999";
    port = "5432";
    megabytes = 150;
    script = ''
      holds '.config.StopSignal == "SIGINT"'
      has_file '/nix/store/.*/bin/initdb' || fail "no initdb"
    '';
  };

  prometheus-image = imageContract {
    image = prometheus-image;
    user = "65534:65534";
    port = "9090";
    megabytes = 150;
    script = ''
      has_file /etc/prometheus/prometheus.yml || fail "no configuration"
    '';
  };

  grafana-image = imageContract {
    image = grafana-image;
    user = "472:472";
    port = "3000";
    megabytes = 300;
    script = ''
      holds '.config.Env | any(. == "GF_PLUGINS_PREINSTALL_DISABLED=true")'
      plugins=$(jq --raw-output '.config.Env[] | select(startswith("GF_PATHS_PLUGINS=")) | sub(".*="; "")' "$config")
      for file in ${
        if lib.versionAtLeast grafana.version "13.2" then
          ''"$plugins/prometheus" ${grafanaPlugins.prometheus}/plugin.json''
        else
          "${grafana}/share/grafana/public/app/plugins/datasource/prometheus/plugin.json"
      }; do
        has_file "$file" || fail "no Prometheus datasource: $file is missing"
      done
    '';
  };

  k3s-image = imageContract {
    image = k3s-image;
    megabytes = 250;
    script = ''
      # Needed by k3d's entrypoint scripts, and for looking into the node.
      for program in sh k3s kubectl ctr mount sed xargs touch date mkdir; do
        has_file "/bin/$program" || fail "no /bin/$program"
      done
      for path in /var/lib/rancher/k3s /var/lib/kubelet /var/lib/cni /var/log; do
        holds ".config.Volumes | has(\"$path\")"
      done
    '';
  };

  cluster-image = imageContract {
    image = cluster-image;
    port = "8080";
    megabytes = 1500;
    script = ''
      holds '.config.Volumes | has("/var/lib/docker")'
      holds '.config.Healthcheck.Test[2] == "health"'
      for image in postgresql-${postgresql-image.imageTag} service-${wiki-image.imageTag} \
        prometheus-${prometheus-image.imageTag} grafana-${grafana-image.imageTag}; do
        has_file "/usr/share/wiki-cluster/images/wiki-$image.tar.zst" || fail "no archive of wiki-$image"
      done
      has_file "/usr/share/wiki-cluster/node/wiki-k3s-${k3s-image.imageTag}.tar.zst" || fail "no archive of the node"
      ! has_file '/nix/store/.*/bin/(initdb|prometheus|grafana|wiki-service)' || fail "the content of an archive is included twice"
    '';
  };
}
