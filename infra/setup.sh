#!/usr/bin/env bash
# Make .venv from the lock, every file checked by its hash (`make setup`).
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3.11}
command -v "$python" >/dev/null ||
    { echo "error: no $python on this machine; install Python 3.11, or name it: make PYTHON=/path/to/python setup" >&2; exit 2; }
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    { echo "error: $python is $("$python" --version), the lock is for Python 3.11; name it: make PYTHON=/path/to/python setup" >&2; exit 2; }

echo "setting up .venv from the lock: a minute or two, once"
"$python" -m venv .venv
infra/install.sh .venv/bin/python
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
pip install -qq --no-deps --require-hashes -r requirements-dev.lock
pip install -qq --no-deps --no-build-isolation --editable .
pip check
