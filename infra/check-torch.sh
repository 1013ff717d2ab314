#!/usr/bin/env bash
# Refuse a wheel of torch that has none of the hashes in the lock: infra/check-torch.sh WHEEL
set -euo pipefail
lock="$(dirname "$0")/../requirements.lock"
grep -q "sha256:$(sha256sum "$1" | cut -d ' ' -f 1)" "$lock" ||
    { echo "error: $(basename "$1") has none of the hashes in requirements.lock; check pip's find-links" >&2; exit 2; }
