"""The recording rules and alerts, judged by promtool."""

import subprocess
from pathlib import Path

import pytest
import yaml

from support import prometheus
from support.helm import CHART, Helm

TESTS = Path(__file__).parent / "prometheus-rules.test.yml"


@pytest.fixture(scope="module")
def promtool() -> Path:
    prometheus.install()
    return prometheus.BIN / "promtool"


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_should(promtool: Path) -> None:
    run(promtool, "test", "rules", TESTS)


def test_each_alert_and_record_is_tested() -> None:
    tests = TESTS.read_text()
    (group,) = yaml.safe_load((CHART / "prometheus-rules.yml").read_text())["groups"]
    for rule in group["rules"]:
        assert rule.get("alert", rule.get("record")) in tests


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
