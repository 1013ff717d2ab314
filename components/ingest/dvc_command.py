"""DVC in a process of its own: into its cache, from its remotes, and its errors as one line."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from components.ingest.address import shown_address
from components.ingest.dvc_cache import damaged_objects, is_cached, object_place
from components.ingest.dvc_config import (
    FROM_ENVIRONMENT,
    REMOTE_VARIABLE,
    Remote,
    cache_folder,
    check_remote,
    configuration,
)
from components.ingest.pin import DATA, PIN, Pin, read_pin
from components.ingest.staging import Advance
from model.errors import InputError, one_line, without_credentials

_CREDENTIALS = re.compile(
    r"InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|Access Denied|Forbidden|\b40[13]\b|locate credentials|"
    r"ExpiredToken|InvalidToken|AuthFailure|PartialCredentials|config profile .* could not be found|not authorized"
)
_SESSION = {
    "profile": "profile_name",
    "region": "region_name",
    "access_key_id": "aws_access_key_id",
    "secret_access_key": "aws_secret_access_key",
    "session_token": "aws_session_token",
}
_SECONDS_BETWEEN_LOOKS = 0.3
_SECONDS_TO_ANSWER = 10
_PORTS = {"http": 80, "https": 443}


def into_cache(root: Path) -> None:
    """Put what lies in `data` into DVC's cache; it must be what `data.dvc` pins, which then stays as it is."""
    place = root / PIN
    before, version = place.read_bytes(), read_pin(root).version
    run_dvc(root, None, "commit", "--force", PIN)
    if (made := read_pin(root).version) != version:
        place.write_bytes(before)
        raise InputError(
            f"DVC makes version {made} of {root / DATA}, not {version} as {PIN} pins; remove hidden "
            "files from the folder, restore .dvcignore, and run `fusion data verify`"
        )


def fetch(root: Path, remote: Remote, pin: Pin, advance: Advance) -> Path:
    """Fetch the pinned version from a remote into the cache, and return the cache; raises InputError, and resumes.

    What the cache holds damaged is fetched again; what comes damaged is not kept.
    """
    cache = cache_folder(root)
    check_remote(remote)
    _drop_damaged(cache, pin)

    def look() -> None:
        advance(sum(object_place(cache, md5).is_file() for md5 in pin.files.values()), len(pin.files))

    run_dvc(root, remote, "fetch", PIN, look=look)
    if dropped := _drop_damaged(cache, pin):
        name = dropped[0].relative_to(cache.parent.parent)
        raise InputError(
            f"{remote} holds {len(dropped)} damaged objects, such as {name}; remove them there, and push the version "
            "anew from where it is (`fusion data push`), or bring it in with `fusion data import`"
        )
    if not is_cached(cache, pin.version):
        if lacks_bucket(root, remote):
            raise InputError(no_bucket(remote))
        _check_answers(remote)
        raise InputError(
            f"{remote} does not hold version {pin.version}; push it from where it is (`fusion data push`), or "
            "bring it in with `fusion data import`"
        )
    return cache


def _drop_damaged(cache: Path, pin: Pin) -> list[Path]:
    """Remove those objects, and return where they were."""
    damaged = damaged_objects(cache, pin)
    try:
        for place in damaged:
            place.unlink()
    except OSError as error:
        raise InputError(f"cannot remove {error.filename}: {error.strerror}; check its permissions") from None
    return damaged


def no_bucket(remote: Remote) -> str:
    """What is said where S3 has no such bucket."""
    mend = f"check {REMOTE_VARIABLE}" if remote.origin == REMOTE_VARIABLE else "check the address"
    return f"there is no bucket for {remote}; create it, or {mend} (`dvc remote modify --local`)"


def lacks_bucket(root: Path, remote: Remote) -> bool:
    """Whether S3 says that it has no such bucket, where DVC's fetch takes that for a bucket without this version."""
    if not remote.url or not remote.url.startswith("s3://"):
        return False
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    given = configuration(root).get("remote", {}).get(remote.name, {})
    session = {key: given[name] for name, key in _SESSION.items() if name in given}
    try:
        client = boto3.Session(**session).client("s3", endpoint_url=given.get("endpointurl"))
        client.head_bucket(Bucket=remote.url.removeprefix("s3://").partition("/")[0])
    except ClientError as error:
        return str(error.response.get("Error", {}).get("Code")) in ("404", "NoSuchBucket")
    except (BotoCoreError, ValueError):
        return False
    return False


def _check_answers(remote: Remote) -> None:
    """Raise InputError where a web remote takes no connection, which DVC's fetch takes for one without this version."""
    import socket
    from urllib.parse import urlsplit

    parts = urlsplit(remote.url or "")
    if parts.scheme not in _PORTS:
        return
    try:
        socket.create_connection((parts.hostname or "", parts.port or _PORTS[parts.scheme]), _SECONDS_TO_ANSWER).close()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot reach {remote} ({error}); check the address and the network") from None


def run_dvc(
    root: Path, remote: Remote | None, *arguments: str, look: Callable[[], None] | None = None, code: str = ""
) -> str:
    """Run DVC, or `code` that uses it as a library, and return what it prints.

    Raises InputError with one line for what it complains of.
    """
    given = ["-c", code, *arguments] if code else ["-m", "dvc", *arguments]
    if remote and remote.name:
        given += ["--remote", remote.name]
    with (
        _settings(root, remote) as settings,
        tempfile.TemporaryFile("w+") as said,
        tempfile.TemporaryFile("w+") as told,
    ):
        with subprocess.Popen(
            [sys.executable, *given],
            cwd=root,
            env=os.environ | settings,
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=said,
        ) as process:
            while look:
                try:
                    process.wait(_SECONDS_BETWEEN_LOOKS)
                    break
                except subprocess.TimeoutExpired:
                    look()
        said.seek(0)
        told.seek(0)
        if process.returncode:
            raise InputError(_explained(said.read(), remote, arguments[0], root))
        return told.read()


def _quoted(value: str) -> str:
    """A value as DVC's configuration holds it, which has no way to write both kinds of quotes on one line."""
    if ('"' in value and "'" in value) or "\n" in value:
        raise InputError(
            f"{shown_address(value)} holds quotes of both kinds or a line break; rename the remote's place"
        )
    return f"'{value}'" if '"' in value else f'"{value}"'


@contextmanager
def _settings(root: Path, remote: Remote | None) -> Iterator[dict[str, str]]:
    """The environment that tells DVC what its configuration cannot take from it: a remote's address, no git."""
    from dvc.dirs import system_config_dir

    lines = []
    if remote and remote.name == FROM_ENVIRONMENT:
        # Unquoted, the address would end at a # and become a list at a comma.
        lines += [f"['remote \"{remote.name}\"']", f"    url = {_quoted(remote.url or '')}"]
    if not (root / ".git").exists():
        lines += ["[core]", "    no_scm = true"]
    quiet = {"DVC_NO_ANALYTICS": "1", "PYTHONWARNINGS": "ignore"}
    if not lines:
        yield quiet
        return
    with tempfile.TemporaryDirectory() as folder:
        own = Path(system_config_dir(), "config")
        before = own.read_text() if own.is_file() else ""
        Path(folder, "config").write_text("\n".join([before, *lines, ""]))
        yield quiet | {"DVC_SYSTEM_CONFIG_DIR": folder}


def _explained(said: str, remote: Remote | None, task: str, root: Path) -> str:
    """DVC's complaint as one line: what, where, what to do."""
    where = str(remote or root)
    if "NoSuchBucket" in said or "bucket does not exist" in said:
        return no_bucket(remote) if remote else "there is no bucket"
    if _CREDENTIALS.search(said):
        return (
            f"S3 refuses the credentials for {where}; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "to ones that may use this bucket"
        )
    if "Could not connect" in said or "Connect timeout" in said or "ConnectionError" in said:
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "the endpoint"
        return f"cannot reach {shown_address(endpoint)} for {where}; check the network, and AWS_ENDPOINT_URL_S3"
    if "Cannot combine AUTHORIZATION header" in said:
        return f"AWS_ENDPOINT_URL_S3 holds a user or password, which S3 takes none of there, for {where}; leave it out"
    if "No space left" in said:
        return "the disk is full under DVC's cache; make room and run the same command again, it continues"
    if "Unable to acquire lock" in said or "is locked" in said:
        return "another DVC is at work in this checkout; wait for it to end"
    if remote and remote.url:
        said = said.replace(remote.url, str(remote))
    errors = [line.partition("ERROR: ")[2] for line in said.splitlines() if "ERROR: " in line]
    why = without_credentials(errors[0] if errors else (said.strip().splitlines() or ["it gave no reason"])[-1])
    return f"dvc {task} failed for {where}: {one_line(why)}; `dvc {task} -v {PIN}` tells more"
