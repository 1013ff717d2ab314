#!/usr/bin/env bash
# Build the container image and write the list of everything in it (`make image`); docs/image.md tells of it.
#
#   infra/image.sh [--target cpu|gpu] [--tag NAME:TAG] [--base IMAGE@DIGEST] [--source URL] [-- options of docker build]
#
# The packages of the lock go into wheels/ first, by the pip of .venv and its configuration (index, find-links,
# certificates, credentials): none of that enters the image or its history. Files that are there already are not fetched
# again, so that wheels/ may also be brought from another machine.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n 's/^#   //p' "$0" >&2; exit 2; }
fail() { echo "error: $1" >&2; exit 2; }

target=cpu tag="" base="" source=$(git remote get-url origin 2>/dev/null || true) options=()
while [ $# -gt 0 ]; do
    case $1 in
        --target | --tag | --base | --source) [ $# -gt 1 ] || usage; declare "${1#--}=$2"; shift 2 ;;
        --) shift; options=("$@"); break ;;
        *) usage ;;
    esac
done
case $target in cpu) build=+cpu suffix="" ;; gpu) build="" suffix=-gpu ;; *) usage ;; esac
command -v docker >/dev/null || fail "no docker on this machine; install Docker"
docker version >/dev/null || fail "no Docker engine answers; start it, or set DOCKER_HOST"
[ -x .venv/bin/python ] || fail "no .venv here; make setup"

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
tag=${tag:-$(sed -n 's/^IMAGE = "\(.*\)"/\1/p' components/image.py)$suffix}
# An address that is only this machine's, or holds a password, is no source.
[[ $source =~ ^https://[^@]+$ ]] || source=unknown
made_of=(model components pipelines infra pyproject.toml README.md LICENSE requirements.lock requirements-cuda.lock)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain -- "${made_of[@]}" 2>/dev/null)" ] || revision+=-dirty

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# The stamp says for what wheels/ was filled, so that no package of another lock or target lies there.
stamp="$target $(cat requirements.lock requirements-cuda.lock | sha256sum)"
if [ "$(cat wheels/.filled 2>/dev/null)" != "$stamp" ]; then
    echo "fetching the packages of the lock into wheels/"
    pip=(.venv/bin/python -m pip download -qq --disable-pip-version-check --no-deps --no-build-isolation --use-pep517)
    mkdir -p wheels
    rm -f wheels/.filled wheels/torch-*
    torch=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' requirements.lock)
    # "===" takes the index's own build, where "==" would prefer any local version of it.
    "${pip[@]}" --find-links wheels --dest "$scratch" "torch===$torch$build" ||
        fail "no torch $torch$build to be had; where is it? PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL names a folder or an index"
    infra/check-torch.sh "$scratch"/torch-*.whl
    locks=(requirements.lock)
    [ "$target" = cpu ] || locks+=(requirements-cuda.lock)
    sed '/^torch==/,/[^\\]$/d' "${locks[@]}" >"$scratch/rest.txt"
    "${pip[@]}" --require-hashes --find-links wheels --dest "$scratch" --requirement "$scratch/rest.txt"
    rm -f "$scratch/rest.txt" wheels/*
    mv "$scratch"/* wheels/
    echo "$stamp" >wheels/.filled
fi

docker build --file infra/Dockerfile --target "$target" --tag "$tag" ${base:+--build-arg "BASE=$base"} \
    --build-arg "VERSION=$version" --build-arg "REVISION=$revision" --build-arg "SOURCE=$source" "${options[@]}" .

mkdir -p build
list="build/atlas-fusion-$version-$target.cdx.json"
docker run --rm --interactive --network none --read-only --tmpfs /tmp --cap-drop ALL "$tag" \
    python3 - "$tag" "$(docker image inspect --format '{{.Id}}' "$tag")" <infra/packages.py >"$scratch/list.json"
mv "$scratch/list.json" "$list"
echo "$tag: $(docker image inspect --format '{{.Size}}' "$tag" | awk '{ printf "%.2f GB", $1 / 1e9 }'), revision $revision; $list lists what is in it"
