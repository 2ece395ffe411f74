"""A version that is published to a registry, as by the release workflow."""

import ssl
import subprocess

import httpx

from support.helm import install
from support.nix import SYSTEM, Nix
from support.registry import PASSWORD, USER, Registry
from support.version import VERSION

COMPONENTS = {
    "api": "wiki-image",
    "postgresql": "postgresql-image",
    "prometheus": "prometheus-image",
    "grafana": "grafana-image",
}
# A function of a system's packages: the tag of each image by its name.
TAGS = """packages: builtins.listToAttrs (map
  (name: { name = packages.${name}.imageName; value = packages.${name}.imageTag; })
  (builtins.filter (name: builtins.match ".*-image" name != null) (builtins.attrNames packages)))"""


class Publication:
    def __init__(self, nix: Nix, registry: Registry):
        self.nix = nix
        self.registry = registry
        self.repository = f"{registry.host}/owner/wiki"
        # By the chart's names for the components.
        self.images = {
            component: nix.evaluate(f"packages.{SYSTEM}.{attribute}.imageName")
            for component, attribute in COMPONENTS.items()
        }
        self.pushed = self.references("push-images")
        self._stand_in_for_arm()
        self.digests = self.references("publish")

    def run(self, app: str) -> subprocess.CompletedProcess[str]:
        arguments = ("run", f".#{app}", "--", self.repository)
        return self.nix.run(*arguments, environment=self.registry.environment)

    def references(self, app: str) -> dict[str, str]:
        """What it printed, as digests by names."""
        done = self.run(app)
        assert done.returncode == 0, done.stderr
        lines = [line.removeprefix(f"{self.repository}/") for line in done.stdout.splitlines()]
        return dict(line.split("@", 1) for line in lines)

    def regctl(self, *arguments: str) -> str:
        return self.registry.run(install("regctl"), *arguments).stdout.strip()

    def get(self, kind: str, name: str, reference: str, accept: str) -> httpx.Response:
        """As requested by any client of a registry."""
        return httpx.get(
            f"https://{self.registry.host}/v2/owner/wiki/{name}/{kind}/{reference}",
            headers={"Accept": accept},
            auth=(USER, PASSWORD),
            verify=ssl.create_default_context(cafile=self.registry.environment["SSL_CERT_FILE"]),
        )

    def index(self, name: str) -> httpx.Response:
        return self.get("manifests", name, VERSION, "application/vnd.oci.image.index.v1+json")

    def _stand_in_for_arm(self) -> None:
        """Nothing can be built for arm64 here: this machine's images replace them, and say so."""
        here, there = (
            self.nix.evaluate(f"packages.{system}", TAGS) for system in (SYSTEM, "aarch64-linux")
        )
        for name, tag in here.items():
            image = f"{self.repository}/{name}"
            self.regctl(
                *("image", "mod", f"{image}:{tag}", "--create", f"{image}:{there[name]}"),
                *("--config-platform", "linux/arm64"),
            )
