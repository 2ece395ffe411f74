"""The same bytes at another time, in another folder and another store."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from support.nix import REAL, Nix

ARTEFACTS = [
    "wiki-image",
    "postgresql-image",
    "prometheus-image",
    "grafana-image",
    "k3s-image",
    "cluster-image",
    "chart",
]


def digest(path: Path) -> str:
    """Of a file, or of the files in a folder with their names."""
    hashed = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        hashed.update(file.name.encode() + b"\0" + (file.read_bytes() if file.is_file() else b""))
    return hashed.hexdigest()


@pytest.mark.timeout(1800)
def test_a_second_build_is_the_same(nix: Nix, checkout: Nix, tmp_path: Path) -> None:
    first = nix.build(*ARTEFACTS)
    if REAL:
        # Another store would begin with the compiler: it is built again beside what is there.
        assert checkout.build(*ARTEFACTS, options=("--rebuild",)) == first
        return
    # The crates alone come from the first store, for they take minutes.
    store = tmp_path / "store"
    crates = nix.build("wiki-service.cargoDeps")
    nix.output("copy", "--no-check-sigs", "--to", str(store), *map(str, crates))
    try:
        second = checkout.build(*ARTEFACTS, options=("--store", str(store)))
        for artefact, one, other in zip(ARTEFACTS, first, second, strict=True):
            assert one == other
            assert digest(one) == digest(store / other.relative_to("/")), artefact
    finally:
        subprocess.run(["chmod", "-R", "u+w", store], check=True)
        shutil.rmtree(store)
