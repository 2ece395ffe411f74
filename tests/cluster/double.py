#!/usr/bin/env python3
"""Answers as dockerd, docker, k3d, kubectl, helm, zstd and iptables did in a real boot.

It goes by the name it is called by, remembers what was done on the volume, and notes each call
there. BROKEN in the environment names what fails.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

MEMORY = Path("/var/lib/docker/double.json")  # outlives the container, as the real things do
CALLS = Path("/var/lib/docker/calls")
PODS = {
    "items": [
        {
            "metadata": {"name": f"wiki-release-{name}"},
            "status": {
                "phase": "Running",
                "containerStatuses": [
                    {"ready": ready, "restartCount": 0, "state": {"running": {}}}
                ],
            },
        }
        for name, ready in {"api": True, "grafana": os.environ.get("BROKEN") != "pods"}.items()
    ]
}


def recall() -> dict:
    empty = {"images": [], "imported": [], "node": None, "release": None}
    return json.loads(MEMORY.read_text()) if MEMORY.exists() else empty


def remember(**changes: object) -> None:
    MEMORY.write_text(json.dumps(recall() | changes))


def note(call: str) -> None:
    with CALLS.open("a") as calls:
        calls.write(f"{call}\n")


def fail(message: str) -> None:
    sys.exit(message)


def dockerd() -> None:
    status = Path("/proc/self/status").read_text().splitlines()
    (blocked,) = (line.split()[1] for line in status if line.startswith("SigBlk:"))
    note(f"blocked signals: {blocked}")
    server = socket.socket(socket.AF_UNIX)
    server.bind("/run/docker.sock")
    server.listen()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("API listen on /run/docker.sock", flush=True)
    while True:
        client, _ = server.accept()
        client.recv(1000)
        client.sendall(b"HTTP/1.0 200 OK\r\n\r\nOK")
        client.close()


def docker(*arguments: str) -> None:
    memory = recall()
    match arguments:
        case ["image", "inspect", image]:
            image in memory["images"] or fail(f"Error: No such image: {image}")
        case ["load", *_]:
            remember(images=[*memory["images"], sys.stdin.read().strip()])
        case ["container", "inspect", *_]:
            print(memory["node"] or fail("Error: No such object: k3d-wiki-server-0"))
        case ["start", _]:
            serve()
        case ["exec", *_, "ls", "--quiet"]:
            memory["node"] or fail("Error: No such container: k3d-wiki-server-0")
            print("\n".join(memory["imported"]))
        case ["exec", *_, "import", "-"]:
            remember(
                imported=[*memory["imported"], f"docker.io/library/{sys.stdin.read().strip()}"]
            )
        case ["image", "ls", *_]:
            print("\n".join(memory["images"]))


def k3d(*arguments: str) -> None:
    match arguments:
        case ["cluster", "delete", _]:
            remember(node=None)
        case ["cluster", "create", *_]:
            (label,) = [each for each in arguments if each.startswith("wiki-cluster.node=")]
            remember(node=label.removeprefix("wiki-cluster.node=").removesuffix("@server:0"))
            serve()


def kubectl(*arguments: str) -> None:
    match arguments:
        case ["rollout", *_] if os.environ.get("BROKEN") == "pods":
            fail("error: timed out waiting for the condition")
        case ["get", "pods", *_, "--output=json", _]:
            print(json.dumps(PODS))
        case ["get", "pods" | "events" as what, *_]:
            print(f"the {what}")
        case ["exec", *_]:
            sys.stdout.write("-- dump\n--\n-- PostgreSQL database dump complete\n--\n")


def helm(*arguments: str) -> None:
    match arguments:
        case ["template", *_]:
            real = [os.environ["REAL_HELM"], *arguments]
            sys.exit(subprocess.run(real, check=False).returncode)
        case ["status", *_]:
            release = recall()["release"] or fail("Error: release: not found")
            print(json.dumps({"info": {"status": "deployed", "description": release}}))
        case ["upgrade", *_]:
            remember(release=arguments[arguments.index("--description") + 1])


def zstd(*arguments: str) -> None:
    print(Path(arguments[-1]).read_text())


def iptables(*_: str) -> None:
    pass


def serve() -> None:
    """What is behind port 8080 from now on."""
    subprocess.Popen([sys.executable, Path(__file__).resolve()], start_new_session=True)
    while not Path("/run/api").exists():
        time.sleep(0.01)


def api() -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("Content-Type", "application/problem+json")
            self.end_headers()

    Handler.protocol_version = "HTTP/1.1"
    server = HTTPServer(("0.0.0.0", 8080), Handler)
    Path("/run/api").touch()
    server.serve_forever()


if __name__ == "__main__":
    name = Path(sys.argv[0]).name
    if name == "double.py":
        api()
    note(" ".join([name, *sys.argv[1:]]))
    if os.environ.get("BROKEN") == name:
        fail(f"{name} is broken")
    globals()[name](*sys.argv[1:])
