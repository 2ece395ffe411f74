# `nix run .#down`: stops and removes the container; with --purge also its data.
{ writeShellApplication }:

writeShellApplication {
  name = "wiki-cluster-down";
  text = ''
    fail() {
      echo "down: $1" >&2
      exit 1
    }

    [ $# = 0 ] || [ "$*" = --purge ] || fail "it accepts only --purge, which deletes the data"
    command -v docker >/dev/null || fail "there is no docker on PATH"
    error=$(docker version 2>&1 >/dev/null) || case $error in
      *"permission denied"*) fail "no permission on Docker's socket: join the group docker, or run this as root" ;;
      *) fail "Docker does not answer, start it: $error" ;;
    esac

    if docker container inspect wiki-cluster >/dev/null 2>&1; then
      docker stop wiki-cluster >/dev/null
      docker rm wiki-cluster >/dev/null
      echo "The container is removed."
    else
      echo "There is no container."
    fi
    if [ "$*" = --purge ]; then
      docker volume rm --force wiki-cluster >/dev/null
      echo "The data is deleted."
    else
      echo "The data stays in the volume wiki-cluster; \`nix run .#down -- --purge\` deletes it."
    fi
  '';
}
