"""What the chart requests from CloudNativePG: no operator needed."""

import json
from typing import Any

import pytest

from support.helm import Helm, Objects

ON = "--set=cloudnativepg.enabled=true"
CLUSTER = "wiki-release-database"


def postgresql(objects: Objects) -> dict[str, Any]:
    return dict(objects["Cluster", CLUSTER]["spec"]["postgresql"])


@pytest.mark.parametrize("instances", [2, 3])
@pytest.mark.parametrize("durability", ["required", "preferred"])
def test_what_is_acknowledged_is_on_two_instances(
    helm3: Helm, instances: int, durability: str
) -> None:
    objects = helm3.objects(
        ON,
        f"--set=cloudnativepg.instances={instances}",
        *([] if durability == "required" else [f"--set=cloudnativepg.dataDurability={durability}"]),
    )
    assert postgresql(objects)["synchronous"] == {
        "method": "any",
        "number": 1,
        "dataDurability": durability,
        "failoverQuorum": True,
    }


def test_one_instance_waits_for_no_other(helm3: Helm) -> None:
    """The operator refuses one that does."""
    objects = helm3.objects(ON, "--set=cloudnativepg.instances=1")
    assert "synchronous" not in postgresql(objects)


def test_a_restart_does_not_wait_for_the_sessions_of_the_api(helm3: Helm) -> None:
    """The API's sessions never end by themselves."""
    assert helm3.objects(ON)["Cluster", CLUSTER]["spec"]["smartShutdownTimeout"] == 0


def test_what_the_chart_does_not_know_is_merged_over_the_cluster(helm: Helm) -> None:
    """Falsy values, too, such as 0 and false; and a `bootstrap` replaces the chart's, since the
    operator accepts only one."""
    before = helm.objects(ON)["Cluster", CLUSTER]["spec"]
    plugins = [{"name": "barman-cloud.cloudnative-pg.io", "isWALArchiver": True}]
    own = {
        "plugins": plugins,
        "postgresql": {
            "parameters": {"work_mem": "16MB"},
            "synchronous": {"failoverQuorum": False},
        },
        "smartShutdownTimeout": 180,
        "stopDelay": 0,
    }
    after = helm.objects(ON, f"--set-json=cloudnativepg.spec={json.dumps(own)}")["Cluster", CLUSTER]
    expected = before | {"plugins": plugins, "smartShutdownTimeout": 180, "stopDelay": 0}
    expected["postgresql"] = {
        "parameters": before["postgresql"]["parameters"] | {"work_mem": "16MB"},
        "synchronous": before["postgresql"]["synchronous"] | {"failoverQuorum": False},
    }
    assert after["spec"] == expected

    recovery = {"bootstrap": {"recovery": {"source": "origin"}}}
    recovered = helm.objects(ON, f"--set-json=cloudnativepg.spec={json.dumps(recovery)}")
    assert recovered["Cluster", CLUSTER]["spec"] == before | recovery


def test_an_unknown_durability_is_refused_by_its_name(helm: Helm) -> None:
    run = helm.template(ON, "--set=cloudnativepg.dataDurability=maybe")
    assert run.returncode != 0
    assert "/cloudnativepg/dataDurability" in run.stderr


def test_who_reaches_its_pods(helm3: Helm) -> None:
    operator, monitoring = ({"namespaceSelector": {"matchLabels": {"a": x}}} for x in "om")
    objects = helm3.objects(
        ON,
        "--set=networkPolicy.enabled=true",
        f"--set-json=cloudnativepg.operatorFrom={json.dumps([operator])}",
        f"--set-json=networkPolicy.metricsFrom={json.dumps([monitoring])}",
    )
    policy = objects["NetworkPolicy", CLUSTER]["spec"]
    instances = {"podSelector": {"matchLabels": {"cnpg.io/cluster": CLUSTER}}}
    assert policy["podSelector"] == instances["podSelector"]
    api, backup, prometheus = (
        {
            "podSelector": {
                "matchLabels": {
                    "app.kubernetes.io/name": "wiki",
                    "app.kubernetes.io/instance": "wiki-release",
                    "app.kubernetes.io/component": component,
                }
            }
        }
        for component in ("api", "backup", "prometheus")
    )
    allowed = [
        (port["port"], peer)
        for rule in policy["ingress"]
        for port in rule["ports"]
        for peer in rule["from"]
    ]
    expected = [
        *((port, peer) for port in (5432, 8000) for peer in (instances, operator)),
        *((5432, peer) for peer in (api, backup)),
        *((9187, peer) for peer in (prometheus, monitoring)),
    ]
    assert allowed == expected


def test_no_policy_where_there_is_nothing_to_select(helm3: Helm) -> None:
    for arguments in ([ON], ["--set=networkPolicy.enabled=true"]):
        assert ("NetworkPolicy", CLUSTER) not in helm3.objects(*arguments)


@pytest.mark.parametrize("seconds", [120, 61, 2])
def test_a_pod_whose_database_is_away_gets_requests_for_that_long(
    helm3: Helm, seconds: int
) -> None:
    set_seconds = [] if seconds == 120 else [f"--set=api.databaseLossSeconds={seconds}"]
    pod = helm3.objects(*set_seconds).pods()["wiki-release-api"]
    probe = pod["containers"][0]["readinessProbe"]
    assert seconds <= probe["failureThreshold"] * probe["periodSeconds"] <= seconds + 1
