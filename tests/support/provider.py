"""A real provider: npm's oidc-provider, installed once and kept."""

import json
import shutil
import subprocess
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ed25519

from support.generators import kept, run
from support.net import NO_CAS, free_port
from support.tokens import AUDIENCE, Key, b64, number
from support.wait import wait_until

PACKAGE = "oidc-provider@9.13.3"


def install() -> Path:
    command = ("npm", "install", "--no-audit", "--no-fund", PACKAGE, "--prefix")
    return kept(PACKAGE, lambda folder: run(*command, folder))


def is_possible() -> bool:
    return bool(shutil.which("node") and shutil.which("npm"))


def private_jwk(key: Key) -> dict[str, str]:
    if isinstance(key.private, ed25519.Ed25519PrivateKey):
        return key.jwk | {"d": b64(key.private.private_bytes_raw())}
    numbers = key.private.private_numbers()
    if key.jwk["kty"] == "EC":
        return key.jwk | {"d": number(numbers.private_value, 32)}
    parts = {"d": numbers.d, "p": numbers.p, "q": numbers.q}
    parts |= {"dp": numbers.dmp1, "dq": numbers.dmq1, "qi": numbers.iqmp}
    return key.jwk | {name: number(value) for name, value in parts.items()}


class Provider:
    """It signs by the first of `keys` that has the algorithm of the first."""

    def __init__(self, log: Path):
        self.log = log
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *keys: Key) -> "Provider":
        settings = {
            "folder": str(install()),
            "port": self.port,
            "audience": AUDIENCE,
            "keys": [private_jwk(key) for key in keys],
            "algorithm": keys[0].algorithm,
        }
        script = Path(__file__).with_name("provider.mjs")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["node", script, json.dumps(settings)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers, f"the provider, whose log is {self.log}")
        return self

    def _answers(self) -> bool:
        assert self._process
        assert self._process.poll() is None, self.log.read_text()
        try:
            url = f"{self.url}/.well-known/openid-configuration"
            return httpx.get(url, verify=NO_CAS).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def token(self, client: str, scope: str = "") -> str:
        form = {"grant_type": "client_credentials", "resource": AUDIENCE}
        answer = httpx.post(
            f"{self.url}/token",
            data=form | ({"scope": scope} if scope else {}),
            auth=(client, f"secret-of-{client}"),
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["access_token"]
