"""A layered image in two steps.

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

MTIME = 1


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
    # One layer per store path, and one with the rest where a runtime would refuse more.
    most = int(env["maxLayers"]) - 2
    layers = [[path] for path in paths[:most]]
    if paths[most:]:
        layers.append(paths[most:])
    tag = os.path.basename(env["out"]).split("-")[0]
    conf = {
        "base": json.loads(pathlib.Path(env["baseJson"]).read_text()),
        "customisation_layer": env["customisationLayer"] + "/layer.tar",
        "store_layers": layers,
        "repo_tag": f"{env['imageName']}:{tag}",
    }
    pathlib.Path(env["out"]).write_text(json.dumps(conf))


def store_layer(paths: list[str]) -> bytes:
    def fixed(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime, info.uid, info.gid, info.uname, info.gname = MTIME, 0, 0, "root", "root"
        return info

    def directory(name: str) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        return fixed(info)

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(directory("nix"))
        tar.addfile(directory("nix/store"))
        for path in paths:
            root = pathlib.Path(path)
            files = (
                [root] if root.is_symlink() or root.is_file() else sorted([root, *root.rglob("*")])
            )
            for file in files:
                info = fixed(tar.gettarinfo(file))
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
    layers = []

    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:

        def add(name: str, content: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), MTIME
            archive.addfile(info, io.BytesIO(content))

        def add_layer(content: bytes) -> None:
            digest = hashlib.sha256(content).hexdigest()
            add(f"{digest}/layer.tar", content)
            layers.append(digest)

        for paths in conf["store_layers"]:
            add_layer(store_layer(paths))
        add_layer(pathlib.Path(conf["customisation_layer"]).read_bytes())

        image = conf["base"] | {
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in layers]},
            "history": [{"created": conf["base"]["created"]} for _ in layers],
        }
        image_json = json.dumps(image).encode()
        image_file = hashlib.sha256(image_json).hexdigest() + ".json"
        add(image_file, image_json)
        manifest = {
            "Config": image_file,
            "RepoTags": [conf["repo_tag"]],
            "Layers": [f"{digest}/layer.tar" for digest in layers],
        }
        add("manifest.json", json.dumps([manifest]).encode())


if __name__ == "__main__":
    if sys.argv[1] == "configure":
        configure()
    else:
        stream(sys.argv[2])
