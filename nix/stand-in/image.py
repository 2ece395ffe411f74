"""A layered image in two steps, as nixpkgs makes it (pkgs/build-support/docker).

configure    chooses the layers
stream CONF  writes the docker archive to stdout
"""

import hashlib
import io
import json
import os
import pathlib
import sys
import tarfile
from datetime import datetime


def closure(graph: str, exclude: set[str]) -> list[str]:
    """The store paths in a file that Nix wrote for exportReferencesGraph.

    For each there are its path, its deriver, the number of its references, and these.
    """
    lines = iter(pathlib.Path(graph).read_text().splitlines())
    paths = []
    for path in lines:
        next(lines)
        for _ in range(int(next(lines))):
            next(lines)
        if path not in exclude:
            paths.append(path)
    return paths


def configure() -> None:
    env = os.environ
    exclude = {env["baseJson"], env["customisationLayer"]}
    paths = sorted({*closure("base", exclude), *closure("customisation", exclude)})
    # One layer per store path, and a last one with the rest, since runtimes limit the number.
    most = int(env["maxLayers"]) - 2
    layers = [[path] for path in paths[:most]]
    if paths[most:]:
        layers.append(paths[most:])
    tag = os.path.basename(env["out"]).split("-")[0]
    conf = json.loads(pathlib.Path(env["baseJson"]).read_text()) | {
        "created": env["created"],
        "customisation_layer": env["customisationLayer"] + "/layer.tar",
        "store_layers": layers,
        "repo_tag": f"{env['imageName']}:{tag}",
    }
    pathlib.Path(env["out"]).write_text(json.dumps(conf))


def store_layer(paths: list[str], mtime: int) -> bytes:
    """Its entries begin with a slash; those of the customisation layer, by GNU tar, with `./`."""

    def fixed(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime, info.uid, info.gid, info.uname, info.gname = mtime, 0, 0, "root", "root"
        return info

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w|") as tar:
        for name in ("/nix", "/nix/store"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(fixed(folder))
        for path in map(pathlib.Path, paths):
            for file in [path] if path.is_symlink() else sorted([path, *path.rglob("*")]):
                info = fixed(tar.gettarinfo(file))
                info.name = f"/{info.name}"
                if info.islnk():
                    info.type, info.linkname, info.size = tarfile.REGTYPE, "", file.stat().st_size
                if info.isfile():
                    with file.open("rb") as content:
                        tar.addfile(info, content)
                else:
                    tar.addfile(info)
    return out.getvalue()


def stream(conf_file: str) -> None:
    conf = json.loads(pathlib.Path(conf_file).read_text())
    created = datetime.fromisoformat(conf["created"].replace("Z", "+00:00"))
    mtime = int(created.timestamp())
    layers = []
    history = []

    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:

        def add(name: str, content: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), mtime
            archive.addfile(info, io.BytesIO(content))

        def add_layer(content: bytes, paths: list[str]) -> None:
            digest = hashlib.sha256(content).hexdigest()
            add(f"{digest}/layer.tar", content)
            layers.append(digest)
            history.append({"created": created.isoformat(), "comment": f"store paths: {paths}"})

        for paths in conf["store_layers"]:
            add_layer(store_layer(paths, mtime), paths)
        customisation = pathlib.Path(conf["customisation_layer"])
        add_layer(customisation.read_bytes(), [str(customisation.parent)])

        image = {
            "created": created.isoformat(),
            "architecture": conf["architecture"],
            "os": "linux",
            "config": conf["config"],
            "rootfs": {"diff_ids": [f"sha256:{digest}" for digest in layers], "type": "layers"},
            "history": history,
        }
        image_json = json.dumps(image, indent=4).encode()
        image_file = hashlib.sha256(image_json).hexdigest() + ".json"
        add(image_file, image_json)
        manifest = {
            "Config": image_file,
            "RepoTags": [conf["repo_tag"]],
            "Layers": [f"{digest}/layer.tar" for digest in layers],
        }
        add("manifest.json", json.dumps([manifest], indent=4).encode())


if __name__ == "__main__":
    if sys.argv[1] == "configure":
        configure()
    else:
        stream(sys.argv[2])
