#!/usr/bin/env bash
# Write .env for compose.yaml, with new random secrets, and make the folder of runs; what is there already stays as it is.
#
#   infra/compose/prepare.sh [FOLDER-OF-RUNS]     (default: runs)
set -euo pipefail
folder=$(realpath -m "${1:-runs}")
cd "$(dirname "$0")"
umask 077

secret() { head -c 24 /dev/urandom | od -An -vtx1 | tr -d ' \n'; }

# The pipeline writes the folder as you; not as root, who makes it for another.
user=$(id -u):$(id -g)
[ "$(id -u)" != 0 ] || user=1000:1000
if [ ! -d "$folder" ]; then
    mkdir -p "$folder"
    [ "$(id -u)" != 0 ] || chown "$user" "$folder"
fi

if [ -e .env ]; then
    echo "kept infra/compose/.env"
    exit
fi
cat >.env.partial <<END
POSTGRES_PASSWORD=$(secret)
MLFLOW_ADMIN_PASSWORD=$(secret)
MLFLOW_SESSION_KEY=$(secret)
S3_SECRET_KEY=$(secret)
FUSION_USER=$user
FUSION_RUNS=$folder
END
mv .env.partial .env
echo "wrote infra/compose/.env, readable by you alone; MLflow's user is keeper, its password stands there"
