"""The dashboards as files. Whether their queries return data is tested on a release."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.helm import CHART, ENVIRONMENT, QUICK, Helm, go

FILES = sorted((CHART / "dashboards").glob("*.json"))
DASHBOARD = pytest.mark.parametrize(
    "dashboard", [json.loads(file.read_text()) for file in FILES], ids=[file.stem for file in FILES]
)


def test_the_documented_address_leads_to_the_creation_dashboard() -> None:
    creation = json.loads((CHART / "dashboards" / "creation.json").read_text())
    assert creation["uid"] == "creation-dashboard-678"
    assert creation["title"].lower() == "creation"


@pytest.mark.timeout(600)
def test_grafanas_own_types_read_them_without_loss() -> None:
    done = subprocess.run(
        [go(), "run", *QUICK, ".", *FILES],
        cwd=Path(__file__).with_name("grafana-types"),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@DASHBOARD
def test_each_panel_says_what_it_shows(dashboard: dict[str, Any]) -> None:
    titles = [panel["title"] for panel in dashboard["panels"]]
    assert len(set(titles)) == len(titles)
    for panel in dashboard["panels"]:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


@DASHBOARD
def test_it_is_read_without_scrolling(dashboard: dict[str, Any]) -> None:
    """Grafana's rows are 38 pixels high, and its header takes 150 of a small laptop's 768."""
    cells = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert place["y"] + place["h"] <= 16
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in cells, panel["title"]
                cells.add((x, y))


@DASHBOARD
def test_each_query_asks_the_provisioned_data_source(
    dashboard: dict[str, Any], helm3: Helm
) -> None:
    provisioned = helm3.objects()["ConfigMap", "wiki-release-grafana"]["data"]["datasources.yaml"]
    for panel in dashboard["panels"]:
        for part in [panel, *panel["targets"]]:
            assert part["datasource"]["type"] == "prometheus"
            assert f"uid: {part['datasource']['uid']}" in provisioned


def test_a_release_gets_every_dashboard_with_its_own_names(helm3: Helm) -> None:
    objects = helm3.objects("--namespace=team")
    data = objects["ConfigMap", "wiki-release-grafana-dashboards"]["data"]
    assert set(data) == {file.name for file in FILES}
    for text in data.values():
        json.loads(text)
        assert 'job=\\"team/wiki-release-api\\"' in text
        assert "NAMESPACE" not in text
        assert "FULLNAME" not in text


def test_the_grafana_of_a_prometheus_operator_finds_them(helm3: Helm) -> None:
    """With the label that kube-prometheus-stack's sidecar looks for, even with no Grafana in the
    release. Without an operator nothing has it: the release's own Grafana has them as files."""
    dashboards = ("ConfigMap", "wiki-release-grafana-dashboards")
    label = "grafana_dashboard"
    operator = "--set=prometheus.operator.enabled=true"
    alone = helm3.objects(operator, "--set=grafana.enabled=false")
    assert alone[dashboards]["metadata"]["labels"][label] == "1"
    assert set(alone[dashboards]["data"]) == {file.name for file in FILES}
    assert [name for _, name in alone if "grafana" in name] == [dashboards[1]]
    both = helm3.objects(operator, "--set=grafana.prometheusUrl=http://prometheus:9090")
    assert both[dashboards]["metadata"]["labels"][label] == "1"
    assert label not in helm3.objects()[dashboards]["metadata"]["labels"]
    for off in ("prometheus.enabled=false", "prometheus.operator.enabled=false"):
        assert dashboards not in helm3.objects(f"--set={off}", "--set=grafana.enabled=false")
