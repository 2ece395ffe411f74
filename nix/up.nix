# `nix run .#up`: starts the cluster image in the local Docker.
{
  stdenv,
  writeShellApplication,
  cluster-image,
}:

let
  # A stream is a program for the machine that builds it, which for macOS is a different one.
  load =
    if stdenv.hostPlatform.isLinux then
      "${cluster-image.stream} | docker load"
    else
      "docker load --input ${cluster-image}";
in
writeShellApplication {
  name = "wiki-cluster-up";
  text = ''
    image=${cluster-image.imageName}:${cluster-image.imageTag}
    fail() {
      echo "up: $1" >&2
      exit 1
    }
    ask() { docker container inspect --format "{{.$1}}" wiki-cluster 2>/dev/null; }

    [ $# = 0 ] || fail "it accepts no arguments; set the environment variables PUBLISH_ADDRESS, WIKI_VALUES, GRAFANA_ADMIN_PASSWORD, K3S_ARGS and DOCKER_ADDRESS_POOL instead"
    command -v docker >/dev/null || fail "there is no docker on PATH: install Docker"
    error=$(docker version --format '{{.Server.Version}}' 2>&1 >/dev/null) || case $error in
      *"permission denied"*) fail "no permission on Docker's socket: join the group docker, or run this as root" ;;
      *) fail "Docker does not answer, start it: $error" ;;
    esac

    if other=$(ask Config.Image) && [ "$other" != "$image" ]; then
      fail "the container wiki-cluster has another version, $other: run \`nix run .#down\`, which keeps the data, and then this again"
    fi
    if ! docker image inspect "$image" >/dev/null 2>&1; then
      echo "Loading $image"
      ${load} >/dev/null
    fi
    if [ -z "$other" ]; then
      options=(--env GRAFANA_ADMIN_PASSWORD --env K3S_ARGS --env DOCKER_ADDRESS_POOL)
      # The kubelet looks for a btrfs' device by these names.
      [ ! -d /dev/mapper ] || options+=(--volume /dev/mapper:/dev/mapper)
      if [ -n "''${WIKI_VALUES:-}" ]; then
        [ -f "$WIKI_VALUES" ] || fail "WIKI_VALUES=$WIKI_VALUES: there is no such file"
        options+=(--env WIKI_VALUES=/values.yaml --volume "$(realpath "$WIKI_VALUES"):/values.yaml:ro")
      else
        options+=(--env WIKI_VALUES)
      fi
      docker create --privileged --name wiki-cluster --publish "''${PUBLISH_ADDRESS:-127.0.0.1}:8080:8080" --volume wiki-cluster:/var/lib/docker \
        "''${options[@]}" "$image" >/dev/null
    elif [ -n "''${PUBLISH_ADDRESS:-}''${WIKI_VALUES:-}''${GRAFANA_ADMIN_PASSWORD:-}''${K3S_ARGS:-}''${DOCKER_ADDRESS_POOL:-}" ]; then
      echo "The container already exists, with the variables it was created with: to change them, run \`nix run .#down\` first" >&2
    fi
    error=$(docker start wiki-cluster 2>&1 >/dev/null) || case $error in
      *"already allocated"* | *"already in use"*) fail "port 8080 is taken: stop what is listening there, and run this again" ;;
      *) fail "$error" ;;
    esac

    # Without the fraction of a second: the first lines may be older than the start time that Docker records.
    started=$(ask State.StartedAt)
    started=''${started%.*}Z
    docker logs --follow --since "$started" wiki-cluster &
    follower=$!
    trap 'kill $follower 2>/dev/null || true' EXIT
    until docker logs --since "$started" wiki-cluster 2>&1 | grep '^Ready after' >/dev/null; do
      if [ "$(ask State.Running)" != true ]; then
        sleep 1 # for the last lines
        fail "it did not start; \`nix run .#down\` removes what is left and keeps the data"
      fi
      sleep 1
    done
    sleep 1
  '';
}
