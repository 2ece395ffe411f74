"""Where the tests keep what takes long to fetch or build."""

import os
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wiki-service-tests"
