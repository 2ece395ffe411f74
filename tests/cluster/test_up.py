"""`nix run .#up` and `.#down`, with a test double of docker where docker itself cannot show it."""

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from support.nix import SYSTEM, Nix

pytestmark = pytest.mark.timeout(1800)  # the first build of all images

# The container's image, empty if there is no container, and the error of its start.
DOCKER = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
  *Config.Image*) [ -n "$CONTAINER" ] && echo "$CONTAINER" ;;
  "container inspect wiki-cluster") [ -n "$CONTAINER" ] ;;
  *State.StartedAt*) echo 2026-01-01T00:00:00.5Z ;;
  *State.Running*) echo "${RUNNING:-true}" ;;
  "logs "*) [ -z "$RUNNING" ] && echo "Ready after 3 s:" ;;
  "start "*) [ -z "$START_ERROR" ] || { echo "$START_ERROR" >&2; exit 1; } ;;
esac
"""


class Commands:
    def __init__(self, programs: dict[str, str], folder: Path):
        self._programs = programs
        self._folder = folder
        docker = folder / "docker"
        docker.write_text(DOCKER)
        docker.chmod(0o755)

    def run(
        self, name: str, *arguments: str, wrapper: tuple[str, ...] = (), **environment: str
    ) -> subprocess.CompletedProcess[str]:
        own = {"PATH": f"{self._folder}:{os.environ['PATH']}", "CALLS": f"{self._folder}/calls"}
        return subprocess.run(
            [*wrapper, self._programs[name], *arguments],
            env=own | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=60,
        )

    def refuse(self, name: str, *arguments: str, **options: str) -> str:
        done = self.run(name, *arguments, **options)
        assert done.returncode == 1, done.stdout
        return done.stdout.splitlines()[-1]

    @property
    def calls(self) -> list[str]:
        return (self._folder / "calls").read_text().splitlines()


@pytest.fixture(scope="module")
def programs(nix: Nix) -> dict[str, str]:
    programs = {name: nix.evaluate(f"apps.{SYSTEM}.{name}.program") for name in ("up", "down")}
    for name, program in programs.items():
        built = nix.run("run", f".#{name}", "--", "nonsense")
        assert f"{name}: it accepts " in built.stderr
        assert Path(program).exists()
    return programs


@pytest.fixture(scope="module")
def image(nix: Nix) -> str:
    name = 'image: "${image.imageName}:${image.imageTag}"'
    return str(nix.evaluate("cluster-image", name))


@pytest.fixture
def commands(programs: dict[str, str], tmp_path: Path) -> Commands:
    return Commands(programs, tmp_path)


@pytest.mark.parametrize("name", ["up", "down"])
def test_no_docker(commands: Commands, tmp_path: Path, name: str) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{name}: there is no docker on PATH" in commands.refuse(name, PATH=str(empty))


@pytest.mark.skipif(
    not shutil.which("docker"), reason="no docker, whose own error message is tested"
)
@pytest.mark.parametrize("name", ["up", "down"])
def test_a_docker_that_does_not_answer(commands: Commands, name: str) -> None:
    real = {"PATH": os.environ["PATH"]}
    line = commands.refuse(name, DOCKER_HOST="unix:///no/such.sock", **real)
    assert line.startswith(f"{name}: Docker does not answer, start it: ")


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user requires root")
@pytest.mark.skipif(
    not shutil.which("docker"), reason="no docker, whose own error message is tested"
)
@pytest.mark.parametrize("name", ["up", "down"])
def test_no_permission_on_the_socket(commands: Commands, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        path = Path(folder) / "docker.sock"
        server.bind(str(path))
        server.listen()
        path.parent.chmod(0o755)
        path.chmod(0o600)
        done = commands.run(
            name,
            wrapper=("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
            PATH=os.environ["PATH"],
            HOME=folder,
            DOCKER_HOST=f"unix://{path}",
        )
    assert done.returncode == 1
    wanted = f"{name}: no permission on Docker's socket: join the group docker, or run this as root"
    assert done.stdout.splitlines() == [wanted]


def test_a_new_container(commands: Commands, image: str) -> None:
    done = commands.run("up")
    assert done.returncode == 0, done.stdout
    assert "Ready after 3 s:" in done.stdout
    (create,) = [call for call in commands.calls if call.startswith("create ")]
    assert create.endswith(image)
    assert "--volume wiki-cluster:/var/lib/docker" in create
    assert "--env K3S_ARGS --env DOCKER_ADDRESS_POOL" in create
    assert ("--volume /dev/mapper:/dev/mapper" in create) == Path("/dev/mapper").is_dir()
    assert "start wiki-cluster" in commands.calls


@pytest.mark.parametrize("address", ["", "0.0.0.0", "192.0.2.7"])
def test_it_is_open_to_this_machine_alone_unless_told(commands: Commands, address: str) -> None:
    assert commands.run("up", PUBLISH_ADDRESS=address).returncode == 0
    (create,) = [call for call in commands.calls if call.startswith("create ")]
    assert f"--publish {address or '127.0.0.1'}:8080:8080 " in create


def test_again(commands: Commands, image: str) -> None:
    assert commands.run("up", CONTAINER=image).returncode == 0
    assert not any(call.startswith("create ") for call in commands.calls)


def test_an_older_container(commands: Commands) -> None:
    line = commands.refuse("up", CONTAINER="wiki-cluster:old")
    assert line.startswith("up: the container wiki-cluster has another version, wiki-cluster:old")
    assert "start wiki-cluster" not in commands.calls


@pytest.mark.parametrize(
    "error",
    [
        "Bind for 0.0.0.0:8080 failed: port is already allocated",
        "listen tcp4 0.0.0.0:8080: bind: address already in use",
    ],
)
def test_a_taken_port(commands: Commands, error: str) -> None:
    line = commands.refuse("up", START_ERROR=f"Error response from daemon: {error}.")
    assert line == "up: port 8080 is taken: stop what is listening there, and run this again"


def test_a_container_that_ends(commands: Commands) -> None:
    assert commands.refuse("up", RUNNING="false").startswith("up: it did not start")


def test_values_that_are_not_there(commands: Commands) -> None:
    line = commands.refuse("up", WIKI_VALUES="/no/such.yaml")
    assert line == "up: WIKI_VALUES=/no/such.yaml: there is no such file"


def test_down_keeps_the_data(commands: Commands, image: str) -> None:
    done = commands.run("down", CONTAINER=image)
    assert done.returncode == 0, done.stdout
    assert "The data stays in the volume wiki-cluster" in done.stdout
    assert "rm wiki-cluster" in commands.calls
    assert not any(call.startswith("volume ") for call in commands.calls)


@pytest.mark.parametrize("container", ["", "wiki-cluster:old"])
def test_purge(commands: Commands, container: str) -> None:
    done = commands.run("down", "--purge", CONTAINER=container)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "The data is deleted."
    assert "volume rm --force wiki-cluster" in commands.calls
    assert ("rm wiki-cluster" in commands.calls) == bool(container)
