"""The previous version, for what must hold between two versions."""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path

from support import nix, service
from support.cache import CACHE, turn
from support.service import ROOT

VERSION = "0.1.0"
COMMIT = "ecc2113"

PROGRAM = CACHE / f"wiki-service-{VERSION}" / "wiki-service"


class UnavailableError(Exception):
    """Why there is none."""


def sources(*paths: str) -> bytes:
    """An archive of them."""
    archive = ["git", "archive", COMMIT, *paths]
    found = subprocess.run(archive, cwd=ROOT, check=False, capture_output=True)
    if found.returncode:
        reason = f"no {VERSION}: commit {COMMIT} is not in this clone (git fetch --unshallow)"
        raise UnavailableError(reason)
    return found.stdout


def chart(folder: Path) -> Path:
    with tarfile.open(fileobj=BytesIO(sources("chart"))) as tar:
        tar.extractall(folder, filter="data")
    about = folder / "chart/Chart.yaml"
    # as it was packed for the release
    about.write_text(re.sub(r'(?<=ersion: )"?0\.0\.0"?', VERSION, about.read_text()))
    return folder / "chart"


def check_out(folder: Path) -> None:
    """Its flake, to be built with what stands in for nixpkgs today."""
    subprocess.run(["tar", "--extract"], cwd=folder, input=sources(), check=True)
    for name in ("nix/stand-in", "tests/nix"):
        shutil.rmtree(folder / name)
        shutil.copytree(ROOT / name, folder / name)
    (folder / "tests/.venv").symlink_to(ROOT / "tests/.venv")


def image(folder: Path) -> Path:
    """An archive of its image: the program, and this machine's libraries that it loads."""
    program = build()
    loaded = subprocess.run(["ldd", program], check=True, stdout=subprocess.PIPE, text=True).stdout
    layer = folder / "layer.tar"
    with tarfile.open(layer, "w") as tar:
        tar.add(program, "bin/wiki-service")
        for library in re.findall(r"/\S+", loaded):
            tar.add(Path(library).resolve(), library)
    config = {
        "architecture": {"aarch64": "arm64"}.get(platform.machine(), "amd64"),
        "os": "linux",
        "config": {"Entrypoint": ["/bin/wiki-service"], "User": "65532:65532"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(layer)}"]},
    }
    name = f"wiki-service:{VERSION}"
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": [layer.name]}]
    for path, content in (("config.json", config), ("manifest.json", manifest)):
        (folder / path).write_text(json.dumps(content))
    archive = folder / "wiki-service.tar"
    with tarfile.open(archive, "w") as tar:
        for path in ("manifest.json", "config.json", layer.name):
            tar.add(folder / path, path)
    return archive


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build() -> Path:
    """Builds it from its commit, once, reusing what this version has already compiled."""
    with turn("previous"):
        if not PROGRAM.exists():
            with tempfile.TemporaryDirectory() as directory:
                build_in(Path(directory))
    return PROGRAM


def build_in(directory: Path) -> None:
    archive = sources("Cargo.*", "rust-toolchain.toml", "src", "migration")
    source, target = directory / "source", directory / "target"
    source.mkdir()
    target.mkdir()
    subprocess.run(["tar", "--extract"], cwd=source, input=archive, check=True)
    add_todays_dependencies(source)
    command = ["cargo", "build", "--workspace", "--quiet", f"--target-dir={target}"]
    environment = dict(os.environ)
    if nix.gives_the_service() and not nix.REAL:
        profile = "release"
        subprocess.run(["cp", "-a", f"{nix.crates()}/.", target], check=True)
        subprocess.run(["chmod", "-R", "u+w", target], check=True)
        # As in the stand-in's builds, or cargo would compile them once more.
        command += ["--release", f"--config={ROOT / 'nix/stand-in/cargo.toml'}"]
        environment["SOURCE_DATE_EPOCH"] = "315532800"
    else:
        profile = "debug"
        service.build()
        subprocess.run(["cp", "-a", "--link", ROOT / "target/debug", target], check=False)
        # Or nobody could build in the other folder meanwhile.
        for lock in target.glob("debug/.cargo*lock"):
            lock.unlink()
    subprocess.run(command, cwd=source, env=environment, check=True)
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(target / profile / "wiki-service", PROGRAM)


def add_todays_dependencies(source: Path) -> None:
    """In an empty package of its workspace. Otherwise its crates, of the same versions, would have
    fewer features and be compiled once more, which takes minutes."""
    today = (ROOT / "Cargo.toml").read_text()
    package, profile = re.findall(
        r"^\[package\].*?(?=^\[profile)|^\[profile\.dev.*", today, re.M | re.S
    )
    member = source / "today"
    (member / "src").mkdir(parents=True)
    (member / "src/lib.rs").touch()
    package = package.replace('"wiki-service"', '"today"').replace('"migration"', '"../migration"')
    (member / "Cargo.toml").write_text(package)
    manifest = source / "Cargo.toml"
    theirs = manifest.read_text().replace('["migration"]', '["migration", "today"]')
    manifest.write_text(theirs.partition("[profile.dev]")[0] + profile)
    # Where both have a package, each with a version of its own, each gets its own.
    heading, own = locked(source)
    (source / "Cargo.lock").write_text("\n\n".join([heading, *(own | locked(ROOT)[1]).values()]))


def locked(folder: Path) -> tuple[str, dict[tuple[str, ...], str]]:
    """The heading of its Cargo.lock, and its packages by name and version."""
    heading, *packages = (folder / "Cargo.lock").read_text().strip().split("\n\n")
    return heading, {tuple(each.splitlines()[1:3]): each for each in packages}
