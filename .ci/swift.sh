#!/usr/bin/env bash
# Install OpenStack Swift, the S3 server that some integration tests start on loopback and stop again, if it is missing,
# and only as root: without it those tests are skipped, and this says so.
set -euo pipefail
cd "$(dirname "$0")/.."

has_swift() { [ -x /usr/bin/python3 ] && /usr/bin/python3 -c 'import swift' 2>/dev/null; }

if ! has_swift && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-swift >/dev/null ||
        echo "apt-get could not install python3-swift" >&2
fi
if ! has_swift; then
    echo "skipped: the tests against OpenStack Swift; they need Debian's python3-swift (apt-get as root installs it)"
fi
