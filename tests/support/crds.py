"""The definitions of Argo CD's and Flux's objects, from the Go modules of their controllers."""

import json
import subprocess
from pathlib import Path

from support.helm import go

# Of Argo CD 3.3 and Flux 2.8, whose helm-controller is on Go's proxy in the version before only.
# The folders are those of the modules.
MODULES = {
    "github.com/argoproj/argo-cd/v3@v3.3.2": "manifests/crds",
    "github.com/fluxcd/helm-controller@v1.4.0": "config/crd/bases",
    "github.com/fluxcd/source-controller@v1.8.0": "config/crd/bases",
}


def download() -> list[Path]:
    files: list[Path] = []
    for module, folder in MODULES.items():
        found = subprocess.run(
            [go(), "mod", "download", "-json", module], check=True, stdout=subprocess.PIPE
        )
        files += Path(json.loads(found.stdout)["Dir"], folder).glob("*.io_*.yaml")
        files += Path(json.loads(found.stdout)["Dir"], folder).glob("*-crd.yaml")
    return files
