"""The flake's own checks pass, and those of the images fail where they should."""

import pytest

from support.nix import REAL, SYSTEM, Nix

CHECKS = [
    "chart-lint",
    "clippy",
    "cluster-clippy",
    "cluster-image",
    "grafana-image",
    "k3s-image",
    "nix-format",
    "postgresql-image",
    "prometheus-image",
    "rust-format",
    "service-tests",
    "shellcheck",
    "wiki-image",
]


def test_no_check_is_forgotten(nix: Nix) -> None:
    assert nix.evaluate(f"checks.{SYSTEM}", "builtins.attrNames") == CHECKS


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.timeout(1200)
def test_check(nix: Nix, check: str) -> None:
    nix.build(f"checks.{SYSTEM}.{check}")


def replace(checkout: Nix, file: str, text: str, instead: str) -> None:
    path = checkout.flake / file
    assert text in path.read_text()
    path.write_text(path.read_text().replace(text, instead))


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("check", "file", "text", "instead", "complaint"),
    [
        (
            "wiki-image",
            "nix/images/wiki-image.nix",
            "fakeRootCommands = ''",
            "fakeRootCommands = ''\n    mkdir bin\n    touch bin/sh",
            "wiki-service: it has a shell or a package manager",
        ),
        (
            "wiki-image",
            "nix/images/wiki-image.nix",
            'User = "65532:65532"',
            'User = "0:0"',
            'wiki-service: not so: .config.User == "65532:65532"',
        ),
    ],
)
def test_a_broken_image_is_refused(
    checkout: Nix, *, check: str, file: str, text: str, instead: str, complaint: str
) -> None:
    replace(checkout, file, text, instead)
    result = checkout.run("build", "--no-link", "--print-build-logs", f".#checks.{SYSTEM}.{check}")
    assert result.returncode
    assert complaint in result.stderr


@pytest.mark.skipif(bool(REAL), reason="only the stand-in's Grafana can be given another version")
def test_a_newer_grafana_has_its_datasource_as_a_plugin(checkout: Nix) -> None:
    replace(checkout, "nix/stand-in/packages.nix", 'version = "13.0.7"', 'version = "13.2.0"')
    check = f"checks.{SYSTEM}.grafana-image"
    checkout.build(check)
    replace(checkout, "nix/images/grafana-image.nix", "inherit (grafanaPlugins) prometheus;", "")
    result = checkout.run("build", "--no-link", "--print-build-logs", f".#{check}")
    assert result.returncode
    assert "wiki-grafana: no Prometheus datasource: /nix/store/" in result.stderr
