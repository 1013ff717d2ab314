#!/usr/bin/env bash
# Print the Secrets that atlas-fusion needs, fresh passwords in them, for kubectl to take. `create` refuses to replace
# those that are there:
#
#   infra/kubernetes/secrets.sh local | kubectl create -f -
#   infra/kubernetes/secrets.sh production | kubectl create -f -
#
# production takes what lies outside from the environment: PGHOST, PGPORT (5432), PGDATABASE (mlflow); PGUSER and
# PGPASSWORD, who owns the database; BACKUP_PGUSER and BACKUP_PGPASSWORD, who may only read it (pg_read_all_data);
# MLFLOW_S3_KEY and MLFLOW_S3_SECRET for MLflow's bucket, STEPS_S3_KEY and STEPS_S3_SECRET for the data's and
# checkpoints'; BACKUP_S3_KEY and BACKUP_S3_SECRET where backups are copied to S3; ATLAS_FUSION_WEBHOOK where there is
# one. No value is on a command line or in a file that stays.
set -euo pipefail
umask 077
password() { od -An -N20 -tx1 /dev/urandom | tr -d ' \n'; }
case ${1:-} in
    local)
        PGHOST=postgresql PGPORT=5432 PGDATABASE=mlflow PGUSER=mlflow PGPASSWORD=$(password)
        BACKUP_PGUSER=$PGUSER BACKUP_PGPASSWORD=$PGPASSWORD
        MLFLOW_S3_KEY=mlflow MLFLOW_S3_SECRET=$(password) STEPS_S3_KEY=steps STEPS_S3_SECRET=$(password)
        BUCKETS_S3_SECRET=$(password)
        ;;
    production)
        PGPORT=${PGPORT:-5432} PGDATABASE=${PGDATABASE:-mlflow}
        for name in PGHOST PGUSER PGPASSWORD BACKUP_PGUSER BACKUP_PGPASSWORD MLFLOW_S3_KEY MLFLOW_S3_SECRET \
            STEPS_S3_KEY STEPS_S3_SECRET; do
            [ -n "${!name:-}" ] || { echo "$name is not set; $0 opens with what each is" >&2; exit 2; }
        done
        ;;
    *) echo "usage: $0 local|production" >&2; exit 2 ;;
esac
if [ -n "${BACKUP_S3_KEY:-}" ] && [ -z "${BACKUP_S3_SECRET:-}" ]; then
    echo "BACKUP_S3_SECRET is not set; $0 opens with what each is" >&2
    exit 2
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# The value under a key of a Secret, named with its namespace; what rules the registry is in the registry's alone.
put() { mkdir -p "$scratch/$1" && printf %s "$3" >"$scratch/$1/$2"; }
registry=atlas-fusion-registry pipelines=atlas-fusion
quoted() { printf %s "$1" | python3 -c 'import sys, urllib.parse; print(urllib.parse.quote(sys.stdin.read(), safe=""), end="")'; }

database="postgresql+psycopg2://$(quoted "$PGUSER"):$(quoted "$PGPASSWORD")@$PGHOST:$PGPORT/$PGDATABASE"
admin=$(password)
put $registry/mlflow MLFLOW_BACKEND_STORE_URI "$database"
put $registry/mlflow MLFLOW_FLASK_SERVER_SECRET_KEY "$(password)"
put $registry/mlflow AWS_ACCESS_KEY_ID "$MLFLOW_S3_KEY"
put $registry/mlflow AWS_SECRET_ACCESS_KEY "$MLFLOW_S3_SECRET"
# Users lie in the same database, in tables of their own, and so in the same backup. A percent sign is doubled for ini.
put $registry/mlflow authentication.ini "[mlflow]
default_permission = READ
database_uri = ${database//%/%%}
admin_username = admin
admin_password = $admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"
put $registry/mlflow-admin username admin
put $registry/mlflow-admin password "$admin"
# The jobs that make these two users and look after the champion come to MLflow from its own namespace.
pipeline=$(password) reader=$(password)
for secret in $registry/mlflow-pipeline $pipelines/atlas-fusion; do
    put $secret MLFLOW_TRACKING_USERNAME pipeline
    put $secret MLFLOW_TRACKING_PASSWORD "$pipeline"
done
for secret in $registry/mlflow-reader $pipelines/mlflow-reader; do
    put $secret MLFLOW_TRACKING_USERNAME reader
    put $secret MLFLOW_TRACKING_PASSWORD "$reader"
done
put $pipelines/atlas-fusion AWS_ACCESS_KEY_ID "$STEPS_S3_KEY"
put $pipelines/atlas-fusion AWS_SECRET_ACCESS_KEY "$STEPS_S3_SECRET"
[ -z "${ATLAS_FUSION_WEBHOOK:-}" ] || put $pipelines/atlas-fusion ATLAS_FUSION_WEBHOOK "$ATLAS_FUSION_WEBHOOK"
for secret in mlflow-backup mlflow-restore; do
    put $registry/$secret PGHOST "$PGHOST"
    put $registry/$secret PGPORT "$PGPORT"
    put $registry/$secret PGDATABASE "$PGDATABASE"
    [ -z "${PGSSLMODE:-}" ] || put $registry/$secret PGSSLMODE "$PGSSLMODE"
done
if [ -n "${BACKUP_S3_KEY:-}" ]; then
    put $registry/mlflow-backup-s3 AWS_ACCESS_KEY_ID "$BACKUP_S3_KEY"
    put $registry/mlflow-backup-s3 AWS_SECRET_ACCESS_KEY "$BACKUP_S3_SECRET"
fi
put $registry/mlflow-backup PGUSER "$BACKUP_PGUSER"
put $registry/mlflow-backup PGPASSWORD "$BACKUP_PGPASSWORD"
put $registry/mlflow-restore PGUSER "$PGUSER"
put $registry/mlflow-restore PGPASSWORD "$PGPASSWORD"
if [ "$1" = local ]; then
    put $registry/postgresql POSTGRES_PASSWORD "$PGPASSWORD"
    put $registry/s3 AWS_ACCESS_KEY_ID buckets
    put $registry/s3 AWS_SECRET_ACCESS_KEY "$BUCKETS_S3_SECRET"
    user() { printf '{"name": "%s", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], "actions": [%s]}' "$@"; }
    of() { printf '"Read:%s", "Write:%s", "List:%s", "Tagging:%s"' "$1" "$1" "$1" "$1"; }
    put $registry/s3 s3.json "{\"identities\": [
$(user buckets buckets "$BUCKETS_S3_SECRET" '"Admin"'),
$(user mlflow "$MLFLOW_S3_KEY" "$MLFLOW_S3_SECRET" "$(of mlflow)"),
$(user steps "$STEPS_S3_KEY" "$STEPS_S3_SECRET" "$(of atlas-fusion)")
]}
"
fi

for folder in "$scratch"/*/*/; do
    echo ---
    kubectl create secret generic "$(basename "$folder")" --namespace "$(basename "$(dirname "$folder")")" \
        --from-file="$folder" --dry-run=client --output=yaml
done
