#!/bin/sh
# Run PostgreSQL on the data in /data, which are made the first time, with the two databases that MLflow needs.
set -eu
umask 077

if [ ! -d /data/cluster ]; then
    rm -rf /data/new
    printf '%s' "$POSTGRES_PASSWORD" >/tmp/password
    initdb --auth=scram-sha-256 --username=mlflow --pwfile=/tmp/password --pgdata=/data/new >/dev/null
    rm /tmp/password
    for name in mlflow users; do
        echo "CREATE DATABASE $name" | postgres --single -D /data/new postgres >/dev/null
    done
    mv /data/new /data/cluster
fi
exec postgres -D /data/cluster -c listen_addresses=127.0.0.1 -c unix_socket_directories=/tmp
