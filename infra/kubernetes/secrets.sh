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
# checkpoints'; ATLAS_FUSION_WEBHOOK where there is one. No value is on a command line or in a file that stays.
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
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
put() { mkdir -p "$scratch/$1" && printf %s "$3" >"$scratch/$1/$2"; }
quoted() { printf %s "$1" | python3 -c 'import sys, urllib.parse; print(urllib.parse.quote(sys.stdin.read(), safe=""), end="")'; }

database="postgresql+psycopg2://$(quoted "$PGUSER"):$(quoted "$PGPASSWORD")@$PGHOST:$PGPORT/$PGDATABASE"
admin=$(password)
put mlflow MLFLOW_BACKEND_STORE_URI "$database"
put mlflow MLFLOW_FLASK_SERVER_SECRET_KEY "$(password)"
put mlflow AWS_ACCESS_KEY_ID "$MLFLOW_S3_KEY"
put mlflow AWS_SECRET_ACCESS_KEY "$MLFLOW_S3_SECRET"
# Users lie in the same database, in tables of their own, and so in the same backup. A percent sign is doubled for ini.
put mlflow authentication.ini "[mlflow]
default_permission = READ
database_uri = ${database//%/%%}
admin_username = admin
admin_password = $admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"
put mlflow-admin username admin
put mlflow-admin password "$admin"
put mlflow-reader MLFLOW_TRACKING_USERNAME reader
put mlflow-reader MLFLOW_TRACKING_PASSWORD "$(password)"
put atlas-fusion MLFLOW_TRACKING_USERNAME pipeline
put atlas-fusion MLFLOW_TRACKING_PASSWORD "$(password)"
put atlas-fusion AWS_ACCESS_KEY_ID "$STEPS_S3_KEY"
put atlas-fusion AWS_SECRET_ACCESS_KEY "$STEPS_S3_SECRET"
[ -z "${ATLAS_FUSION_WEBHOOK:-}" ] || put atlas-fusion ATLAS_FUSION_WEBHOOK "$ATLAS_FUSION_WEBHOOK"
for secret in mlflow-backup mlflow-restore; do
    put $secret PGHOST "$PGHOST"
    put $secret PGPORT "$PGPORT"
    put $secret PGDATABASE "$PGDATABASE"
    [ -z "${PGSSLMODE:-}" ] || put $secret PGSSLMODE "$PGSSLMODE"
done
put mlflow-backup PGUSER "$BACKUP_PGUSER"
put mlflow-backup PGPASSWORD "$BACKUP_PGPASSWORD"
put mlflow-restore PGUSER "$PGUSER"
put mlflow-restore PGPASSWORD "$PGPASSWORD"
if [ "$1" = local ]; then
    put postgresql POSTGRES_PASSWORD "$PGPASSWORD"
    put s3 AWS_ACCESS_KEY_ID buckets
    put s3 AWS_SECRET_ACCESS_KEY "$BUCKETS_S3_SECRET"
    user() { printf '{"name": "%s", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], "actions": [%s]}' "$@"; }
    of() { printf '"Read:%s", "Write:%s", "List:%s", "Tagging:%s"' "$1" "$1" "$1" "$1"; }
    put s3 s3.json "{\"identities\": [
$(user buckets buckets "$BUCKETS_S3_SECRET" '"Admin"'),
$(user mlflow "$MLFLOW_S3_KEY" "$MLFLOW_S3_SECRET" "$(of mlflow)"),
$(user steps "$STEPS_S3_KEY" "$STEPS_S3_SECRET" "$(of atlas-fusion)")
]}
"
fi

for folder in "$scratch"/*/; do
    echo ---
    kubectl create secret generic "$(basename "$folder")" --namespace atlas-fusion --from-file="$folder" --dry-run=client --output=yaml
done
