"""The pipelines of GitHub, GitLab and Jenkins do the same; steps that run without these are run."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml
from groovy_parser.parser import parse_groovy_content
from lark.exceptions import LarkError

from support.nix import SYSTEM, Nix
from support.service import ROOT, Service
from support.version import VERSION

WORKFLOWS = {path.stem: path for path in (ROOT / ".github/workflows").glob("*.yml")}
JENKINSFILE = (ROOT / "Jenkinsfile").read_text()


def steps(workflow: str) -> Iterator[dict[str, Any]]:
    for job in yaml.safe_load(WORKFLOWS[workflow].read_text())["jobs"].values():
        yield from job.get("steps", [])


def commands_of_github() -> set[str]:
    return {step["run"] for name in ("ci", "release") for step in steps(name) if "run" in step}


def commands_of_gitlab() -> set[str]:
    jobs = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text()).values()
    keys = ("before_script", "script", "after_script")
    return {
        line for job in jobs if isinstance(job, dict) for key in keys for line in job.get(key, [])
    }


def commands_of_jenkins() -> set[str]:
    return set(re.findall(r"\bsh '(.*)'", JENKINSFILE))


def flake_commands(commands: set[str]) -> set[str]:
    """The commands with the flake and ./test.sh, with the variables in which they differ."""
    variables = (
        (r'"\$\{REPOSITORY,,\}"|"\$CI_REGISTRY_IMAGE"', '"$REPOSITORY"'),
        (r'"\$GITHUB_REF_NAME"|"\$CI_COMMIT_TAG"', '"$TAG_NAME"'),
    )
    found = set()
    for command in commands:
        if "nix " in command:
            found.add(reduce(lambda text, each: re.sub(*each, text), variables, command))
    return found


def test_all_three_run_the_same_commands() -> None:
    github = flake_commands(commands_of_github())
    assert github == flake_commands(commands_of_gitlab())
    # GitHub and GitLab give a job an identity to sign with.
    signed = {command for command in github if "cosign" in command or "attest" in command}
    assert len(signed) == 2
    with_outputs = {command.removesuffix(" >references") for command in github - signed}
    assert flake_commands(commands_of_jenkins()) == with_outputs


def test_a_step_is_a_line() -> None:
    for name in WORKFLOWS:
        for step in steps(name):
            assert "\n" not in step.get("run", "").strip(), step


def test_they_call_what_the_flake_has(nix: Nix) -> None:
    apps = set(nix.evaluate(f"apps.{SYSTEM}", "builtins.attrNames"))
    packages = set(nix.evaluate(f"packages.{SYSTEM}", "builtins.attrNames"))
    commands = " ".join(commands_of_github())
    assert set(re.findall(r"nix run \.#([\w-]+)", commands)) <= apps
    assert set(re.findall(r" \.#([\w-]+)", commands)) <= apps | packages


def test_the_jenkinsfile_is_groovy() -> None:
    """Only Jenkins' own linter can tell whether it is a valid pipeline."""
    assert parse_groovy_content(JENKINSFILE)
    with pytest.raises(LarkError):
        parse_groovy_content(JENKINSFILE.rstrip().removesuffix("}"))


def zizmor(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("zizmor")
    return subprocess.run(
        [program, "--offline", "--no-progress", folder], capture_output=True, text=True, check=False
    )


def test_an_action_by_its_tag_is_refused(tmp_path: Path) -> None:
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    assert zizmor(tmp_path).returncode == 0
    workflow = tmp_path / ".github/workflows/release.yml"
    workflow.write_text(re.sub(r"@[0-9a-f]{40} # (v\d+)\S*", r"@\1", workflow.read_text()))
    refused = zizmor(tmp_path)
    assert refused.returncode
    assert "unpinned-uses" in refused.stdout


@pytest.fixture
def run_step(nix: Nix, tmp_path: Path) -> Any:
    """Runs the step of the release that contains `part`, as a runner does for `tag`."""
    shim = tmp_path / "bin/nix"
    shim.parent.mkdir()
    program = os.environ.get("WIKI_TEST_NIX") or nix.flake / "nix/stand-in/nix"
    shim.write_text(f'#!/bin/sh\nPATH={os.environ["PATH"]} exec {program} "$@"\n')
    shim.chmod(0o755)

    def run(part: str, tag: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
        (command,) = {step["run"] for step in steps("release") if part in step.get("run", "")}
        path = f"{shim.parent}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", command],
            cwd=folder,
            env=os.environ | {"PATH": path, "GITHUB_REF_NAME": tag},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_tag_has_to_be_the_version(run_step: Any) -> None:
    part = "nix eval --raw .#wiki-service.version"
    assert run_step(part, f"v{VERSION}").returncode == 0
    assert run_step(part, "v9.9.9").returncode == 1
    assert run_step(part, VERSION).returncode == 1


def test_the_notes_are_of_this_version(run_step: Any, tmp_path: Path) -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    shutil.copy(ROOT / "CHANGELOG.md", tmp_path)
    assert run_step("CHANGELOG.md", f"v{VERSION}", tmp_path).returncode == 0
    notes = (tmp_path / "notes.md").read_text()
    assert notes.strip()
    assert notes in changelog
    assert "\n## " not in notes


def test_the_checksums_name_what_was_published(run_step: Any, tmp_path: Path) -> None:
    (tmp_path / "references").write_text("ghcr.io/owner/wiki/wiki-service@sha256:0123abcd\n")
    assert run_step("checksums", f"v{VERSION}", tmp_path).returncode == 0
    lines = (tmp_path / "checksums").read_text()
    assert lines == "0123abcd  ghcr.io/owner/wiki/wiki-service\n"


def test_the_probe(nix: Nix, tmp_path: Path) -> None:
    (package,) = nix.build("wiki-service")
    service = Service(package / "bin/wiki-service", tmp_path, {})
    try:
        service.wait_until_ready()
        done = nix.run("run", ".#probe", "--", service.url)
        assert done.returncode == 0, done.stderr
        assert "users_created_total 1\n" in done.stdout
        assert "posts_created_total 1\n" in done.stdout
    finally:
        service.close()
    done = nix.run("run", ".#probe", "--", service.url)
    assert done.returncode
    assert "Failed to connect" in done.stderr or "Could not connect" in done.stderr
