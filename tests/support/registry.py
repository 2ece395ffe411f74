"""An OCI registry on loopback, with TLS and a password like real ones."""

import base64
import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import trustme
import yaml

from support import helm
from support.net import free_port
from support.wait import wait_until

USER, PASSWORD = "wiki", "secret"
HTPASSWD = f"{USER}:$2b$04$RVH9u.nOZv5u8/wz5sokpOFlgg2yoVJJinwdDX19N/BDO641vsrF.\n"


@dataclass
class Registry:
    host: str
    environment: dict[str, str]
    """What makes skopeo, regctl, Helm and curl trust it and log in, as after one `docker login`."""

    def run(self, *command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 or not check, f"{command}\n{done.stdout}{done.stderr}"
        return done


@contextlib.contextmanager
def registry(directory: Path) -> Iterator[Registry]:
    program = helm.install("registry")
    port = free_port()
    host = f"localhost:{port}"
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    for name, pem in (
        ("ca.pem", authority.cert_pem),
        ("cert.pem", certificate.cert_chain_pems[0]),
        ("key.pem", certificate.private_key_pem),
    ):
        pem.write_to_path(directory / name)
    (directory / "htpasswd").write_text(HTPASSWD)
    (directory / "config.yml").write_text(
        yaml.safe_dump(
            {
                "version": 0.1,
                "log": {"level": "warn"},
                "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
                "auth": {"htpasswd": {"realm": "wiki", "path": str(directory / "htpasswd")}},
                "http": {
                    "addr": f"127.0.0.1:{port}",
                    "tls": {
                        "certificate": str(directory / "cert.pem"),
                        "key": str(directory / "key.pem"),
                    },
                },
            }
        )
    )
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (directory / ".docker").mkdir()
    (directory / ".docker/config.json").write_text(json.dumps({"auths": {host: {"auth": login}}}))
    environment = {
        "DOCKER_CONFIG": str(directory / ".docker"),
        "REGISTRY_AUTH_FILE": str(directory / ".docker/config.json"),
        "SSL_CERT_FILE": str(directory / "ca.pem"),
    }

    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "serve", directory / "config.yml"], stdout=output, stderr=output
        )

    def ready() -> bool:
        assert process.poll() is None, f"the registry ended: {log.read_text()}"
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"https://{host}/v2/", verify=False).status_code == 401  # noqa: S501
        return False

    try:
        wait_until(ready, f"the registry, whose log is {log}", seconds=60)
        yield Registry(host, environment)
    finally:
        process.terminate()
        process.wait(timeout=30)
