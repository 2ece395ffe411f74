"""What other clusters require of the chart: rendered, no cluster needed."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from support.helm import CHART, Helm, Objects, install, values_files
from support.service import ROOT


def environment(objects: Objects, name: str) -> dict[str, Any]:
    (container,) = objects.pods()[name]["containers"]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def values(tmp_path: Path, content: dict[str, Any]) -> str:
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps(content))
    return f"--values={file}"


def images(objects: Objects) -> set[str]:
    return {each["containers"][0]["image"].partition(":")[0] for each in objects.pods().values()}


def test_images_have_full_names_but_for_the_one_that_is_loaded(helm3: Helm) -> None:
    """CRI-O refuses short names; the service's image is in no registry until it is released."""
    assert images(helm3.objects("--set=backup.enabled=true")) == {
        "wiki-service",
        "docker.io/library/postgres",
        "docker.io/prom/prometheus",
        "docker.io/grafana/grafana",
    }


@pytest.mark.parametrize(
    ("repository", "mirrored"),
    {
        "wiki-service": "wiki-service",
        "localhost/wiki-service": "wiki-service",
        "docker.io/library/postgres": "library/postgres",
        "prom/prometheus": "prom/prometheus",
        "ghcr.io/owner/name/wiki-service": "owner/name/wiki-service",
        "registry:5000/wiki-service": "wiki-service",
    }.items(),
)
def test_a_mirror_takes_the_registrys_place(helm3: Helm, repository: str, mirrored: str) -> None:
    objects = helm3.objects(
        "--set=global.imageRegistry=mirror.example.com/all/",
        f"--set=api.image.repository={repository}",
    )
    (api,) = objects.pods()["wiki-release-api"]["containers"]
    assert api["image"].partition(":")[0] == f"mirror.example.com/all/{mirrored}"


COMPONENTS = ("postgresql", "prometheus", "grafana")


def test_where_the_cluster_chooses_ids_a_volume_is_still_left_as_it_is(
    helm: Helm, tmp_path: Path
) -> None:
    """OpenShift names the group at admission. What the kubelet then does to each file makes
    PostgreSQL refuse its data at the next start."""
    ids = dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"))
    given = {each: {"podSecurityContext": ids} for each in COMPONENTS}
    objects = helm.objects(values(tmp_path, given | {"backup": {"enabled": True}}))
    for name, pod in objects.pods().items():
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }, name


def test_a_security_context_of_the_users_comes_before_the_charts(
    helm3: Helm, tmp_path: Path
) -> None:
    own = {"runAsUser": 1000680000, "fsGroupChangePolicy": "Always"}
    context = helm3.objects(
        values(tmp_path, {each: {"podSecurityContext": own} for each in COMPONENTS})
    ).pods()["wiki-release-postgresql"]["securityContext"]
    assert own.items() <= context.items()
    assert context["runAsNonRoot"] is True


@pytest.mark.parametrize("name", ["1234", "2wiki", "v1.0.0-wiki"])
def test_a_release_whose_name_kubernetes_refuses_is_refused_by_its_name(
    helm: Helm, name: str
) -> None:
    run = helm.template(release=name)
    assert run.returncode != 0
    assert f'the release\'s name "{name}"' in run.stderr
    assert "fullnameOverride" in run.stderr
    assert helm.objects("--set=fullnameOverride=wiki", release=name)


def everywhere(text: str) -> list[dict[str, Any]]:
    """Values with this text wherever a text is allowed."""
    common = {"priorityClassName": text, "podAnnotations": {"example.com/x": text}}
    storage = {"storageClass": text}
    keys = ("existingSecret", "existingSecretKey", "caSecret", "database", "username")
    external = dict.fromkeys(keys, text)
    given: dict[str, Any] = {
        "global": {"imagePullSecrets": [text]},
        "api": common,
        "postgresql": common
        | {"auth": {"existingSecret": text}, "primary": {"persistence": storage}},
        "prometheus": common | {"persistence": {"existingClaim": text}},
        "grafana": common | {"existingSecret": text, "persistence": storage},
        "backup": {"enabled": True, "persistence": storage},
        "ingress": {"className": text, "tls": [{"secretName": text, "hosts": [text]}]},
        "networkPolicy": {"enabled": True},
    }
    return [
        given,
        given | {"externalDatabase": {"host": "db"} | external},
        given | {"cloudnativepg": {"enabled": True, "storage": storage}},
    ]


@pytest.mark.parametrize("text", ["1234", "0x1f", "true", "null"])
def test_a_text_that_looks_like_a_number_stays_a_text(
    helm3: Helm, tmp_path: Path, text: str
) -> None:
    def rendered(text: str) -> list[str]:
        found = []
        for each in everywhere(text):
            options = (f"--namespace={text}", "--set=fullnameOverride=wiki")
            objects = helm3.objects(values(tmp_path, each), *options, release=text)
            for config in objects.of_kind("ConfigMap"):
                config["data"] = {k: yaml.safe_load(v) for k, v in config["data"].items()}
            hashes = "[0-9a-f]{64}|-backup-[0-9a-f]{8}"
            found.append(re.sub(hashes, "hash", json.dumps(list(objects.values()))))
        return found

    assert rendered(text) == [each.replace("plain-text", text) for each in rendered("plain-text")]


@pytest.mark.parametrize("override", ["true", "null", "no"])
def test_a_name_that_looks_like_a_boolean_stays_a_text(helm3: Helm, override: str) -> None:
    objects = helm3.objects(
        f"--set-string=fullnameOverride={override}", "--set=networkPolicy.enabled=true"
    )
    assert all(isinstance(name, str) for _, name in objects)


def test_a_dash_is_no_storage_class(helm3: Helm) -> None:
    objects = helm3.objects(
        "--set=postgresql.primary.persistence.storageClass=-",
        "--set=prometheus.persistence.storageClass=fast",
    )
    classes = {
        claim["metadata"]["name"].removeprefix("wiki-release-"): claim["spec"].get(
            "storageClassName"
        )
        for claim in objects.of_kind("PersistentVolumeClaim")
    }
    assert classes == {"postgresql": "", "prometheus": "fast", "grafana": None}


@pytest.mark.parametrize("name", ["my-wiki db", "a+b/c?d#e%f", "wiki@ünï"])
def test_a_name_of_an_external_database_reaches_it_as_it_is(
    helm3: Helm, tmp_path: Path, name: str
) -> None:
    database = {"host": "db", "database": name, "username": name, "existingSecret": "s"}
    objects = helm3.objects(
        values(tmp_path, {"externalDatabase": database, "backup": {"enabled": True}})
    )
    url = urlsplit(environment(objects, "wiki-release-api")["DATABASE_URL"])
    assert url.hostname == "db"
    assert unquote(url.path) == f"/{name}"
    assert unquote(url.username or "") == name
    backup = environment(objects, "wiki-release-backup")
    assert (backup["PGDATABASE"], backup["PGUSER"]) == (name, name)


def test_a_wildcard_is_no_address(helm3: Helm) -> None:
    objects = helm3.objects("--set=ingress.host=*.example.com")
    assert objects["Ingress", "wiki-release"]["spec"]["rules"][0]["host"] == "*.example.com"
    url = environment(objects, "wiki-release-grafana")["GF_SERVER_ROOT_URL"]
    assert url == environment(helm3.objects(), "wiki-release-grafana")["GF_SERVER_ROOT_URL"]
    assert "*" not in url


def notes(*settings: str) -> str:
    """An installation's notes, from the Helm that shows them without a cluster."""
    run = Helm(install("helm4")).run(
        *("install", "wiki-release", CHART, "--dry-run=client", "--namespace=team"),
        *(f"--set={each}" for each in settings),
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.partition("\nNOTES:\n")[2]


def test_the_notes_show_addresses_that_could_be() -> None:
    told = notes("ingress.host=*.example.com")
    assert "http://<name>.example.com/users" in told
    assert "*" not in told


def test_the_notes_warn_where_the_controller_is_not_let_in() -> None:
    warning = "the network policies let in Traefik, but the Ingress class is nginx"
    nginx = ("networkPolicy.enabled=true", "ingress.className=nginx")
    assert warning in notes(*nginx)
    assert warning not in notes(
        *nginx, "networkPolicy.ingressFrom[0].namespaceSelector.matchLabels.name=nginx"
    )
    assert "let in Traefik" not in notes(nginx[0])
    assert "let in Traefik" not in notes(nginx[0], "ingress.className=traefik-internal")


def test_the_notes_wait_for_a_dump_and_have_no_restore_to_paste() -> None:
    told = notes("backup.enabled=true")
    # for either outcome: a failed job never becomes complete
    assert "get job wiki-release-backup-now -o jsonpath=" in told
    assert "grep -Eo 'Complete|Failed'" in told
    assert "create job wiki-release-restore" not in told


def test_the_notes_tell_what_a_deletion_takes() -> None:
    told = notes("backup.enabled=true")
    selector = "app.kubernetes.io/instance=wiki-release,app.kubernetes.io/name=wiki"
    for verb in ("get", "delete"):
        assert f"kubectl --namespace team {verb} pvc,secret --selector {selector}\n" in told
    assert "kubectl --namespace team delete pvc wiki-release-backup" in told
    assert "delete pvc wiki-release-backup" not in notes()


def api_template(objects: Objects) -> dict[str, Any]:
    return objects["Deployment", "wiki-release-api"]["spec"]["template"]


def test_a_changed_password_of_an_external_database_rolls_the_pods(helm: Helm) -> None:
    def template(*settings: str) -> dict[str, Any]:
        return api_template(
            helm.objects(*(f"--set=externalDatabase.{each}" for each in ("host=db", *settings)))
        )

    assert template("password=one") == template("password=one")
    assert template("password=one") != template("password=two")
    assert "two" not in json.dumps(template("password=two"))
    assert "annotations" not in template("existingSecret=mine")["metadata"]
    assert "annotations" not in api_template(helm.objects())["metadata"]


POLICIES = [*values_files(), *sorted((ROOT / "deploy").glob("*.yaml"))]


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_the_examples_let_in_the_controller_that_they_name(helm3: Helm, path: Path) -> None:
    objects = helm3.objects(f"--values={path}")
    policy = objects.get(("NetworkPolicy", "wiki-release-api"))
    for ingress in objects.of_kind("Ingress") if policy else []:
        controller = ingress["spec"].get("ingressClassName", "traefik")
        assert controller in json.dumps(policy)


@pytest.mark.parametrize(
    ("limit", "bytes_"),
    [("512Mi", 2**29), ("1.5Gi", 3 * 2**29), ("500M", 500 * 10**6), (2**30, 2**30), ("1G", 10**9)],
)
def test_gos_own_limit_is_below_grafanas(
    helm3: Helm, tmp_path: Path, limit: Any, bytes_: int
) -> None:
    file = values(tmp_path, {"grafana": {"resources": {"limits": {"memory": limit}}}})
    value = environment(helm3.objects(file), "wiki-release-grafana")["GOMEMLIMIT"]
    assert int(value) == int(bytes_ * 0.8)


def test_without_a_limit_go_has_none(helm3: Helm) -> None:
    for nothing in ("resources", "resources.limits", "resources.limits.memory"):
        objects = helm3.objects(f"--set=grafana.{nothing}=null")
        assert "GOMEMLIMIT" not in environment(objects, "wiki-release-grafana")


LOST = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def test_a_pod_leaves_a_lost_node_soon_unless_the_user_says_otherwise(
    helm3: Helm, tmp_path: Path
) -> None:
    def tolerations(*own: dict[str, Any], **more: Any) -> list[Any]:
        file = values(tmp_path, {"api": {"tolerations": list(own), **more}})
        pod = helm3.objects(file).pods()["wiki-release-api"]
        assert pod["tolerations"][: len(own)] == list(own)
        return [(each["key"], each["tolerationSeconds"]) for each in pod["tolerations"][len(own) :]]

    assert tolerations() == [(taint, 30) for taint in LOST]
    assert tolerations(nodeLossSeconds=300) == [(taint, 300) for taint in LOST]
    dedicated = {"key": "dedicated", "operator": "Exists"}
    assert tolerations(dedicated) == [(taint, 30) for taint in LOST]
    unreachable = {"key": LOST[1], "operator": "Exists", "effect": "NoExecute"}
    assert tolerations(unreachable, dedicated) == [(LOST[0], 30)]
    # what Kubernetes' own admission plugin accepts, too (DefaultTolerationSeconds)
    assert tolerations({"operator": "Exists"}) == []
    assert tolerations({"operator": "Exists", "effect": "NoSchedule"}) == [(t, 30) for t in LOST]


def test_the_page_says_what_a_release_asks_of_a_cluster(helm3: Helm) -> None:
    objects = helm3.objects()
    requests = [
        each["resources"]["requests"]
        for kind, name in objects
        if kind in ("Deployment", "StatefulSet")
        for each in objects.pods()[name]["containers"]
    ]
    cpu = sum(int(each["cpu"].removesuffix("m")) for each in requests)
    memory = sum(int(each["memory"].removesuffix("Mi")) for each in requests)
    units = {"Gi": 1, "Mi": 1 / 1024}
    sizes = [
        each["spec"]["resources"]["requests"]["storage"]
        for each in objects.of_kind("PersistentVolumeClaim")
    ]
    volumes = sum(int(size[:-2]) * units[size[-2:]] for size in sizes)
    page = (CHART / "README.md").read_text()
    assert f"{cpu}m of CPU and {memory / 1024:g} GiB of memory" in page
    assert f"{volumes:g} GiB of volumes" in page


def test_what_deletes_a_releases_data_leaves_the_backups(helm3: Helm) -> None:
    objects = helm3.objects("--set=backup.enabled=true")
    claims = {
        claim["metadata"]["name"]: claim["metadata"]["labels"]["app.kubernetes.io/instance"]
        for claim in objects.of_kind("PersistentVolumeClaim")
    }
    kept = claims.pop("wiki-release-backup")
    assert set(claims.values()) == {"wiki-release"}
    # belongs to no release, since no name contains this character
    assert kept == "wiki-release_backup"
    text = (CHART / "README.md").read_text()
    assert "delete pvc,secret --selector app.kubernetes.io/instance=wiki-release," in text
