"""The flake's outputs, and that they depend only on their inputs."""

import json
import subprocess
from pathlib import Path

import pytest

from support.nix import ROOT, SYSTEM, Nix

IMAGES = [
    *("wiki-image", "postgresql-image", "prometheus-image", "grafana-image"),
    *("k3s-image", "cluster-image"),
]
APPS = {"default": "wiki-service", "up": "wiki-cluster-up", "down": "wiki-cluster-down"}
PACKAGES = {"default", "wiki-service", "chart", "release-images", *IMAGES}
LINUX = ["x86_64-linux", "aarch64-linux"]
DARWIN = ["x86_64-darwin", "aarch64-darwin"]


def test_the_outputs(nix: Nix) -> None:
    names = "builtins.mapAttrs (_: builtins.attrNames)"
    shown = {
        kind: nix.evaluate(kind, names) for kind in ("packages", "devShells", "apps", "checks")
    }
    for system in LINUX + DARWIN:
        assert set(shown["packages"][system]) == PACKAGES
        assert shown["devShells"][system] == ["default"]
        assert set(shown["apps"][system]) >= APPS.keys()
        assert shown["checks"][system]
    assert set(nix.evaluate("formatter", "builtins.attrNames")) == {*LINUX, *DARWIN}


def test_nix_takes_it_for_a_flake_on_every_system(nix: Nix) -> None:
    nix.output("flake", "check", "--all-systems", "--no-build")


@pytest.mark.parametrize("system", LINUX + DARWIN)
def test_every_output_evaluates(nix: Nix, system: str) -> None:
    for kind in ("packages", "checks", "devShells"):
        paths = nix.evaluate(f"{kind}.{system}", "builtins.mapAttrs (_: package: package.drvPath)")
        assert all(path.endswith(".drv") for path in paths.values())
    assert nix.evaluate(f"formatter.{system}.drvPath").endswith(".drv")
    for app, program in APPS.items():
        assert nix.evaluate(f"apps.{system}.{app}.program").endswith(f"/bin/{program}")


@pytest.mark.parametrize("image", IMAGES)
def test_macos_takes_the_images_of_linux(nix: Nix, image: str) -> None:
    linux = nix.evaluate(f"packages.aarch64-linux.{image}.drvPath")
    assert nix.evaluate(f"packages.aarch64-darwin.{image}.drvPath") == linux


def test_another_system_is_told_what_to_do(nix: Nix) -> None:
    result = nix.run("build", "--no-link", "--system", "riscv64-linux", ".#wiki-image")
    assert result.returncode
    assert result.stderr.splitlines()[-1].strip() == (
        "error: wiki-image cannot be built for riscv64-linux: "
        "use packages.x86_64-linux.wiki-image or packages.aarch64-linux.wiki-image"
    )


def derivation(nix: Nix) -> str:
    path: str = nix.evaluate(f"packages.{SYSTEM}.wiki-image.drvPath")
    return path


def test_only_the_source_changes_the_image(checkout: Nix) -> None:
    before = derivation(checkout)
    for name in ("README.md", "flake.nix", "cluster/src/main.rs", "tests/run.py"):
        with (checkout.flake / name).open("a") as file:
            file.write("\n# changed\n")
    assert derivation(checkout) == before, "a file that is not compiled changes the image"
    with (checkout.flake / "src/main.rs").open("a") as file:
        file.write("\n// changed\n")
    assert derivation(checkout) != before


def test_a_shallow_and_a_dirty_checkout(checkout: Nix, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    command = ["git", "clone", "--quiet", "--depth=1", f"file://{checkout.flake}", clone]
    subprocess.run(command, check=True)
    (clone / "README.md").write_text("Changed, and not committed.\n")
    assert derivation(Nix(clone)) == derivation(checkout)


def test_nixpkgs_is_the_only_input_and_locked() -> None:
    lock = json.loads((ROOT / "flake.lock").read_text())
    assert lock["nodes"].keys() == {"root", "nixpkgs"}
    assert lock["nodes"]["nixpkgs"]["locked"]["rev"]
    assert lock["nodes"]["nixpkgs"]["locked"]["narHash"]
