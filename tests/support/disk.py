"""Small file systems that tests can fill up."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Callable[[str], None]]:
    """Puts the contents of `path` on a file system of `size`, such as 400k, for a while. Needs
    root. Yields a function that makes it larger."""
    original = path.with_name(f"{path.name}-original")
    path.rename(original)
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    try:
        subprocess.run(["cp", "-a", f"{original}/.", path], check=True)
        yield lambda larger: _remount(path, larger)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)
        path.rmdir()
        original.rename(path)


def _remount(path: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", path], check=True)
