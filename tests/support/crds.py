"""CRDs, from the Go modules of their operators."""

import re
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from support.helm import download

# For Argo CD 3.3, Traefik 3.7 and Flux 2.8, whose helm-controller is on Go's proxy only in the
# previous version.
# The folders are those within the modules.
MODULES = {
    "github.com/argoproj/argo-cd/v3@v3.3.2": "manifests/crds",
    "github.com/fluxcd/helm-controller@v1.4.0": "config/crd/bases",
    "github.com/fluxcd/source-controller@v1.8.0": "config/crd/bases",
    "github.com/traefik/traefik/v3@v3.7.13": "docs/content/reference/dynamic-configuration",
}
CLOUDNATIVEPG = "github.com/cloudnative-pg/cloudnative-pg@v1.28.0"
PROMETHEUS = "github.com/prometheus-operator/prometheus-operator@v0.88.0"
# Of what the chart hands to operators, by kind.
OPERATORS = {
    "Cluster": (CLOUDNATIVEPG, "config/crd/bases/postgresql.cnpg.io_clusters.yaml"),
    "PrometheusRule": (
        PROMETHEUS,
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
    "ServiceMonitor": (
        PROMETHEUS,
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
}


def files() -> dict[str, Path]:
    """Their files, by the names of the definitions."""
    found: list[Path] = []
    for module, folder in MODULES.items():
        crds = download(module) / folder
        found += [*crds.glob("*.io_*.yaml"), *crds.glob("*-crd.yaml")]
    return {re.findall(r"^  name: (.*)$", path.read_text(), re.M)[0]: path for path in found}


def mistakes(each: dict[str, Any]) -> list[str]:
    """What its CRD's schema refuses in an object, unknown fields included. Rules in CEL, and what
    an operator's webhook refuses, are not known here."""
    module, file = OPERATORS[each["kind"]]
    text = (download(module) / file).read_text()
    definition = yaml.load(text, Loader=yaml.CSafeLoader)["spec"]
    schemas = {
        f"{definition['group']}/{version['name']}": version["schema"]["openAPIV3Schema"]
        for version in definition["versions"]
    }
    schema = closed(schemas[each["apiVersion"]])
    # Kubernetes' own, and in no CRD.
    known = {key: {} for key in ("annotations", "labels", "name", "namespace")}
    schema["properties"]["metadata"] = {"properties": known, "additionalProperties": False}
    errors = jsonschema.Draft7Validator(schema).iter_errors(each)
    return [f"{error.json_path}: {error.message}" for error in errors]


def closed(schema: Any) -> Any:
    """A schema that knows all fields, as with kubectl's --validate=strict."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    open_ = schema.get("x-kubernetes-preserve-unknown-fields")
    if schema.get("type") == "object" and "properties" in schema and not open_:
        inner["additionalProperties"] = False
    return inner
