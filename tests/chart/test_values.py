"""What the values turn into, and which are refused: no cluster needed."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import crds
from support.helm import CHART, Helm, Objects, install, values_files

VALUES = pytest.mark.parametrize("values", values_files(), ids=lambda path: path.stem)

# Arguments, and what the message must name.
REFUSED = {
    "an unknown key": (["api.replica=2"], "replica"),
    "an unknown top level key": (["postgres.enabled=false"], "postgres"),
    "the predecessor's key": (["fastapi.replicas=2"], "fastapi"),
    "a word for a number": (["api.replicas=two"], "/api/replicas"),
    "a negative number": (["api.replicas=-1"], "/api/replicas"),
    "a word for a switch": (["ingress.enabled=maybe"], "/ingress/enabled"),
    "a size that Kubernetes does not know": (
        ["postgresql.primary.persistence.size=2GiB"],
        "/postgresql/primary/persistence/size",
    ),
    "a tag with a colon": (["api.image.tag=a:b"], "/api/image/tag"),
    "a digest that is none": (["api.image.digest=sha256:abc"], "/api/image/digest"),
    "a user that would need quoting": (
        ["postgresql.auth.username=a-b"],
        "/postgresql/auth/username",
    ),
    "a host with a scheme": (["ingress.host=http://wiki.example.com"], "/ingress/host"),
    "a schedule that is none": (["backup.schedule=nightly"], "/backup/schedule"),
    "no dump to keep": (["backup.keep=0"], "/backup/keep"),
    "an unknown sslmode": (["externalDatabase.sslmode=on"], "/externalDatabase/sslmode"),
    "an empty password": (["grafana.adminPassword="], "/grafana/adminPassword"),
    "a retention that is none": (["prometheus.retention=long"], "/prometheus/retention"),
    "a pull policy that is none": (["global.imagePullPolicy=Sometimes"], "imagePullPolicy"),
    "resources of the wrong name": (["api.resources.limit.cpu=1"], "limit"),
    "more connections than the database has": (["api.replicas=12"], "api.databasePoolSize"),
    "more connections than the database has, when scaled": (
        ["api.autoscaling.enabled=true", "api.autoscaling.maxReplicas=12"],
        "api.autoscaling.maxReplicas",
    ),
    "more connections than CloudNativePG's database has": (
        ["cloudnativepg.enabled=true", "api.replicas=12"],
        "postgresql.maxConnections",
    ),
    "fewer replicas at most than at least": (
        ["api.autoscaling.enabled=true", "api.autoscaling.minReplicas=6"],
        "api.autoscaling.minReplicas",
    ),
    "no database": (["postgresql.enabled=false"], "externalDatabase.host"),
    "two databases": (
        ["externalDatabase.host=db", "externalDatabase.password=p", "cloudnativepg.enabled=true"],
        "cloudnativepg.enabled",
    ),
    "a database without a password": (
        ["externalDatabase.host=db"],
        "externalDatabase.existingSecret",
    ),
    "several hosts of a database": (
        ["externalDatabase.host=db1\\,db2", "externalDatabase.password=p"],
        "several hosts",
    ),
    "a host of a database with its port": (
        ["externalDatabase.host=db:5432", "externalDatabase.password=p"],
        "externalDatabase.port",
    ),
    "a collector without its scheme": (
        ["api.tracing.endpoint=collector:4318"],
        "/api/tracing/endpoint",
    ),
    "a password in the address of a collector": (
        ["api.tracing.endpoint=http://u:p@collector:4318"],
        "/api/tracing/endpoint",
    ),
    "an unknown sampler": (["api.tracing.sampler=sometimes"], "/api/tracing/sampler"),
    "a share above one": (["api.tracing.samplerArg=10"], "/api/tracing/samplerArg"),
    "an issuer without an audience": (["api.auth.issuer=https://id"], "api.auth.audience"),
    "an audience without an issuer": (["api.auth.audience=wiki"], "api.auth.issuer"),
    "keys without an issuer": (["api.auth.jwksConfigMap=keys"], "api.auth.issuer"),
    "an authority without an issuer": (["api.auth.caSecret=ca"], "api.auth.issuer"),
    "tokens for reading without an issuer": (["api.auth.read=token"], "api.auth.issuer"),
    "a token for tests without an issuer": (["tests.tokenSecret=token"], "api.auth.issuer"),
    "readers that there are not": (["api.auth.read=all"], "/api/auth/read"),
    "an unknown type of token": (["api.auth.tokenType=JWT"], "/api/auth/tokenType"),
    "an unknown word for who edits": (["api.editing=everybody"], "/api/editing"),
    "editing that is on": (["api.editing=true"], "/api/editing"),
    "authors who are not known": (["api.editing=author"], "api.auth.issuer"),
    "users who are not known": (["api.editing=users"], "api.auth.issuer"),
    "anyone where all are known": (
        ["api.editing=anyone", "api.auth.issuer=https://id", "api.auth.audience=wiki"],
        "api.auth.issuer",
    ),
    "a limit of negative requests": (["api.rateLimit.perSecond=-1"], "/api/rateLimit/perSecond"),
    "a limit that is none": (["api.rateLimit.perSecond=1000001"], "/api/rateLimit/perSecond"),
    "half of a request at once": (["api.rateLimit.burst=1.5"], "/api/rateLimit/burst"),
    "a burst without a limit": (["api.rateLimit.burst=5"], "api.rateLimit.perSecond"),
    "a limit for the Ingress": (["api.rateLimit.perSecond=5"], "TRUSTED_PROXIES"),
    "a limit for the Ingress, and proxies that are none": (
        ["api.rateLimit.perSecond=5", "api.extraEnv[0].name=TRUSTED_PROXIES"],
        "TRUSTED_PROXIES",
    ),
    "a Grafana with nothing to ask": (["prometheus.enabled=false"], "grafana.prometheusUrl"),
}


@pytest.mark.parametrize(("settings", "named"), REFUSED.values(), ids=REFUSED)
def test_a_bad_value_is_refused_by_its_name(helm: Helm, settings: list[str], named: str) -> None:
    run = helm.template(*(f"--set={setting}" for setting in settings))
    assert run.returncode != 0
    assert not run.stdout
    assert named in run.stderr


def test_numbers_with_a_fraction_as_set_hands_them_on(helm: Helm) -> None:
    """It makes texts of them."""
    settings = {
        "api.cache.seconds": "2.5",
        "api.rateLimit.perSecond": "0.5",
        "api.tracing.samplerArg": "0.1",
        "api.tracing.endpoint": "http://collector:4318",
        "ingress.enabled": "false",
        "api.resources.requests.cpu": "0.25",
    }
    rendered = helm.objects(*(f"--set={name}={value}" for name, value in settings.items()))
    (container,) = rendered.pods()["wiki-release-api"]["containers"]
    found = {each["name"]: each.get("value") for each in container["env"]}
    assert found["CACHE_SECONDS"] == "2.5"
    assert found["RATE_LIMIT_PER_SECOND"] == "0.5"
    assert found["OTEL_TRACES_SAMPLER_ARG"] == "0.1"
    for wrong in ("api.cache.seconds=0.0", "api.tracing.samplerArg=1.5", "api.cache.seconds=x"):
        assert helm.template(f"--set={wrong}").returncode != 0


@pytest.mark.parametrize(
    "ways",
    [
        ["api.extraEnv[0].name=TRUSTED_PROXIES", "api.extraEnv[0].value=10.42.0.0/16"],
        ["ingress.enabled=false"],
    ],
)
def test_a_rate_limit(helm: Helm, ways: list[str]) -> None:
    def variables(*settings: str) -> dict[str, Any]:
        arguments = [f"--set={each}" for each in ways]
        arguments += [f"--set-json={each}" for each in settings]
        (container,) = helm.objects(*arguments).pods()["wiki-release-api"]["containers"]
        return {each["name"]: each.get("value") for each in container["env"]}

    assert "RATE_LIMIT_PER_SECOND" not in variables()
    found = variables("api.rateLimit.perSecond=2.5")
    assert found["RATE_LIMIT_PER_SECOND"] == "2.5"
    assert "RATE_LIMIT_BURST" not in found
    found = variables("api.rateLimit.perSecond=1000000", "api.rateLimit.burst=4294967295")
    assert float(found["RATE_LIMIT_PER_SECOND"]) == 1_000_000
    assert found["RATE_LIMIT_BURST"] == "4294967295"


def test_an_issuer_of_tokens(helm: Helm) -> None:
    """The issuer's keys and CA are files that may change while a pod runs."""
    settings = ("issuer=https://id.example.org", "audience=wiki", "read=token", "tokenType=any")
    files = ("jwksConfigMap=keys", "caSecret=authority")
    arguments = [f"--set=api.auth.{each}" for each in (*settings, *files)]
    pod = helm.objects(*arguments).pods()["wiki-release-api"]
    (container,) = pod["containers"]
    found = {each["name"]: each.get("value") for each in container["env"]}
    wanted = {"AUTH_ISSUER": "https://id.example.org", "AUTH_AUDIENCE": "wiki"}
    wanted |= {"AUTH_READ": "token", "AUTH_TOKEN_TYPE": "any"}
    assert {name: found.get(name) for name in wanted} == wanted
    volumes = {each["name"]: each for each in pod["volumes"]}
    for variable, mounted in (("AUTH_JWKS_FILE", "keys"), ("AUTH_CA_FILE", "authority")):
        folder, _, file = found[variable].rpartition("/")
        (mount,) = [each for each in container["volumeMounts"] if each["mountPath"] == folder]
        assert "subPath" not in mount
        volume = volumes[mount["name"]]
        source = volume.get("configMap") or volume["secret"]
        assert mounted in source.values()
        assert source["items"][0]["path"] == file
    plain = helm.objects().pods()["wiki-release-api"]
    assert "AUTH_" not in str(plain)
    assert "volumes" not in plain


def test_lint_finds_nothing(helm: Helm) -> None:
    for values in [None, *values_files()]:
        run = helm.lint(*([f"--values={values}"] if values else []))
        assert run.returncode == 0, run.stdout + run.stderr
        assert "WARNING" not in run.stdout


@VALUES
def test_both_helms_render_the_same(values: Path) -> None:
    rendered = [Helm(install(name)).objects(f"--values={values}") for name in ("helm3", "helm4")]
    for objects in rendered:
        for secret in objects.of_kind("Secret"):
            del secret["stringData"]
    assert rendered[0] == rendered[1]


def test_every_part_of_the_values_is_explained() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\w+:", line):
            assert lines[number - 1].startswith("#"), f"line {number + 1}: {line}"


def test_the_schema_knows_every_value_and_no_other() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())

    def compare(value: Any, rules: Any, where: str) -> None:
        if "$ref" in rules:
            rules = schema["definitions"][rules["$ref"].rsplit("/", 1)[1]]
        if isinstance(value, dict) and "properties" in rules and value:
            if where != "podSecurityContext":
                assert set(value) <= set(rules["properties"]), where
            for key, inner in value.items():
                compare(inner, rules["properties"][key], key)

    compare(values, schema, "")
    for name, rules in schema["properties"].items():
        if name != "global" and rules.get("type") == "object":
            assert rules["additionalProperties"] is False, name


def test_the_footprint_is_the_predecessors(helm3: Helm) -> None:
    objects = helm3.objects()
    totals: dict[str, float] = {}
    for name, pod in objects.pods().items():
        if name == "wiki-release-test":
            continue
        for container in pod["containers"]:
            for side, quantities in container["resources"].items():
                for resource, quantity in quantities.items():
                    key = f"{side} {resource}"
                    totals[key] = totals.get(key, 0) + number(quantity)
    gibi = 1024**3
    assert totals == {
        "requests cpu": pytest.approx(0.85),
        "requests memory": 1.5 * gibi,
        "limits cpu": pytest.approx(1.75),
        "limits memory": 3 * gibi,
    }
    claims = helm3.objects("--set=backup.enabled=true").of_kind("PersistentVolumeClaim")
    assert len(claims) == 4
    assert sum(number(claim["spec"]["resources"]["requests"]["storage"]) for claim in claims) <= 5e9


def test_the_connections_fit_into_the_memory_limit(helm3: Helm) -> None:
    """In the worst case, as in docs/performance.md."""
    objects = helm3.objects()
    connections = int(environment(objects, "wiki-release-api")["MAX_CONNECTIONS"])
    (api,) = objects.pods()["wiki-release-api"]["containers"]
    assert connections * 250e3 <= number(api["resources"]["limits"]["memory"])


@pytest.mark.parametrize(
    ("component", "name"),
    [("api", "LOG_FORMAT"), ("postgresql", "PGDATA"), ("grafana", "GF_LOG_MODE")],
)
def test_a_variable_of_the_users_replaces_the_charts(
    helm3: Helm, component: str, name: str
) -> None:
    """Server-side apply, and so Helm 4, refuses a list that has both."""
    extra = f"{component}.extraEnv"
    objects = helm3.objects(f"--set={extra}[0].name={name}", f"--set={extra}[0].value=mine")
    (container,) = objects.pods()[f"wiki-release-{component}"]["containers"]
    assert [each for each in container["env"] if each["name"] == name] == [
        {"name": name, "value": "mine"}
    ]


@pytest.mark.parametrize(("search", "value"), [("false", None), ("true", "true"), ("drop", "drop")])
def test_the_search_is_a_value(helm3: Helm, search: str, value: str | None) -> None:
    objects = helm3.objects(f"--set=api.search={search}")
    assert environment(objects, "wiki-release-api").get("SEARCH") == value


@pytest.mark.parametrize(
    ("editing", "value"),
    [
        ("off", None),
        ("false", None),
        ("anyone", "anyone"),
        ("author", "author"),
        ("users", "users"),
    ],
)
def test_editing_is_a_value(helm: Helm, editing: str, value: str | None) -> None:
    """In YAML an `off` without quotes is false."""
    known = ["--set=api.auth.issuer=https://id.example.org", "--set=api.auth.audience=wiki"]
    known = known if editing in ("author", "users") else []
    objects = helm.objects(f"--set=api.editing={editing}", *known)
    assert environment(objects, "wiki-release-api").get("EDITING") == value


@pytest.mark.parametrize(
    ("values", "seconds", "size"),
    [
        ('{"seconds": 0}', None, None),
        ('{"seconds": 0.5}', "0.5", "16777216"),
        ('{"seconds": 86400, "bytes": 100000}', "86400", "100000"),
        ("null", None, None),
    ],
)
def test_the_cache_is_a_value(
    helm3: Helm, values: str, seconds: str | None, size: str | None
) -> None:
    variables = environment(helm3.objects(f"--set-json=api.cache={values}"), "wiki-release-api")
    assert (variables.get("CACHE_SECONDS"), variables.get("CACHE_BYTES")) == (seconds, size)


def number(quantity: str) -> float:
    match = re.fullmatch(r"([\d.]+)(\w*)", quantity)
    assert match
    factor = {"": 1, "m": 1e-3, "Mi": 1024**2, "Gi": 1024**3}[match[2]]
    return float(match[1]) * factor


@VALUES
def test_every_pod_is_restricted(helm3: Helm, values: Path) -> None:
    """What Pod Security "restricted" does not require; the API server checks the rest."""
    for name, pod in helm3.objects(f"--values={values}").pods().items():
        assert pod["enableServiceLinks"] is False, name
        assert pod["automountServiceAccountToken"] is (name == "wiki-release-prometheus"), name
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert container["resources"]["limits"]["memory"], name


def test_images_are_named_exactly(helm3: Helm) -> None:
    images = {
        container["image"]
        for pod in helm3.objects().pods().values()
        for container in pod["containers"]
    }
    assert len(images) == 4
    for image in images:
        assert re.search(r":v?\d+\.\d+(\.\d+)?$", image), image
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert f"wiki-service:{version}" in images


def test_a_mirror_and_a_digest_name_an_image(helm3: Helm) -> None:
    digest = "sha256:" + "ab" * 32
    pods = helm3.objects(
        "--set=global.imageRegistry=mirror.example.com/all",
        f"--set=api.image.digest={digest}",
        "--set=api.image.tag=unused",
        "--set=global.imagePullSecrets[0].name=mirror",
    ).pods()
    image = pods["wiki-release-api"]["containers"][0]["image"]
    assert image == f"mirror.example.com/all/wiki-service@{digest}"
    for pod in pods.values():
        assert pod["containers"][0]["image"].startswith("mirror.example.com/all/")
        assert pod["imagePullSecrets"] == [{"name": "mirror"}]


def test_names_tell_releases_apart_and_are_not_too_long(helm3: Helm) -> None:
    assert ("Service", "demo-wiki-api") in helm3.objects(release="demo")
    assert ("Service", "my-wiki-api") in helm3.objects(release="my-wiki")
    for _, name in helm3.objects(release="a" * 53):
        assert len(name) <= 63


def test_the_ingress_has_the_documented_paths(helm3: Helm) -> None:
    def paths(*arguments: str) -> dict[str, str]:
        (ingress,) = helm3.objects(*arguments).of_kind("Ingress")
        assert "ingressClassName" not in ingress["spec"]
        (rule,) = ingress["spec"]["rules"]
        assert "host" not in rule
        return {
            path["path"]: f"{path['pathType']} {path['backend']['service']['name']}"
            for path in rule["http"]["paths"]
        }

    assert paths() == {
        "/": "Exact wiki-release-api",
        "/openapi.json": "Exact wiki-release-api",
        "/openapi.yaml": "Exact wiki-release-api",
        "/users": "Prefix wiki-release-api",
        "/user": "Prefix wiki-release-api",
        "/posts": "Prefix wiki-release-api",
        "/comments": "Prefix wiki-release-api",
        "/docs": "Prefix wiki-release-api",
        "/attachments": "Prefix wiki-release-api",
        "/redoc": "Prefix wiki-release-api",
        "/grafana": "Prefix wiki-release-grafana",
    }
    assert paths("--set=ingress.exposeMetrics=true")["/metrics"] == "Exact wiki-release-api"
    assert "/grafana" not in paths("--set=grafana.enabled=false")


def test_tls_and_a_host_reach_the_ingress_and_grafana(helm3: Helm) -> None:
    objects = helm3.objects(f"--values={CHART / 'ci' / 'production.yaml'}")
    (ingress,) = objects.of_kind("Ingress")
    assert ingress["spec"]["ingressClassName"] == "nginx"
    assert ingress["spec"]["tls"] == [{"hosts": ["wiki.example.com"], "secretName": "wiki-tls"}]
    grafana = environment(objects, "wiki-release-grafana")
    assert grafana["GF_SERVER_ROOT_URL"] == "https://wiki.example.com/grafana/"


def environment(objects: Objects, name: str) -> dict[str, Any]:
    (container,) = objects.pods()[name]["containers"]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def test_tracing(helm3: Helm) -> None:
    """Off by default, to the letter; on, the pods get OpenTelemetry's own variables."""
    bare = environment(helm3.objects(), "wiki-release-api")
    assert not [name for name in bare if name.startswith("OTEL") or name == "POD_NAME"]
    objects = helm3.objects(f"--values={CHART / 'ci' / 'production.yaml'}", "--namespace=team")
    found = environment(objects, "wiki-release-api")
    assert {name: found[name] for name in found if name.startswith("OTEL")} == {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector.observability:4318",
        "OTEL_EXPORTER_OTLP_HEADERS": {"secretKeyRef": {"name": "collector", "key": "headers"}},
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "/etc/ssl/collector/ca.crt",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.1",
        "OTEL_SERVICE_NAME": "wiki-release-api",
        "OTEL_RESOURCE_ATTRIBUTES": "k8s.namespace.name=team,k8s.pod.name=$(POD_NAME),"
        "deployment.environment.name=production%2C%20west",
    }
    # Kubernetes only expands variables that are defined earlier.
    names = list(found)
    assert names.index("POD_NAME") < names.index("OTEL_RESOURCE_ATTRIBUTES")
    pod = objects.pods()["wiki-release-api"]
    (volume,) = pod["volumes"]
    assert volume["secret"]["secretName"] == "collector-ca"
    (mount,) = pod["containers"][0]["volumeMounts"]
    assert (mount["name"], mount["mountPath"]) == (volume["name"], "/etc/ssl/collector")
    # Next to the CA of an external database, which the backup has, too.
    both = helm3.objects(
        f"--values={CHART / 'ci' / 'external-database.yaml'}",
        "--set=externalDatabase.caSecret=database,api.tracing.endpoint=https://c",
        "--set=api.tracing.caSecret=collector,backup.enabled=true",
    )
    for name, volumes in both.pods().items():
        mounts = [each["name"] for each in volumes["containers"][0].get("volumeMounts", [])]
        assert ("collector-ca" in mounts) == (name == "wiki-release-api"), name
    api = both.pods()["wiki-release-api"]
    assert [each["name"] for each in api["volumes"]] == ["database-ca", "collector-ca"]


def test_the_password_is_generated_and_is_nowhere_but_in_its_secret(helm3: Helm) -> None:
    passwords = []
    for _ in range(2):
        objects = helm3.objects()
        secret = objects["Secret", "wiki-release-postgresql"]
        passwords.append(secret["stringData"]["password"])
        assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        rest = [each for each in objects.values() if each["kind"] != "Secret"]
        assert passwords[-1] not in yaml.safe_dump_all(rest)
    assert len(set(passwords)) == 2
    assert all(re.fullmatch(r"\w{32}", password) for password in passwords)
    api = environment(objects, "wiki-release-api")
    assert api["DATABASE_URL"] == "postgres://wikiuser@wiki-release-postgresql:5432/wikidb"
    assert api["PGPASSWORD"]["secretKeyRef"]["name"] == "wiki-release-postgresql"


def test_existing_secrets_are_used_and_none_is_made(helm3: Helm) -> None:
    objects = helm3.objects(
        "--set=postgresql.auth.existingSecret=mine", "--set=grafana.existingSecret=theirs"
    )
    assert not objects.of_kind("Secret")
    for name, key in (("api", "PGPASSWORD"), ("postgresql", "POSTGRES_PASSWORD")):
        reference = environment(objects, f"wiki-release-{name}")[key]["secretKeyRef"]
        assert reference == {"name": "mine", "key": "password"}


def test_an_external_database_replaces_the_built_in_one(helm3: Helm) -> None:
    objects = helm3.objects(f"--values={CHART / 'ci' / 'external-database.yaml'}")
    assert ("StatefulSet", "wiki-release-postgresql") not in objects
    assert ("PersistentVolumeClaim", "wiki-release-postgresql") not in objects
    api = environment(objects, "wiki-release-api")
    assert api["DATABASE_URL"] == (
        "postgres://wiki%40example@postgres.example.com:5432/wikidb"
        "?sslmode=verify-full&sslrootcert=/etc/ssl/database/ca.crt"
    )
    assert api["PGPASSWORD"]["secretKeyRef"] == {"name": "database", "key": "db-password"}
    backup = environment(objects, "wiki-release-backup")
    assert backup["PGHOST"] == "postgres.example.com"
    assert backup["PGSSLROOTCERT"] == "/etc/ssl/database/ca.crt"


def test_operators_replace_the_built_in_parts(helm3: Helm) -> None:
    objects = helm3.objects(f"--values={CHART / 'ci' / 'cloudnativepg.yaml'}")
    assert not objects.of_kind("StatefulSet")
    (cluster,) = objects.of_kind("Cluster")
    assert cluster["spec"]["instances"] == 3
    api = environment(objects, "wiki-release-api")
    assert api["DATABASE_URL"]["secretKeyRef"] == {
        "name": "wiki-release-database-app",
        "key": "uri",
    }
    (monitor,) = objects.of_kind("ServiceMonitor")
    (rules,) = objects.of_kind("PrometheusRule")
    assert monitor["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    assert rules["spec"]["groups"][0]["rules"]
    # the ServiceMonitor selects the Service, and names the job as the rules do
    service = objects["Service", "wiki-release-api"]
    selector = monitor["spec"]["selector"]["matchLabels"]
    assert selector.items() <= service["metadata"]["labels"].items()
    job = monitor["spec"]["endpoints"][0]["relabelings"][0]["replacement"]
    assert f'job="{job}"' in yaml.safe_dump(rules, width=10_000)


OF_OPERATORS = {
    "cloudnativepg.yaml": [],
    "one instance": ["--set=cloudnativepg.instances=1"],
    "everything": [
        "--set=global.imagePullSecrets[0]=secret",
        "--set=cloudnativepg.resources.limits.memory=1Gi",
        "--set=cloudnativepg.dataDurability=preferred",
        "--set=backup.enabled=true",
    ],
}


@pytest.mark.parametrize("arguments", OF_OPERATORS.values(), ids=OF_OPERATORS)
def test_what_operators_get_is_valid_to_their_crds(helm3: Helm, arguments: list[str]) -> None:
    rendered = helm3.template(f"--values={CHART / 'ci' / 'cloudnativepg.yaml'}", *arguments)
    # Of two values for a key, a loader takes the last; Kubernetes refuses both.
    lint = [Path(sys.executable).with_name("yamllint"), "-d{rules: {key-duplicates: enable}}", "-"]
    linted = subprocess.run(
        lint, input=rendered.stdout, stdout=subprocess.PIPE, text=True, check=False
    )
    assert linted.returncode == 0, linted.stdout
    objects = Objects.read(rendered.stdout)
    theirs = {each["kind"]: crds.mistakes(each) for each in objects.of_kind(*crds.OPERATORS)}
    assert theirs == {kind: [] for kind in crds.OPERATORS}


@pytest.mark.parametrize(
    ("path", "mistake"),
    [
        (["spec", "postgresql", "synchronus"], "$.spec.postgresql: Additional properties"),
        (["spec", "instances"], "$.spec.instances: 'a word' is not of type 'integer'"),
        (["spec", "nodeMaintenanceWindow", "reuse"], "$.spec.nodeMaintenanceWindow: Additional"),
        (["metadata", "lables"], "$.metadata: Additional properties"),
    ],
)
def test_what_is_not_is_named(helm3: Helm, path: list[str], mistake: str) -> None:
    """Of the test above: what its reading of a CRD refuses."""
    (cluster,) = helm3.objects("--set=cloudnativepg.enabled=true").of_kind("Cluster")
    *parents, last = path
    within = cluster
    for key in parents:
        within = within.setdefault(key, {})
    within[last] = "a word"
    (found,) = crds.mistakes(cluster)
    assert found.startswith(mistake)


def test_a_changed_configuration_rolls_its_pods(helm3: Helm) -> None:
    def checksums(*arguments: str) -> dict[str, str]:
        return {
            name: each["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
            for (_, name), each in helm3.objects(*arguments).items()
            if name in ("wiki-release-prometheus", "wiki-release-grafana")
            and each["kind"] in ("Deployment", "StatefulSet")
        }

    before = checksums()
    assert before == checksums()
    assert len(before) == 2
    changed = checksums("--set=grafana.prometheusUrl=http://elsewhere:9090")
    assert changed["wiki-release-grafana"] != before["wiki-release-grafana"]
    assert changed["wiki-release-prometheus"] == before["wiki-release-prometheus"]
    changed = checksums("--set=prometheus.alertmanagers[0]=alertmanager:9093")
    assert changed["wiki-release-prometheus"] != before["wiki-release-prometheus"]


def test_a_new_chart_version_alone_restarts_no_pod(helm3: Helm, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", CHART, tmp_path / "chart"], check=True)
    definition = tmp_path / "chart" / "Chart.yaml"
    definition.write_text(
        re.sub(r"^version: .*", "version: 9.9.9", definition.read_text(), flags=re.M)
    )
    run = subprocess.run(
        [helm3.program, "template", "wiki-release", tmp_path / "chart", "--kube-version=1.34.0"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert Objects.read(run.stdout).pods() == helm3.objects().pods()


def test_kube_score_finds_nothing_critical(helm3: Helm) -> None:
    """With network policies on, which are off by default since they need a network plugin."""
    rendered = helm3.template(
        "--set=networkPolicy.enabled=true", "--set=backup.enabled=true"
    ).stdout
    run = subprocess.run(
        [install("kube-score"), "score", "-", "--output-format=ci", *IGNORED],
        input=rendered,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "[CRITICAL]" not in run.stdout, run.stdout
    assert "[OK]" in run.stdout


# kube-score's findings that do not apply here, each with the reason.
IGNORED = [
    f"--ignore-test={test}"
    for test in (
        # the UIDs are those of the official images, so that a volume survives a change of image
        "container-security-context-user-group-id",
        # tags are exact: a node that has the image need not check, and no registry is needed
        "container-image-pull-policy",
        # pods write to their volumes; what is left is a few files in /tmp
        "container-ephemeral-storage-request-and-limit",
        # a single pod needs no DNS name of its own, so its Service need not be headless
        "statefulset-has-servicename",
        # Grafana has one health endpoint; liveness waits longer for it
        "pod-probes-identical",
    )
]


@pytest.mark.parametrize("host", ["2001:db8::1", "[2001:db8::1]"])
def test_a_database_may_be_at_an_ipv6_address(helm3: Helm, host: str) -> None:
    settings = {"externalDatabase.host": host, "externalDatabase.password": "p"}
    settings["backup.enabled"] = "true"
    rendered = helm3.template(*(f"--set={name}={value}" for name, value in settings.items()))
    assert rendered.returncode == 0, rendered.stderr
    assert "postgres://wikiuser@[2001:db8::1]:5432/wikidb?" in rendered.stdout
    assert re.search(r'PGHOST\s+value: "2001:db8::1"', rendered.stdout)


def test_passwords_of_values_are_not_printed_in_clear(helm3: Helm) -> None:
    rendered = helm3.template(
        "--set=externalDatabase.host=db", "--set=externalDatabase.password=hunter2"
    )
    objects = Objects.read(rendered.stdout)
    assert "hunter2" not in yaml.safe_dump_all(
        each for each in objects.values() if each["kind"] != "Secret"
    )
