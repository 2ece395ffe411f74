#!/usr/bin/env bash
# Runs every check and test, or those of the named stages: ./test.sh [service|chart|cluster|nix|deploy|kubernetes|faults]...
# The stage faults runs only when it is named: the service's tests/faults at length, for some two hours.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

missing=()
need() { command -v "$1" >/dev/null || missing+=("${2:-$1}"); }
stages=("${@:-all}")

need curl
need git
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
if [[ ${stages[*]} =~ all|service|chart|cluster|kubernetes ]]; then
  need chromium
  need ip iproute2
fi
if [[ ${stages[*]} =~ all|service|chart|cluster|kubernetes|faults ]]; then
  PATH=$PATH:$(echo /usr/lib/postgresql/*/bin | tr ' ' :) need postgres postgresql
fi
if [[ ${stages[*]} =~ all|service|faults ]]; then
  need cc gcc
  need faketime
  PATH=$PATH:/usr/sbin need pgbouncer
  need shellcheck
  need strace
fi
if [[ ${stages[*]} =~ all|cluster ]]; then
  PATH=$PATH:/usr/sbin need mkfs.btrfs btrfs-progs
fi
if [[ ${stages[*]} =~ all|deploy|kubernetes ]]; then
  need shellcheck
  need skopeo
fi

if ((${#missing[@]})); then
  if ! command -v apt-get >/dev/null; then
    echo "Missing, under Debian's names: ${missing[*]}. Install them and run ./test.sh again." >&2
    exit 1
  fi
  echo "Installing ${missing[*]}"
  as_root=$([[ $EUID -eq 0 ]] || echo sudo)
  $as_root apt-get update
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}"
fi
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is missing." >&2; exit 1; }
command -v cargo >/dev/null || { echo "Rust is missing: install it from https://rustup.rs" >&2; exit 1; }

if ! cmp -s tests/requirements.txt tests/.venv/requirements.txt; then
  echo "Installing the tests' Python packages into tests/.venv"
  python3 -m venv --clear tests/.venv
  # uv is one of them, and installs the others in a fifth of the time.
  sed -n '/^uv==/,/^ *#/p' tests/requirements.txt >tests/.venv/uv.txt
  tests/.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r tests/.venv/uv.txt
  tests/.venv/bin/uv pip install --python tests/.venv --require-hashes -r tests/requirements.txt
  cp tests/requirements.txt tests/.venv/
fi
# Where it is set, as in many containers, each of some hundred processes compiles its modules anew.
unset PYTHONDONTWRITEBYTECODE
exec tests/.venv/bin/python tests/run.py "$@"
