#!/usr/bin/env bash
# Dump the database that PGHOST, PGDATABASE, ... name into the folder BACKUPS, with its checksum; keep the newest KEEP.
set -euo pipefail
umask 077
BACKUPS=${BACKUPS:?names the folder} KEEP=${KEEP:-30}
[[ $KEEP =~ ^[1-9][0-9]*$ ]] || { echo "KEEP is '$KEEP'; give how many backups to keep, at least 1" >&2; exit 2; }
cd "$BACKUPS"

name=mlflow-$(date -u +%Y%m%dT%H%M%SZ).dump
trap 'rm -f ./*.partial' EXIT
pg_dump --format=custom --compress=6 --no-owner --no-privileges --file="$name.partial"
pg_restore --list "$name.partial" >"$name.list.partial"
grep -q 'TABLE DATA.* model_versions ' "$name.list.partial" || { echo "this database holds no MLflow registry; nothing kept" >&2; exit 1; }
sha256sum "$name.partial" | sed 's/\.partial$//' >"$name.sha256.partial"
sync "$name.partial" "$name.sha256.partial"
# A dump counts only beside its checksum, which therefore comes last.
mv "$name.partial" "$name"
mv "$name.sha256.partial" "$name.sha256"
echo "kept $name, $(stat --format=%s "$name") bytes"

mapfile -t old < <(printf '%s\n' mlflow-*.dump.sha256 | sort --reverse | tail --lines=+$((KEEP + 1)))
for sum in "${old[@]}"; do
    rm -f "$sum" "${sum%.sha256}"
    echo "dropped ${sum%.sha256}, older than the newest $KEEP"
done
