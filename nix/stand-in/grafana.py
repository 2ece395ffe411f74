"""A test double of `grafana server`, which reads its settings and provisioning as Grafana does.

It exits on what Grafana silently ignores or only logs: an unknown setting, a datasource without its
plugin, a dashboard whose datasource does not exist on this server, a call to the internet.
"""

import argparse
import base64
import json
import os
import re
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import yaml

# The settings that we use, with Grafana's default values.
DEFAULTS = {
    "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "true",
    "GF_ANALYTICS_CHECK_FOR_UPDATES": "true",
    "GF_ANALYTICS_FEEDBACK_LINKS_ENABLED": "true",
    "GF_ANALYTICS_REPORTING_ENABLED": "true",
    "GF_AUTH_ANONYMOUS_ENABLED": "false",
    "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH": "",
    "GF_LOG_LEVEL": "info",
    "GF_LOG_MODE": "console file",
    "GF_NEWS_NEWS_FEED_ENABLED": "true",
    "GF_PATHS_DATA": "data",
    "GF_PATHS_LOGS": "data/log",
    "GF_PATHS_PLUGINS": "data/plugins",
    "GF_PATHS_PROVISIONING": "conf/provisioning",
    "GF_PLUGINS_PLUGIN_ADMIN_ENABLED": "true",
    "GF_PLUGINS_PREINSTALL_AUTO_UPDATE": "true",
    "GF_PLUGINS_PREINSTALL_DISABLED": "false",
    "GF_PLUGINS_PUBLIC_KEY_RETRIEVAL_DISABLED": "false",
    "GF_SECURITY_ADMIN_PASSWORD": "admin",
    "GF_SECURITY_ADMIN_USER": "admin",
    "GF_SECURITY_DISABLE_GRAVATAR": "false",
    "GF_SECURITY_SECRET_KEY": "",
    "GF_SERVER_HTTP_PORT": "3000",
    "GF_SERVER_ROOT_URL": "http://localhost:3000/",
    "GF_SERVER_SERVE_FROM_SUB_PATH": "false",
    "GF_SNAPSHOTS_EXTERNAL_ENABLED": "true",
    "GF_USERS_ALLOW_SIGN_UP": "false",
}
# The official image's script reads these itself.
OF_RUN_SH = {"GF_PATHS_CONFIG", "GF_PATHS_HOME"}
OFFLINE = {
    "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
    "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    "GF_ANALYTICS_REPORTING_ENABLED": "false",
    "GF_NEWS_NEWS_FEED_ENABLED": "false",
    "GF_PLUGINS_PREINSTALL_DISABLED": "true",
    "GF_PLUGINS_PUBLIC_KEY_RETRIEVAL_DISABLED": "true",
    "GF_SECURITY_DISABLE_GRAVATAR": "true",
}
OF_GRAFANA = {"grafana", "-- Grafana --", "-- Mixed --", "-- Dashboard --"}


def require(condition: object, message: str) -> None:
    if not condition:
        sys.exit(f"grafana double: {message}")


def read_settings() -> dict[str, str]:
    given = {name: value for name, value in os.environ.items() if name.startswith("GF_")}
    unknown = given.keys() - DEFAULTS.keys() - OF_RUN_SH
    require(not unknown, f"no such setting: {', '.join(sorted(unknown))}")
    settings = DEFAULTS | given
    for name, value in OFFLINE.items():
        require(
            settings[name] == value,
            f"{name} is {settings[name]}: Grafana would call out to the internet",
        )
    for name in ("GF_PATHS_DATA", "GF_PATHS_LOGS", "GF_PATHS_PROVISIONING"):
        require(Path(settings[name]).is_dir(), f"{name}: {settings[name]} is no directory")
    data = settings["GF_PATHS_DATA"]
    require(
        os.access(data, os.W_OK), f"GF_PATHS_DATA: {data} cannot be written by user {os.getuid()}"
    )
    return settings


def provisioned(settings: dict[str, str], kind: str, key: str) -> list[dict]:
    entries = []
    for file in sorted(Path(settings["GF_PATHS_PROVISIONING"], kind).glob("*.y*ml")):
        document = yaml.safe_load(os.path.expandvars(file.read_text()))
        require(isinstance(document, dict), f"{file}: not a mapping")
        require(document.get("apiVersion") == 1, f"{file}: apiVersion is not 1")
        entries += document.get(key) or []
    return entries


def read_datasources(settings: dict[str, str], home: Path) -> dict[str, dict]:
    folders = (Path(settings["GF_PATHS_PLUGINS"]), home / "public/app/plugins/datasource")
    plugins = {
        json.loads(file.read_text())["id"]
        for folder in folders
        for file in folder.glob("*/plugin.json")
    }
    datasources = {}
    for source in provisioned(settings, "datasources", "datasources"):
        for key in ("name", "type", "url", "uid", "access"):
            require(source.get(key), f"datasource {source}: no {key}")
        require(
            source["type"] in plugins,
            f"datasource {source['name']}: no plugin {source['type']} among {plugins}",
        )
        require(source["uid"] not in datasources, f"datasource uid {source['uid']} twice")
        datasources[source["uid"]] = source
    require(
        sum(bool(source.get("isDefault")) for source in datasources.values()) <= 1,
        "two default datasources",
    )
    return datasources


def check_datasources_of(node: object, known: set[str], where: str) -> None:
    if isinstance(node, list):
        for item in node:
            check_datasources_of(item, known, where)
    elif isinstance(node, dict):
        source = node.get("datasource")
        if isinstance(source, dict) and not str(source.get("uid", "")).startswith("$"):
            require(
                source.get("uid") in known, f"{where}: no datasource with uid {source.get('uid')}"
            )
        for value in node.values():
            check_datasources_of(value, known, where)


def read_dashboards(settings: dict[str, str], datasources: dict[str, dict]) -> dict[str, dict]:
    dashboards = {}
    for provider in provisioned(settings, "dashboards", "providers"):
        require(
            provider.get("type", "file") == "file",
            f"dashboard provider {provider}: type is not file",
        )
        path = Path((provider.get("options") or {}).get("path", ""))
        files = sorted(path.glob("*.json"))
        require(
            path.is_absolute() and files, f"dashboard provider {provider}: no dashboards in {path}"
        )
        for file in files:
            dashboard = json.loads(file.read_text())
            for key in ("uid", "title", "panels", "schemaVersion"):
                require(dashboard.get(key), f"{file}: no {key}")
            require(dashboard["uid"] not in dashboards, f"{file}: uid {dashboard['uid']} twice")
            check_datasources_of(dashboard, OF_GRAFANA | datasources.keys(), str(file))
            dashboards[dashboard["uid"]] = dashboard
    return dashboards


def main() -> None:
    parser = argparse.ArgumentParser(prog="grafana", allow_abbrev=False)
    parser.add_argument("command", choices=["server"])
    parser.add_argument("--homepath", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--packaging", required=True)
    arguments = parser.parse_args()
    require(
        (arguments.homepath / "conf/defaults.ini").exists(), "--homepath has no conf/defaults.ini"
    )
    require(arguments.config.exists(), f"no {arguments.config}")

    settings = read_settings()
    datasources = read_datasources(settings, arguments.homepath)
    dashboards = read_dashboards(settings, datasources)
    Path(settings["GF_PATHS_DATA"], "grafana.db").touch()

    base = ""
    if settings["GF_SERVER_SERVE_FROM_SUB_PATH"] == "true":
        # Grafana replaces these with its own settings.
        url = re.sub(r"%\(\w+\)s", "x", settings["GF_SERVER_ROOT_URL"])
        base = urlsplit(url).path.rstrip("/")
    login = f"{settings['GF_SECURITY_ADMIN_USER']}:{settings['GF_SECURITY_ADMIN_PASSWORD']}"
    authorization = "Basic " + base64.b64encode(login.encode()).decode()

    pages = {
        "/api/datasources": list(datasources.values()),
        "/api/search": [{"uid": uid, "title": board["title"]} for uid, board in dashboards.items()],
    } | {f"/api/dashboards/uid/{uid}": {"dashboard": board} for uid, board in dashboards.items()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path == f"{base}/api/health":
                self.answer(200, {"database": "ok", "version": "double"})
            elif path in (base, f"{base}/", f"{base}/login"):
                self.answer(200, {"title": "Grafana (a double)"})
            elif not path.startswith(base) or path.removeprefix(base) not in pages:
                self.answer(404, {"message": "Not found"})
            elif self.headers["Authorization"] != authorization:
                self.answer(401, {"message": "Invalid username or password"})
            else:
                self.answer(200, pages[path.removeprefix(base)])

        def answer(self, status: int, body: object) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = ThreadingHTTPServer(("", int(settings["GF_SERVER_HTTP_PORT"])), Handler)
    found = f"{len(datasources)} datasources, {len(dashboards)} dashboards"
    print(f"grafana double: serving {base}/ with {found}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
