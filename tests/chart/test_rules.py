"""The recording rules and alerts, checked by promtool."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.helm import CHART, Helm, install

TESTS = Path(__file__).parent / "prometheus-rules.test.yml"


@pytest.fixture(scope="module")
def promtool() -> Path:
    return install("promtool")


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def rules(helm: Helm, *settings: str) -> Any:
    """The rules for a Prometheus in the release and for an operator, which are the same."""
    arguments = ["--namespace=team", *(f"--set={each}" for each in settings)]
    config = helm.objects(*arguments)["ConfigMap", "wiki-release-prometheus"]
    operator = ("--set=prometheus.operator.enabled=true", "--set=grafana.enabled=false")
    (resource,) = helm.objects(*arguments, *operator).of_kind("PrometheusRule")
    found = yaml.safe_load(config["data"]["rules.yml"])
    assert found == resource["spec"]
    return found


def alerts(helm: Helm, *settings: str) -> set[str]:
    return {
        rule["alert"]
        for group in rules(helm, *settings)["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }


def test_each_alert_fires_when_it_should(promtool: Path, helm3: Helm, tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules(helm3)))
    tests = TESTS.read_text().replace("NAMESPACE", "team").replace("FULLNAME", "wiki-release")
    (tmp_path / "tests.yml").write_text(tests)
    run(promtool, "test", "rules", tmp_path / "tests.yml")


def test_each_alert_and_record_is_tested() -> None:
    tests = TESTS.read_text()
    for group in yaml.safe_load((CHART / "prometheus-rules.yml").read_text())["groups"]:
        for rule in group["rules"]:
            assert rule.get("alert", rule.get("record")) in tests


def test_what_is_not_installed_raises_no_alert(helm3: Helm) -> None:
    volumes = {"WikiVolumeFilling", "WikiVolumeFull"}
    assert alerts(helm3) > volumes | {"WikiApiDown", "WikiDatabaseLarge"}
    assert alerts(helm3, "api.enabled=false") == volumes
    for settings in (
        ["externalDatabase.host=db", "externalDatabase.existingSecret=login"],
        ["postgresql.primary.persistence.enabled=false"],
        ["postgresql.primary.persistence.existingClaim=mine"],
    ):
        assert "WikiApiDown" in alerts(helm3, *settings)
        assert "WikiDatabaseLarge" not in alerts(helm3, *settings), settings


@pytest.mark.parametrize(("size", "limit"), [("1Gi", 2**29), ("20Gi", 16 * 2**30)])
def test_the_database_has_room_for_its_log(helm3: Helm, size: str, limit: int) -> None:
    found = json.dumps(rules(helm3, f"postgresql.primary.persistence.size={size}"))
    assert f"> {limit}" in found


def test_prometheus_accepts_its_configuration(promtool: Path, helm3: Helm, tmp_path: Path) -> None:
    objects = helm3.objects("--set=prometheus.alertmanagers[0]=alertmanager:9093")
    for name, text in objects["ConfigMap", "wiki-release-prometheus"]["data"].items():
        assert "NAMESPACE" not in text
        assert "FULLNAME" not in text
        # the token is a file of the pod
        here = text.replace("/var/run/secrets/kubernetes.io/serviceaccount/token", "token")
        (tmp_path / name).write_text(here)
    (tmp_path / "token").touch()
    run(promtool, "check", "config", "--lint-fatal", tmp_path / "prometheus.yml")
