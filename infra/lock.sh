#!/usr/bin/env bash
# Write the lock files from pyproject.toml, keeping every pin that still fits (`make lock`).
#
# requirements.lock is what the program needs to run, requirements-dev.lock what its development needs besides; both come
# from one resolve, and the image has the first alone. The lock names torch without a local version and lists the hashes
# of both builds of it: the index's CUDA build, and the CPU build that pip's find-links offer, where this runs on a
# machine that has one. What only the CUDA build needs stands in requirements-cuda.lock, which `make setup` installs if
# that is the build that pip chose.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3.11}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" -m venv "$scratch/uv"
"$scratch/uv/bin/pip" install --quiet uv==0.13.9
compile() {
    "$scratch/uv/bin/uv" pip compile --quiet --no-header --no-annotate --python-version 3.11 "$@" pyproject.toml
}

find_links=$("$python" -m pip config get :env:.find-links 2>/dev/null || "$python" -m pip config get global.find-links 2>/dev/null || true)
[ -n "$find_links" ] || { echo "no pip find-links with a CPU build of torch; its hash would be missing" >&2; exit 2; }
pins="$scratch/pins.txt"
cat requirements*.lock 2>/dev/null | sed 's/ *\\$//; /--hash/d' | sed -E 's/^(torch==[0-9.]*).*/\1/' >"$pins" || true

UV_FIND_LINKS=$find_links compile --generate-hashes --group dev --constraint "$pins" --output-file "$scratch/cpu.lock"
env -u UV_FIND_LINKS bash -c "$(declare -f compile); scratch=$scratch; compile --generate-hashes --group dev --constraint $pins --output-file $scratch/cuda.lock"
sed 's/ *\\$//; /--hash/d' "$scratch/cpu.lock" >"$scratch/chosen.txt"
UV_FIND_LINKS=$find_links compile --constraint "$scratch/chosen.txt" --output-file "$scratch/runtime.lock"

"$python" infra/merge_locks.py "$scratch/cpu.lock" "$scratch/cuda.lock" "$scratch/runtime.lock"
