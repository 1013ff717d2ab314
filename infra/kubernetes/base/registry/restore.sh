#!/usr/bin/env bash
# Bring BACKUP (a name in the folder BACKUPS, or `latest`) back into the database that PGHOST, PGDATABASE, ... name. With
# SOURCE=s3 it is the one that copies.py has fetched into the folder FETCHED.
# Everything or nothing: in one transaction. A database that holds something is replaced only with REPLACE=yes.
set -euo pipefail
BACKUPS=${BACKUPS:?names the folder} BACKUP=${BACKUP:-latest} REPLACE=${REPLACE:-no}
refuse() { echo "refused: $1" >&2; exit 2; }
ask() { psql --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 --command="$1"; }
[ "${SOURCE:-volume}" = volume ] || BACKUPS=${FETCHED:?names the folder}
cd "$BACKUPS"

if [ "$BACKUP" = latest ]; then
    BACKUP=$(printf '%s\n' mlflow-*.dump.sha256 | sort | tail --lines=1)
    BACKUP=${BACKUP%.sha256}
fi
[[ $BACKUP =~ ^mlflow-[0-9]{8}T[0-9]{6}Z\.dump$ ]] || refuse "no backup '$BACKUP'; there are: $(echo mlflow-*.dump)"
[ -f "$BACKUP" ] && [ -f "$BACKUP.sha256" ] || refuse "$BACKUP or its checksum is not in $BACKUPS; choose another"
[ "$(cut --delimiter=' ' --fields=1 "$BACKUP.sha256")" = "$(sha256sum "$BACKUP" | cut --delimiter=' ' --fields=1)" ] ||
    refuse "$BACKUP is damaged or was altered: it has not the checksum written with it; choose another"

others=$(ask "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
[ "$others" = 0 ] || refuse "$others connections to this database are open; stop MLflow first (replicas 0)"
tables=$(ask "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
[ "$tables" = 0 ] || [ "$REPLACE" = yes ] || refuse "this database holds $tables tables; REPLACE=yes replaces them"

# All goes through one psql: dropping what was there and filling it again are one transaction. If reading the dump fails,
# what is appended is an error wherever it breaks off, in the midst of a table's rows too.
{
    [ "$tables" = 0 ] || echo 'DROP SCHEMA public CASCADE; CREATE SCHEMA public;'
    pg_restore --no-owner --no-privileges --file=- "$BACKUP" || printf '%s\n' '\.' 'SELECT the_backup_ends_early;'
} | psql --no-psqlrc --quiet --single-transaction --set=ON_ERROR_STOP=1 --output=/dev/null
echo "restored $BACKUP: $(ask 'SELECT count(*) FROM model_versions') model versions, $(ask 'SELECT count(*) FROM runs') runs"
