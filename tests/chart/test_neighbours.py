"""Several releases, and the chart as a dependency: none takes what belongs to another."""

import json
import re
import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from support.helm import CHART, KUBE_VERSION, Helm, Objects

# Everything switched on, for both kinds of Prometheus and of database.
ALL = (
    "--set=backup.enabled=true",
    "--set=networkPolicy.enabled=true",
    "--set=api.autoscaling.enabled=true",
    "--set=api.podDisruptionBudget.enabled=true",
)
OPERATOR = ("--set=prometheus.operator.enabled=true", "--set=grafana.prometheusUrl=http://p:9090")
EXTERNAL = ("--set=externalDatabase.host=db", "--set=externalDatabase.password=secret")


class Umbrella:
    """A chart that includes ours twice, under the names wiki and wiki-2."""

    def __init__(self, folder: Path):
        self._folder = folder
        shutil.copytree(CHART, folder / "charts" / "wiki")
        version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
        dependencies = [
            {"name": "wiki", "version": version, "alias": alias, "condition": f"{alias}.enabled"}
            for alias in ("wiki", "wiki-2")
        ]
        definition = {"apiVersion": "v2", "name": "umbrella", "version": "1.0.0"}
        text = yaml.safe_dump(definition | {"dependencies": dependencies})
        (folder / "Chart.yaml").write_text(text)

    def template(self, helm: Helm, values: dict[str, Any], *arguments: str) -> Any:
        (self._folder / "values.yaml").write_text(json.dumps(values))
        return helm.run(
            *("template", "demo", self._folder, f"--kube-version={KUBE_VERSION}"), *arguments
        )

    def objects(self, helm: Helm, values: dict[str, Any], *arguments: str) -> Objects:
        run = self.template(helm, values, *arguments)
        assert run.returncode == 0, run.stderr
        return Objects.read(run.stdout)


@pytest.fixture
def umbrella(tmp_path: Path) -> Umbrella:
    return Umbrella(tmp_path / "umbrella")


def test_a_condition_chooses_a_dependency(helm: Helm, umbrella: Umbrella) -> None:
    objects = umbrella.objects(helm, {"wiki": {"enabled": True}, "wiki-2": {"enabled": False}})
    assert ("Deployment", "demo-wiki-api") in objects
    assert not [name for _, name in objects if "wiki-2" in name]


def test_a_parents_global_values_are_taken_as_others_write_them(
    helm: Helm, umbrella: Umbrella
) -> None:
    given = {"imageRegistry": None, "imagePullSecrets": ["one", {"name": "two"}], "else": 1}
    for pod in umbrella.objects(helm, {"global": given}).pods().values():
        assert pod["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
        assert not pod["containers"][0]["image"].startswith("/")


def test_null_ids_reach_a_dependency(helm: Helm, umbrella: Umbrella, tmp_path: Path) -> None:
    """As OpenShift needs them, in a file: Helm 4 ignores nulls in a parent's own values."""
    ids = dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"))
    file = tmp_path / "openshift.yaml"
    file.write_text(json.dumps({"wiki": {"postgresql": {"podSecurityContext": ids}}}))
    objects = umbrella.objects(helm, {}, f"--values={file}")
    context = objects.pods()["demo-wiki-postgresql"]["securityContext"]
    assert not ids.keys() & context.keys()
    assert context["fsGroupChangePolicy"] == "OnRootMismatch"


def keys(values: dict[str, Any], where: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (*where, key)
        if isinstance(value, dict):
            yield from keys(value, (*where, key))


def at(values: dict[str, Any], path: tuple[str, ...]) -> Any:
    for key in path:
        values = values[key]
    return values


def nested(paths: list[tuple[str, ...]]) -> dict[str, Any]:
    """Values in which these keys are empty."""
    values: dict[str, Any] = {}
    for path in paths:
        parent = values
        for key in path[:-1]:
            parent = parent.setdefault(key, {})
        parent[path[-1]] = None
    return values


def test_each_empty_value_is_taken_for_none_or_refused_by_its_name(
    helm3: Helm, tmp_path: Path
) -> None:
    """An empty key, which to Helm means "without the chart's default"."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    check = jsonschema.Draft7Validator(schema)
    assert check.is_valid(defaults)
    taken = []
    for path in keys(defaults):
        changed = deepcopy(defaults)
        del at(changed, path[:-1])[path[-1]]
        mistakes = [error.message for error in check.iter_errors(changed)]
        if mistakes:
            assert mistakes == [f"{path[-1]!r} is a required property"], path
        else:
            taken.append(path)
    assert ("grafana", "resources") in taken

    nulls = tmp_path / "nulls.yaml"
    while taken:
        # what an empty section contains is for the next round
        outer = [path for path in taken if not any(path[:n] in taken for n in range(len(path)))]
        taken = [path for path in taken if path not in outer]
        nulls.write_text(json.dumps(nested(outer)))
        for options in (ALL, (*ALL, *OPERATOR), (*ALL, *EXTERNAL)):
            run = helm3.template(f"--values={nulls}", *options)
            assert run.returncode == 0, run.stderr
    refused = helm3.template("--set=grafana.persistence=null")
    assert "at '/grafana': missing property 'persistence'" in refused.stderr


def selectors(each: Any) -> Iterator[dict[str, str]]:
    """The labels by which an object selects pods, or their Services."""
    if isinstance(each, list):
        for inner in each:
            yield from selectors(inner)
    elif isinstance(each, dict):
        if "matchLabels" in each:
            yield each["matchLabels"]
        elif each.get("kind") == "Service":
            yield each["spec"]["selector"]
        for inner in each.values():
            yield from selectors(inner)


def labels(objects: Objects) -> list[dict[str, str]]:
    """The labels of all pods and Services."""
    found = [each["metadata"]["labels"] for each in objects.of_kind("Service", "Pod")]
    for each in objects.of_kind("Deployment", "StatefulSet", "CronJob", "Job"):
        spec = each["spec"].get("jobTemplate", each)["spec"]
        found.append(spec["template"]["metadata"]["labels"])
    return found


class Installed:
    """A release's own labels, and those that it selects by."""

    def __init__(self, objects: Objects, fullname: str, namespace: str = "team"):
        self.names = {
            (kind, name, "" if kind.startswith("Cluster") else namespace) for kind, name in objects
        }
        self.labels = labels(objects)
        # policies that name other pods, as the user's values say, are not about a release
        self.selectors = [
            each
            for each in selectors([*objects.values()])
            if "app.kubernetes.io/component" in each or "app.kubernetes.io/instance" in each
        ]
        self.queries: list[str] = []
        self.scrapes: list[str] = []
        for config in objects.of_kind("ConfigMap"):
            for name, text in config["data"].items():
                if name.endswith(".json"):
                    self.queries += [
                        target["expr"]
                        for panel in json.loads(text)["panels"]
                        for target in panel["targets"]
                    ]
                elif name == "prometheus.yml":
                    self.scrapes = yaml.safe_load(text)["scrape_configs"]
        rules = [each["spec"] for each in objects.of_kind("PrometheusRule")]
        rules += [
            yaml.safe_load(config["data"]["rules.yml"])
            for config in objects.of_kind("ConfigMap")
            if "rules.yml" in config["data"]
        ]
        self.alerts = []
        for rule in [rule for each in rules for group in each["groups"] for rule in group["rules"]]:
            self.queries.append(rule["expr"])
            if "alert" in rule:
                self.alerts.append({"alertname": rule["alert"]} | rule["labels"])
        self.jobs = {each["job_name"] for each in self.scrapes} | {f"{namespace}/{fullname}-api"}
        pods = "api-7d9f8c6b5-x2x4z grafana-5b9c8d7f6-bcdfg postgresql-0 prometheus-0 database-1"
        pods += " backup-29412345-x2x4z restore-now-x2x4z"
        claims = "postgresql prometheus grafana backup database-1 database-1-wal"
        # the values of these labels in the release's series
        self.series = {
            "job": self.jobs,
            "pod": {f"{fullname}-{each}" for each in pods.split()},
            "persistentvolumeclaim": {f"{fullname}-{each}" for each in claims.split()},
            "app": {fullname},
        }


def matchers(query: str) -> list[dict[str, str]]:
    """The label matchers of each selector, as regular expressions."""
    return [
        {
            label: value if operator == "=~" else re.escape(value)
            for label, operator, value in re.findall(r'(\w+)(=~|=)"([^"]*)"', inner)
        }
        for inner in re.findall(r'{((?:\w+[=!~]+"[^"]*"[, ]*)+)}', query)
    ]


def assert_apart(one: Installed, other: Installed) -> None:
    assert not one.names & other.names
    assert not one.jobs & other.jobs
    for selector in one.selectors:
        for worn in other.labels:
            assert not selector.items() <= worn.items(), selector
    for scrape in one.scrapes:
        for discovery in scrape.get("kubernetes_sd_configs", []):
            for found in discovery.get("selectors", []):
                wanted = dict(each.split("=") for each in found["label"].split(","))
                assert any(wanted.items() <= worn.items() for worn in one.labels)
                assert not any(wanted.items() <= worn.items() for worn in other.labels)
    for alert in one.alerts:
        assert alert not in other.alerts
    assert one.queries
    for query in one.queries:
        assert "NAMESPACE" not in query
        for selector in matchers(query):
            told = {
                label: expression for label, expression in selector.items() if label in one.series
            }
            assert told, f"{query} is not about one release"
            for label, expression in told.items():
                assert any(re.fullmatch(expression, each) for each in one.series[label]), query
            assert not all(
                any(re.fullmatch(expression, each) for each in other.series[label])
                for label, expression in told.items()
            ), query


@pytest.mark.parametrize("options", [ALL, (*ALL, *OPERATOR)], ids=["own", "operator"])
@pytest.mark.parametrize(
    "names",
    [("wiki", "wiki-2"), ("wiki", "wiki-api"), ("wiki", "wiki-backup"), ("wiki", "wiki-database")],
    ids="/".join,
)
def test_two_releases_in_a_namespace_do_not_meet(
    helm3: Helm, names: tuple[str, str], options: tuple[str, ...]
) -> None:
    one, other = (
        Installed(helm3.objects(*options, "--namespace=team", release=name), name) for name in names
    )
    # an Ingress or a policy has a release's bare name: Helm itself refuses to install wiki-api next
    # to wiki
    if names[1].removeprefix("wiki-") in ("api", "database"):
        one.names = {each for each in one.names if each[1] != names[1]}
    assert_apart(one, other)
    assert_apart(other, one)


def test_two_in_a_parents_release_do_not_meet(helm: Helm, umbrella: Umbrella) -> None:
    given = {each: {"backup": {"enabled": True}} for each in ("wiki", "wiki-2")}
    objects = umbrella.objects(helm, given, "--namespace=team")
    one, other = (
        Installed(
            Objects(
                each
                for each in objects.values()
                if each["metadata"]["labels"]["app.kubernetes.io/name"] == alias
            ),
            f"demo-{alias}",
        )
        for alias in ("wiki", "wiki-2")
    )
    assert_apart(one, other)
    assert_apart(other, one)


def test_cluster_scoped_names_do_not_clash(helm3: Helm) -> None:
    """Nor those of a/b-wiki and a-b/wiki."""
    names = [
        helm3.objects(f"--namespace={namespace}", release=release).of_kind("ClusterRole")[0][
            "metadata"
        ]["name"]
        for namespace, release in (
            ("one", "wiki"),
            ("two", "wiki"),
            ("a", "b-wiki"),
            ("a-b", "wiki"),
        )
    ]
    assert len(set(names)) == 4
