#!/usr/bin/env bash
# Make .venv from the lock, every file checked by its hash (`make setup`).
#
# pip decides by its own configuration (index, find-links) whether torch is the CPU or the CUDA build; what only the CUDA
# build needs has a lock of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3.11}
command -v "$python" >/dev/null ||
    { echo "error: no $python on this machine; install Python 3.11, or name it: make PYTHON=/path/to/python setup" >&2; exit 2; }
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    { echo "error: $python is $("$python" --version), the lock is for Python 3.11; name it: make PYTHON=/path/to/python setup" >&2; exit 2; }

install() { .venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps "$@"; }
needs_cuda='
from importlib.metadata import requires
raise SystemExit(not any("cuda" in need or "nvidia" in need for need in requires("torch") if "extra ==" not in need))'

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

echo "setting up .venv from the lock: a minute or two, once"
"$python" -m venv .venv
# Given hashes, pip would prefer the index's CUDA build to a find-links file whose hash it cannot see beforehand. So it
# chooses without them, and what it chose is checked here.
.venv/bin/python -m pip download -qq --disable-pip-version-check --no-deps --dest "$scratch" "$(grep -o '^torch==[0-9.]*' requirements.lock)"
grep -q "sha256:$(sha256sum "$scratch"/torch-*.whl | cut -d ' ' -f 1)" requirements.lock ||
    { echo "error: $(basename "$scratch"/torch-*.whl) has none of the hashes in requirements.lock; check pip's find-links" >&2; exit 2; }
install "$scratch"/torch-*.whl
install --require-hashes -r requirements.lock
if .venv/bin/python -c "$needs_cuda"; then
    echo "torch is its CUDA build; installing what that needs"
    install --require-hashes -r requirements-cuda.lock
fi
install --no-build-isolation --editable .
.venv/bin/python -m pip check
