"""Programs for the tests, above all Helm, built once from their Go modules and kept."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from support.cache import CACHE, turn

SUPPORT = Path(__file__).parent
CHART = SUPPORT.parents[1] / "chart"

# Each version has its own folder: an update does not replace what older checkouts use.
MODULES = {
    "helm3": ("helm.sh/helm/v3/cmd/helm", "v3.22.0"),
    "helm4": ("helm.sh/helm/v4/cmd/helm", "v4.3.1"),
    "kube-score": ("github.com/zegl/kube-score/cmd/kube-score", "v1.20.0"),
    "regctl": ("github.com/regclient/regclient/cmd/regctl", "v0.11.7"),
    "registry": ("github.com/distribution/distribution/v3", "v3.1.2"),
    "actionlint": ("github.com/rhysd/actionlint/cmd/actionlint", "v1.7.12"),
    "yq": ("github.com/mikefarah/yq/v4", "v4.54.2"),
    # The module's number for Prometheus 3.16.0.
    "prometheus3": ("github.com/prometheus/prometheus/cmd/prometheus", "v0.316.0"),
    "promtool": ("github.com/prometheus/prometheus/cmd/promtool", "v0.316.0"),
}
# Of one module, so that Kubernetes' client and whatever else they share is compiled only once.
TOGETHER = ("helm3", "helm4", "kube-score", "prometheus3", "promtool")
# Only the Prometheus service discovery that the chart uses: those of the clouds take minutes to
# compile.
TAGS = "remove_all_sd,enable_kubernetes_sd"
# To compile sooner: no debug information, and for what is seldom called no optimisation either. The
# standard library is the same for all.
PLAIN = ("-ldflags=-s -w", "-gcflags=all=-dwarf=false")
UNOPTIMISED = "-N -l -dwarf=false"
QUICK = ("-ldflags=-s -w", f"-gcflags=all={UNOPTIMISED}", "-gcflags=std=-dwarf=false")
# Of Prometheus, what it does not share with Helm.
PROMETHEUS = (
    *PLAIN,
    f"-gcflags=github.com/prometheus/prometheus/...={UNOPTIMISED}",
    f"-gcflags=go.opentelemetry.io/collector/...={UNOPTIMISED}",
)
# What signs Prometheus' requests for them: a package, its configuration, and its function.
CLOUDS = (
    ("sigv4", "SigV4Config", "NewSigV4RoundTripper"),
    ("storage/remote/azuread", "AzureADConfig", "NewAzureADRoundTripper"),
    ("storage/remote/googleiam", "Config", "NewRoundTripper"),
)
FLAGS = {
    "helm3": PLAIN,
    "helm4": PLAIN,
    "kube-score": PLAIN,
    "prometheus3": PROMETHEUS,
    "promtool": PROMETHEUS,
}
# Without cgo, whether there is a C compiler or not: all share what is compiled once.
ENVIRONMENT = os.environ | {"CGO_ENABLED": "0"}
# What a Helm built without its Makefile does not know.
KUBE_VERSION = "1.34.0"


def go() -> str:
    beside_python = Path(sys.executable).parent / "go"
    found = str(beside_python) if beside_python.exists() else shutil.which("go")
    assert found, "no Go: it is one of the tests' Python packages, and is not on PATH either"
    return found


def path(name: str) -> Path:
    _, version = MODULES[name]
    return CACHE / f"{name}-{version}" / name.rstrip("34")  # helm3 is helm


def install(name: str) -> Path:
    """Builds the program unless it exists; takes a minute or more."""
    program = path(name)
    if not program.exists():
        # Those of one module in turn: side by side, each would compile what they share.
        together = name in TOGETHER
        meanwhile = partial(fetch, name) if together else None
        with turn("together" if together else name, meanwhile):
            if not program.exists():
                build(name, program)
    return program


def fetch(name: str) -> None:
    """What it is compiled from, as far as it is not there."""
    with tempfile.TemporaryDirectory() as folder:
        start_together(Path(folder), name)
        everything = ("-deps", '-f={{""}}', f"-tags={TAGS}", MODULES[name][0])
        run_go("list", "-mod=mod", *everything, cwd=Path(folder))


def build(name: str, program: Path) -> None:
    program.parent.mkdir(parents=True, exist_ok=True)
    package, version = MODULES[name]
    flags = ("-v", *FLAGS.get(name, QUICK), f"-tags={TAGS}")
    # What is compiled in another folder is compiled once more.
    folder = CACHE / ("together" if name in TOGETHER else name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if name in TOGETHER:
        start_together(folder, name)
        compile_with_go("build", "-mod=mod", "-o", folder, *flags, package, cwd=folder)
    elif name == "registry":
        shutil.copy(SUPPORT / "registry.go", folder)
        start_module(folder, name)
        compile_with_go("build", "-mod=mod", "-o", folder, *flags, ".", cwd=folder)
    else:
        compile_with_go("install", *flags, f"{package}@{version}", GOBIN=str(folder))
    (folder / program.name).rename(program)
    shutil.rmtree(folder)


def start_together(folder: Path, name: str) -> None:
    start_module(folder, *TOGETHER)
    if name in CHANGES:
        module, change = CHANGES[name]
        writable_copy(download(module, folder), folder / "changed")
        change(folder / "changed")
        run_go("mod", "edit", f"-replace={module}=./changed", cwd=folder)


def start_module(folder: Path, *names: str) -> None:
    """With -mod=mod, what else a build needs is found by itself."""
    lines = ["module registry", "go 1.25"]
    for package, version in map(MODULES.__getitem__, names):
        lines.append(f"require {package.partition('/cmd/')[0]} {version}")
    # promtool's is Prometheus'.
    (folder / "go.mod").write_text("\n".join(dict.fromkeys(lines)))


def without_metrics(controller_runtime: Path) -> None:
    """Of which Helm 4 has none: because of this file, it takes three times as long to compile."""
    (controller_runtime / "pkg/metrics/leaderelection.go").unlink()


def with_removed(kube_score: Path) -> None:
    """With Helm's version of Kubernetes' API, and what kube-score knows and that does not."""
    api = download("k8s.io/api@v0.32.3")
    for package in ("autoscaling/v2beta1", "autoscaling/v2beta2"):
        writable_copy(api / package, kube_score / package)
        (kube_score / package / "generated.pb.go").unlink()
        replace(kube_score, f'"k8s.io/api/{package}"', f'"github.com/zegl/kube-score/{package}"')
    lookup = "func (l MapLabels) Lookup(k string) (string, bool) { v, is := l[k]; return v, is }"
    (kube_score / "score/internal/lookup.go").write_text(f"package internal\n{lookup}\n")


def without_clouds(prometheus: Path) -> None:
    """Nor with the description of its own API: both take long to compile."""
    replace(prometheus, '"github.com/prometheus/sigv4"', '"github.com/prometheus/prometheus/sigv4"')
    for package, config, function in CLOUDS:
        folder = prometheus / package
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        text = (SUPPORT / "cloud.go").read_text()
        for name, value in {"cloud": folder.name, "Config": config, "New": function}.items():
            text = re.sub(rf"\b{name}\b", value, text)
        (folder / "cloud.go").write_text(text)
    for file in prometheus.glob("web/api/v1/openapi*.go"):
        file.unlink()
    shutil.copy(SUPPORT / "openapi.go", prometheus / "web/api/v1")


def replace(module: Path, old: str, new: str) -> None:
    for file in module.rglob("*.go"):
        text = file.read_text()
        if old in text:
            file.write_text(text.replace(old, new))


# Changes of a module before a program is built.
CHANGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "helm4": ("sigs.k8s.io/controller-runtime", without_metrics),
    "kube-score": ("github.com/zegl/kube-score", with_removed),
    "prometheus3": ("github.com/prometheus/prometheus", without_clouds),
    "promtool": ("github.com/prometheus/prometheus", without_clouds),
}


def download(module: str, folder: Path | None = None) -> Path:
    """The folder of a module in the module cache, of the version after an `@` or in go.mod."""
    command = (go(), "mod", "download", "-json", module)
    found = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE)
    return Path(json.loads(found.stdout)["Dir"])


def writable_copy(module: Path, folder: Path) -> None:
    """Of a folder in the module cache, which is read-only."""
    shutil.copytree(module, folder, copy_function=shutil.copyfile)
    subprocess.run(("chmod", "-R", "u+w", folder), check=True)


def compile_with_go(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> None:
    # Side by side, each would compile the standard library; this is most of what they need of it.
    with turn("net-http"):
        run_go("build", "-gcflags=all=-dwarf=false", "net/http")
    run_go(*arguments, cwd=cwd, **environment)


def run_go(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> None:
    command = [go(), *arguments]
    with subprocess.Popen(
        command, cwd=cwd, env=ENVIRONMENT | environment, stderr=subprocess.PIPE, text=True
    ) as building:
        assert building.stderr
        print(f"go {arguments[0]} {arguments[-1]}", flush=True)
        lines = []
        for line in building.stderr:
            if line.startswith("go: downloading"):
                continue
            lines.append(line)
            if len(lines) % 200 == 0:
                print(f"{len(lines)} packages compiled, now {line}", end="", flush=True)
    if building.returncode:
        print(*lines[-20:], sep="")
        raise subprocess.CalledProcessError(building.returncode, command)


class Helm:
    """Helm without a cluster: what a chart and its values render to."""

    def __init__(self, program: Path):
        self.program = program

    def template(
        self, *arguments: str, release: str = "wiki-release"
    ) -> subprocess.CompletedProcess[str]:
        return self.run("template", release, CHART, "--kube-version", KUBE_VERSION, *arguments)

    def lint(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("lint", "--strict", CHART, "--kube-version", KUBE_VERSION, *arguments)

    def objects(self, *arguments: str, release: str = "wiki-release") -> "Objects":
        run = self.template(*arguments, release=release)
        assert run.returncode == 0, run.stderr
        return Objects.read(run.stdout)

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, *arguments], capture_output=True, text=True, check=False
        )


class Objects(dict[tuple[str, str], Any]):
    """Kubernetes objects by kind and name."""

    @classmethod
    def read(cls, manifests: str) -> "Objects":
        # With libyaml: PyYAML's own parser takes longer than Helm.
        return cls(yaml.load_all(manifests, Loader=yaml.CSafeLoader))

    def __init__(self, documents: Iterable[Any]):
        super().__init__(
            ((each["kind"], each["metadata"]["name"]), each) for each in documents if each
        )

    def of_kind(self, *kinds: str) -> list[Any]:
        return [each for (kind, _), each in self.items() if kind in kinds]

    def pods(self) -> dict[str, Any]:
        """Every pod's specification, by the name of its controller."""
        pods: dict[str, Any] = {}
        for (kind, name), each in self.items():
            if kind in ("Deployment", "StatefulSet"):
                pods[name] = each["spec"]["template"]["spec"]
            elif kind == "CronJob":
                pods[name] = each["spec"]["jobTemplate"]["spec"]["template"]["spec"]
            elif kind == "Pod":
                pods[name] = each["spec"]
        return pods


def values_files() -> list[Path]:
    return sorted((CHART / "ci").glob("*.yaml"))
