#!/usr/bin/env bash
# Install the lock into a Python environment, every file checked by its hash; setup.sh and the Dockerfile share it.
#
#   infra/install.sh PYTHON [PYTHON-WITH-PIP]
#
# pip decides by its own configuration (index, find-links) whether torch is the CPU or the CUDA build; what only the CUDA
# build needs has a lock of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$1
pip=("${2:-$1}" -m pip --python "$python" --disable-pip-version-check -qq)
install() { "${pip[@]}" install --no-deps "$@"; }
needs_cuda='
from importlib.metadata import requires
raise SystemExit(not any("cuda" in need or "nvidia" in need for need in requires("torch") if "extra ==" not in need))'

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Given hashes, pip would prefer the index's CUDA build to a find-links file whose hash it cannot see beforehand. So it
# chooses without them, and what it chose is checked here.
"${pip[@]}" download --no-deps --dest "$scratch" "$(grep -o '^torch==[0-9.]*' requirements.lock)"
infra/check-torch.sh "$scratch"/torch-*.whl
install "$scratch"/torch-*.whl
# A package that has only sources is built by the setuptools of the lock, not by the newest there is.
sed -n '/^setuptools==/,/[^\\]$/p' requirements.lock >"$scratch/setuptools.txt"
install --require-hashes -r "$scratch/setuptools.txt"
install --require-hashes --no-build-isolation --use-pep517 -r requirements.lock
if "$python" -c "$needs_cuda"; then
    echo "torch is its CUDA build; installing what that needs"
    install --require-hashes -r requirements-cuda.lock
fi
