"""A cache for what takes long to fetch or build."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wiki-service-tests"


@contextmanager
def turn(name: str, meanwhile: Callable[[], object] | None = None) -> Iterator[None]:
    """Waits while another process makes the same thing: stages run in parallel. What can be done
    meanwhile is done only if there is something to wait for."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if meanwhile:
                meanwhile()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
