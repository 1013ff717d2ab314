#!/usr/bin/env bash
# Make .venv from the lock, every file checked by its hash (`make setup`).
#
# uv does the installing, in seconds instead of minutes; it is told what pip on this machine is configured to use, so
# torch is the CPU or the CUDA build as pip's find-links and index decide.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || { echo "error: no $python; install Python 3.11 or name it: make PYTHON=... setup" >&2; exit 2; }
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    { echo "error: $python is $("$python" --version); the lock is for Python 3.11: make PYTHON=python3.11 setup" >&2; exit 2; }

pip_setting() {
    for section in :env: install global; do
        .venv/bin/python -m pip config get "$section.$1" 2>/dev/null && return
    done || true
}

echo "setting up .venv (once; minutes at most)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r infra/uv.lock
UV_FIND_LINKS=${UV_FIND_LINKS:-$(pip_setting find-links)}
UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$(pip_setting index-url)}
export UV_FIND_LINKS
[ -z "$UV_DEFAULT_INDEX" ] || export UV_DEFAULT_INDEX

install() { .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps "$@"; }
install --require-hashes -r requirements.lock
if .venv/bin/python -c 'import sys; from importlib.metadata import requires; sys.exit(not any("nvidia" in r or "cuda" in r for r in requires("torch") if "extra ==" not in r))'; then
    install --require-hashes -r requirements-cuda.lock
fi
install --no-build-isolation --editable .
.venv/bin/uv pip check --quiet --python .venv/bin/python
