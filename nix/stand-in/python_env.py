"""FOLDER NAME...: links packages of the tests' environment and their dependencies into FOLDER."""

import os
import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

folder = Path(sys.argv[1])
waiting = sys.argv[2:]
done: set[str] = set()
while waiting:
    name = waiting.pop()
    if name in done:
        continue
    done.add(name)
    found = distribution(name)
    for file in {Path(str(file)).parts[0] for file in found.files or []} - {"..", "__pycache__"}:
        if not (folder / file).exists():
            os.symlink(found.locate_file(file), folder / file)
    requires = [Requirement(text) for text in found.requires or []]
    waiting += [
        one.name for one in requires if not one.marker or one.marker.evaluate({"extra": ""})
    ]
