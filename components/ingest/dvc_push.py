"""Storing the pinned version on a DVC remote, and asking the remote itself which of its files it lacks."""

import json
import tempfile
from pathlib import Path

from components.ingest.dvc_cache import damaged, damaged_objects
from components.ingest.dvc_command import lacks_bucket, no_bucket, run_dvc
from components.ingest.dvc_config import Remote, cache_folder, check_remote
from components.ingest.pin import PIN, Pin, read_pin, require_listing
from model.errors import InputError

# What `dvc` has no command for: asking a remote for objects past DVC's index, storing them there one by one, and to
# tell there which version was pushed last. An object is lacking where it is not, is of another size than in the cache,
# or has a checksum or content that is not its name's.
_OBJECTS = """
import hashlib, json, os, re, sys
from dvc.repo import Repo
task, listed, _, name = [*sys.argv[1:], None, None][:4]

def sound(md5, info, path):
    own, etag = cache.oid_to_path(md5), str(info.get("ETag", "")).strip('"')
    if os.path.isfile(own) and info.get("size") not in (None, os.path.getsize(own)):
        return False
    wanted = md5.removesuffix(".dir")
    if etag == wanted or (fs.protocol != "local" and not re.fullmatch("[0-9a-f]{32}", etag)):
        return True
    # Encrypted by a key of its own, S3 gives checksums of what it stores.
    content = open(path, "rb").read() if fs.protocol == "local" else fs.fs.cat_file(path)
    return hashlib.md5(content).hexdigest() == wanted

try:
    md5s, repo = json.load(open(listed)), Repo()
    remote, cache = repo.cloud.get_remote_odb(name), repo.cache.local
    fs, places = remote.fs, {remote.oid_to_path(md5): md5 for md5 in md5s}
    if task == "put":
        remote.add([cache.oid_to_path(md5) for md5 in md5s], cache.fs, md5s, check_exists=False)
        there = md5s
    elif task == "pin":
        fs.put_file("data.dvc", fs.join(fs.parent(fs.parent(remote.path)), "data.dvc"))
        there = md5s
    elif fs.protocol in ("local", "s3"):
        here = fs.protocol == "local"
        found = {path: {} for path in places if os.path.isfile(path)} if here else fs.fs.find(remote.path, detail=True)
        there = [md5 for path, md5 in places.items() if path in found and sound(md5, found[path], path)]
    else:
        there = remote.oids_exist(md5s)
    print(json.dumps(sorted(set(md5s) - set(there))))
except Exception as error:
    sys.exit(f"ERROR: {type(error).__name__}: {error}")
"""


def push(root: Path, remote: Remote) -> None:
    """Push the pinned version to a remote; raises InputError unless the remote then holds it, undamaged.

    Last of all `data.dvc` itself is put at the remote's root: the version that who asks for the latest one gets.
    """
    check_remote(remote)
    pin = require_listing(read_pin(root), root)
    if spoilt := damaged_objects(cache_folder(root), pin):
        raise damaged(spoilt[0])
    run_dvc(root, remote, "push", PIN)
    if read_pin(root).version != pin.version:
        raise InputError(f"{root / PIN} changed during the push; `git diff {PIN}` shows how; push again")
    # DVC takes a remote that holds the listing of a version for one that holds all its files.
    if lacks := missing_on_remote(root, remote, pin):
        _objects(root, remote, "put", lacks)
        lacks = missing_on_remote(root, remote, pin)
    if lacks:
        raise InputError(f"{remote} lacks {len(lacks)} files of version {pin.version} after the push; push again")
    _objects(root, remote, "pin", [pin.version])


def missing_on_remote(root: Path, remote: Remote, pin: Pin) -> list[str]:
    """The MD5s of the files of the pinned version that the remote lacks or holds damaged; InputError if it is silent.

    It is asked for each, by name, size and checksum, while `dvc status --cloud` concludes from the version's listing.
    """
    check_remote(remote)
    wanted = sorted({pin.version, *pin.files.values()})
    missing = _objects(root, remote, "status", wanted)
    if missing == wanted and lacks_bucket(root, remote):
        raise InputError(no_bucket(remote))
    return missing


def _objects(root: Path, remote: Remote, task: str, md5s: list[str]) -> list[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as listed:
        json.dump(md5s, listed)
        listed.flush()
        return list(json.loads(run_dvc(root, remote, task, listed.name, code=_OBJECTS)))
