#!/usr/bin/env bash
# Run a command with a Docker engine at hand, for the tests of the image and of Compose:  .ci/engine.sh make integration
#
# Where one answers already, that one serves. Else, as root on Debian, this installs Debian's, starts a private one (no
# bridge, no firewall rules, everything it writes in a temporary folder) and ends it after the command. Its base image is
# Debian 12 by debootstrap, kept a week for the next time; FUSION_BASE names it. Without an engine the command runs all
# the same; the tests that need one are skipped, and this says so.
set -euo pipefail

cache="${XDG_CACHE_HOME:-$HOME/.cache}/atlas-fusion"
needed=(docker.io docker-compose debootstrap)

without() {
    echo "skipped: the tests of the image and of Compose; $1"
    exec "${command[@]}"
}

install() {
    for program in dockerd docker-compose debootstrap; do
        command -v "$program" >/dev/null || missing=1
    done
    [ -n "${missing:-}" ] || return 0
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${needed[@]}" >/dev/null
}

sources() {
    apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        grep -E ' bookworm(-updates|-security)? main$' | sort -u
}

make_base() {
    [ -z "$(find "$cache/bookworm.tar" -mtime -7 2>/dev/null)" ] || return 0
    echo "making the base image by debootstrap"
    local mirror
    mirror=$(sources | awk '$3 == "bookworm" { print $2; exit }')
    debootstrap --variant=minbase bookworm "$scratch/root" "$mirror" >"$scratch/debootstrap.log" ||
        { tail -n 5 "$scratch/debootstrap.log" >&2; return 1; }
    sources >"$scratch/root/etc/apt/sources.list"
    mkdir -p "$cache"
    tar -C "$scratch/root" -cf "$scratch/bookworm.tar" --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' .
    mv "$scratch/bookworm.tar" "$cache/bookworm.tar"
    rm -rf "$scratch/root"
}

start() {
    mkdir -p "$scratch/data" "$scratch/exec"
    export DOCKER_HOST="unix://$scratch/docker.sock"
    dockerd --host "$DOCKER_HOST" --data-root "$scratch/data" --exec-root "$scratch/exec" --pidfile "$scratch/dockerd.pid" \
        --bridge=none --iptables=false --ip6tables=false >"$scratch/dockerd.log" 2>&1 &
    engine=$!
    until docker version >/dev/null 2>&1; do
        kill -0 "$engine" 2>/dev/null || { tail -n 3 "$scratch/dockerd.log" >&2; return 1; }
        sleep 0.2
    done
}

end() {
    [ -z "${engine:-}" ] || { kill "$engine" 2>/dev/null || true; wait "$engine" 2>/dev/null || true; }
    # The engine leaves the namespace of containers on the machine's own network mounted.
    umount "$scratch"/exec/netns/* 2>/dev/null || true
    # Some hundred thousand files; nobody needs to wait for it.
    nohup rm -rf "$scratch" >/dev/null 2>&1 &
}

[ $# -gt 0 ] || { sed -n '2p' "$0" >&2; exit 2; }
command=("$@")
if command -v docker >/dev/null && docker version >/dev/null 2>&1; then
    exec "$@"
fi
[ "$(id -u)" = 0 ] && [ "$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" = bookworm ] ||
    without "no Docker engine answers, and only root on Debian 12 starts one here"
install || without "apt-get could not install ${needed[*]}"

scratch=$(mktemp -d /tmp/engine.XXXXXX)
trap end EXIT
make_base || { end; without "debootstrap could not make a base image"; }
start || { end; without "dockerd does not start here"; }
# The classic builder, since BuildKit would ask for a network of its own, and the engine has none but the machine's.
export DOCKER_BUILDKIT=0 FUSION_BASE=atlas-fusion-base:bookworm FUSION_BUILD_NETWORK=host
docker import "$cache/bookworm.tar" "$FUSION_BASE" >/dev/null
"$@"
