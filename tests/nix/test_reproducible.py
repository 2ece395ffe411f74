"""The same bytes at another time, in another folder and another store."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from support import helm
from support.cache import CACHE
from support.nix import ARTEFACTS, REAL, SYSTEM, Nix


def digest(path: Path) -> str:
    """The hash of a file, or of the files in a folder with their names."""
    hashed = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        hashed.update(file.name.encode() + b"\0" + (file.read_bytes() if file.is_file() else b""))
    return hashed.hexdigest()


@pytest.mark.timeout(1800)
def test_a_second_build_is_the_same(nix: Nix, checkout: Nix, tmp_path: Path) -> None:
    first = nix.build(*ARTEFACTS)
    if REAL:
        # Another store would have to start with the compiler: so it is rebuilt in the same store.
        assert checkout.build(*ARTEFACTS, options=("--rebuild",)) == first
        return
    # Only the crates come from the first store, since they take minutes.
    store = tmp_path / "store"
    crates = nix.build(
        *(f"checks.{SYSTEM}.{check}.cargoDeps" for check in ("clippy", "cluster-clippy"))
    )
    nix.output("copy", "--no-check-sigs", "--to", str(store), *map(str, crates))
    try:
        second = checkout.build(*ARTEFACTS, options=("--store", str(store)))
        for artefact, one, other in zip(ARTEFACTS, first, second, strict=True):
            assert one == other
            assert digest(one) == digest(store / other.relative_to("/")), artefact
    finally:
        subprocess.run(["chmod", "-R", "u+w", store], check=True)
        shutil.rmtree(store)


@pytest.mark.skipif(bool(REAL), reason="only the stand-in uses the machine's programs")
@pytest.mark.parametrize(
    ("image", "program"),
    [
        ("prometheus-image", helm.path("prometheus3")),
        ("postgresql-image", next(CACHE.glob("postgresql-16.15/server/bin/postgres"), CACHE)),
    ],
    ids=["prometheus", "postgresql"],
)
def test_another_build_of_a_program_is_another_path(nix: Nix, image: str, program: Path) -> None:
    """Otherwise a store would keep what was built from the old program."""
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        cache = Path(directory) / CACHE.name
        folder, *below = program.relative_to(CACHE).parts
        (cache / "stand-in").mkdir(parents=True)
        for entry in [*CACHE.glob("*-*"), *CACHE.glob("stand-in/fetched-*")]:
            if entry.name not in (folder, "stand-in"):
                (cache / entry.relative_to(CACHE)).symlink_to(entry)
        # Linked, not copied, so that their timestamps are the same.
        shutil.copytree(CACHE / folder, cache / folder, symlinks=True, copy_function=os.link)

        def path() -> str:
            return nix.output(
                *("eval", "--raw", f".#packages.{SYSTEM}.{image}.outPath"),
                environment={"XDG_CACHE_HOME": directory},
            )

        before = path()
        assert before == nix.evaluate(f"packages.{SYSTEM}.{image}.outPath")
        changed = cache.joinpath(folder, *below)
        changed.unlink()
        changed.write_text("#!/bin/sh\n")
        changed.chmod(0o755)
        assert path() != before
