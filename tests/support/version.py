"""The one version number of the crate, the chart and the images."""

import tomllib
from pathlib import Path

VERSION: str = tomllib.loads((Path(__file__).parents[2] / "Cargo.toml").read_text())["workspace"][
    "package"
]["version"]
