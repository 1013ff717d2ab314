"""Copy the registry's backups to S3, or one of them back from there.

copies.py put: every backup in the folder BACKUPS that BACKUP_S3 (s3://bucket/prefix) lacks, the newest first. Each is
read back and held against its checksum, which is put last: on S3, as in the folder, a dump counts only beside its
checksum. Nothing is ever removed there. Without BACKUP_S3 nothing is done.

copies.py get: with SOURCE=s3, the backup BACKUP (a name or `latest`) into the folder FETCHED; restore.sh checks it.
"""

import hashlib
import os
import re
import sys
import tempfile
from pathlib import Path

from components.ingest.remote import parse_remote
from components.ingest.s3 import Bucket
from components.ingest.version import file_md5
from model.errors import InputError

SUFFIX = ".sha256"
NAME = re.compile(r"mlflow-\d{8}T\d{6}Z\.dump")


class Copies:
    """The backups below an address on S3; raises InputError for what is none, or where nobody answers."""

    def __init__(self, address: str) -> None:
        if not address:
            raise InputError("BACKUP_S3 is not set; the ConfigMap mlflow-backup-s3 names s3://bucket/prefix")
        remote = parse_remote(address)
        self.address, self.prefix = address, f"{remote.prefix}/" if remote.prefix else ""
        self.bucket = Bucket(remote.bucket)
        keys = self.bucket.names(f"{self.prefix}mlflow-", "the backups")
        names = [key.removeprefix(self.prefix).removesuffix(SUFFIX) for key in keys if key.endswith(SUFFIX)]
        self.names = sorted(name for name in names if NAME.fullmatch(name))

    def put(self, dump: Path) -> None:
        """Copy a dump, then its checksum, once what S3 gives back has that checksum."""
        key, sums, what = self.prefix + dump.name, dump.with_name(dump.name + SUFFIX), f"the backup {dump.name}"
        checksum = sums.read_text().split()[0]
        if sha256(dump) != checksum:
            raise InputError(f"{dump} is damaged: it has not the checksum written with it; move both files away")
        self.bucket.upload_file(key, dump, file_md5(dump), what)
        with tempfile.TemporaryDirectory() as folder:
            back = Path(folder) / dump.name
            self.bucket.fetch(key, back, what)
            if sha256(back) != checksum:
                raise InputError(
                    f"{self.address}/{dump.name} is not what was put there; look at that S3, then run again"
                )
        self.bucket.upload(key + SUFFIX, sums.read_bytes(), f"the checksum of {what}")
        print(f"copied {dump.name} to {self.address}, {dump.stat().st_size} bytes")

    def get(self, name: str, folder: Path) -> None:
        """Fetch a backup and its checksum into a folder; InputError with what there is if it is not there."""
        if name == "latest" and self.names:
            name = self.names[-1]
        if name not in self.names:
            there = " ".join(self.names) or "none"
            raise InputError(f"no backup {name!r} with its checksum at {self.address}; there are: {there}")
        for each in (name, name + SUFFIX):
            self.bucket.fetch(self.prefix + each, folder / each, f"the backup {each}")
        print(f"fetched {name} from {self.address}")


def sha256(file: Path) -> str:
    """The SHA-256 of a file, as sha256sum writes it."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def put(address: str) -> None:
    """Copy all that S3 lacks."""
    if not address:
        print("BACKUP_S3 is not set: the backups are on their volume alone")
        return
    copies = Copies(address)
    for sums in sorted(Path(os.environ["BACKUPS"]).glob("mlflow-*.dump.sha256"), reverse=True):
        dump = sums.with_suffix("")
        if dump.name not in copies.names:
            copies.put(dump)


def get(address: str) -> None:
    """Fetch one where the restore shall take it from S3."""
    source = os.environ["SOURCE"]
    if source not in ("volume", "s3"):
        raise InputError(f"SOURCE is {source!r}; give volume or s3")
    if source == "s3":
        Copies(address).get(os.environ["BACKUP"], Path(os.environ["FETCHED"]))


def main() -> int:
    """Exit code: 0, or 2 with one line of what is wrong."""
    try:
        {"put": put, "get": get}[sys.argv[1]](os.environ.get("BACKUP_S3", ""))
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
