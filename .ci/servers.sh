#!/usr/bin/env bash
# Install the servers that some integration tests start on loopback and stop again, where one is missing and this runs
# as root: OpenStack Swift, an S3 server that checks signatures, and PostgreSQL. Tests whose server is missing are
# skipped, and this says so.
set -euo pipefail
cd "$(dirname "$0")/.."

has_swift() { [ -x /usr/bin/python3 ] && /usr/bin/python3 -c 'import swift' 2>/dev/null; }
has_postgresql() { compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }

missing=()
has_swift || missing+=(python3-swift)
has_postgresql || missing+=(postgresql)
if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
        echo "apt-get could not install ${missing[*]}" >&2
fi
has_swift || echo "skipped: the tests against OpenStack Swift; they need Debian's python3-swift (apt-get as root installs it)"
has_postgresql || echo "skipped: the tests against MLflow on PostgreSQL; they need Debian's postgresql (apt-get as root installs it)"
