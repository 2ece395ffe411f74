"""The CRDs of Argo CD, Flux and Traefik, from their Go modules."""

import json
import re
import subprocess
from pathlib import Path

from support.helm import go

# For Argo CD 3.3, Traefik 3.7 and Flux 2.8, whose helm-controller is on Go's proxy only in the
# previous version.
# The folders are those within the modules.
MODULES = {
    "github.com/argoproj/argo-cd/v3@v3.3.2": "manifests/crds",
    "github.com/fluxcd/helm-controller@v1.4.0": "config/crd/bases",
    "github.com/fluxcd/source-controller@v1.8.0": "config/crd/bases",
    "github.com/traefik/traefik/v3@v3.7.13": "docs/content/reference/dynamic-configuration",
}


def download() -> dict[str, Path]:
    """Their files, by the names of the definitions."""
    files: list[Path] = []
    for module, folder in MODULES.items():
        found = subprocess.run(
            [go(), "mod", "download", "-json", module], check=True, stdout=subprocess.PIPE
        )
        files += Path(json.loads(found.stdout)["Dir"], folder).glob("*.io_*.yaml")
        files += Path(json.loads(found.stdout)["Dir"], folder).glob("*-crd.yaml")
    return {re.findall(r"^  name: (.*)$", path.read_text(), re.M)[0]: path for path in files}
