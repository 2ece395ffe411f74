"""The flake's own checks pass, and those on the images fail where they should."""

import pytest

from support.nix import SYSTEM, Nix

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


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("check", "file", "text", "instead", "complaint"),
    [
        (
            "grafana-image",
            "nix/grafana-image.nix",
            "inherit (grafanaPlugins) prometheus;",
            "",
            "wiki-grafana: no Prometheus datasource: /nix/store/",
        ),
        (
            "wiki-image",
            "nix/wiki-image.nix",
            "fakeRootCommands = ''",
            "fakeRootCommands = ''\n    mkdir bin\n    touch bin/sh",
            "wiki-service: it has a shell or a package manager",
        ),
        (
            "wiki-image",
            "nix/wiki-image.nix",
            'User = "65532:65532"',
            'User = "0:0"',
            'wiki-service: not so: .config.User == "65532:65532"',
        ),
    ],
)
def test_a_broken_image_is_refused(
    checkout: Nix, *, check: str, file: str, text: str, instead: str, complaint: str
) -> None:
    path = checkout.flake / file
    assert text in path.read_text()
    path.write_text(path.read_text().replace(text, instead))
    result = checkout.run("build", "--no-link", "--print-build-logs", f".#checks.{SYSTEM}.{check}")
    assert result.returncode
    assert complaint in result.stderr
