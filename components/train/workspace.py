"""The place on S3 by which data reach the nodes of a training, and checkpoints and the model come back.

`data` and `models` are in the layout of a DVC remote, so that what is there is named by its content:
`components.ingest.remote.fetch_version` fetches it whole and verified. A note, written last, says which model is whose.
"""

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from components.ingest.listing import check_version
from components.ingest.remote import Remote, fetch_version, parse_remote
from components.ingest.s3 import Bucket
from components.ingest.version import data_files, file_md5, tree_version
from components.progress import Progress
from model.errors import InputError

_AT_ONCE = 4
_LARGEST = 5 << 30  # bytes of an object that one request can put


@dataclass(frozen=True)
class Workspace:
    """A prefix in a bucket that the launcher and every node can read and write."""

    url: str

    def __post_init__(self) -> None:
        try:
            parse_remote(self.url)
        except InputError:
            raise InputError(
                f"workspace {self.url!r} is no S3 address; give s3://bucket/prefix for training on several nodes"
            ) from None

    @property
    def data(self) -> Remote:
        """Where the packed datasets lie, of all jobs."""
        return self._below("data")

    @property
    def models(self) -> Remote:
        """Where the trained models lie, of all jobs."""
        return self._below("models")

    def checkpoints(self, job: str) -> str:
        """Where a job's checkpoints go, s3://bucket/prefix."""
        return str(self._below(f"jobs/{job}/checkpoints"))

    def put_data(self, folder: Path) -> str:
        """Put a packed dataset there, of which only what is not there is sent; the folder's version."""
        return upload_folder(folder, self.data, "the packed dataset", self._shelf)

    def put_model(self, job: str, folder: Path) -> str:
        """Put the model folder there, then the note that says it is whole; the folder's version."""
        version = upload_folder(folder, self.models, "the model", self._shelf)
        note = json.dumps({"version": version}).encode()
        self._shelf.upload(f"{self._below(f'jobs/{job}').prefix}/model.json", note, "the model")
        return version

    def model_version(self, job: str) -> str | None:
        """The version of the model that a job left; None if it has left none."""
        place = self._below(f"jobs/{job}")
        note = self._shelf.read(f"{place.prefix}/model.json", f"the model of {job}")
        try:
            return check_version(json.loads(note)["version"]) if note else None
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{place}/model.json is no note of ours; remove it, then run again") from None

    def fetch_model(self, version: str, target: Path) -> None:
        """Bring a model into the folder `target`, which appears whole and verified or not at all."""
        fetch_version(self.models, version, target, progress=Progress("fetch"))

    def forget_checkpoints(self, job: str) -> None:
        """Remove a job's checkpoints, whose model is there; what cannot be removed is reported."""
        from components.train.bucket import CheckpointBucket

        CheckpointBucket(self.checkpoints(job), {}, Path(tempfile.gettempdir())).clear()

    @cached_property
    def _shelf(self) -> "_Shelf":
        return _Shelf(parse_remote(self.url).bucket)

    def _below(self, name: str) -> Remote:
        remote = parse_remote(self.url)
        return Remote(remote.bucket, "/".join(filter(None, (remote.prefix, name))))


def upload_folder(folder: Path, remote: Remote, what: str, shelf: "_Shelf") -> str:
    """Put every file of a folder there, the listing last, and return its version; what is there already is not sent.

    Raises InputError if the folder holds nothing, a file is over 5 GiB, or the bucket does not take it.
    """
    files = {path.relative_to(folder).as_posix(): path for path in data_files(folder)}
    if not files:
        raise InputError(f"{folder} holds no files; run the step that makes {what} again")
    md5s = {name: file_md5(path) for name, path in files.items()}
    version, progress = tree_version(md5s.items()), Progress("upload")
    content = {md5: files[name] for name, md5 in md5s.items()}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        sent = pool.map(lambda md5: shelf.complete(remote.key(md5), content[md5], md5, what), content)
        for done, was_sent in enumerate(sent, 1):
            progress(done, len(content), "sent" if was_sent else "there already")
    listing = [{"md5": md5s[name], "relpath": name} for name in sorted(md5s, key=lambda name: name.split("/"))]
    shelf.upload(remote.key(version), json.dumps(listing).encode(), what)
    return version


class _Shelf(Bucket):
    """A bucket to put files into that may be there already."""

    def complete(self, key: str, file: Path, md5: str, what: str) -> bool:
        """Put a file there unless it is there with that MD5 and size; whether it was sent."""
        size = file.stat().st_size
        if size > _LARGEST:
            raise InputError(f"{file} has {size / 2**30:.1f} GiB, S3 takes 5 at once; pack {what} in smaller shards")
        head = self._ask("head_object", f"reach {what} at", what, key, none_if_absent=True, Key=key)
        if head and head["ContentLength"] == size and md5 in (head["ETag"].strip('"'), head["Metadata"].get("md5")):
            return False
        self.upload_file(key, file, md5, what)
        return True

    def read(self, key: str, what: str) -> bytes | None:
        """A small object; None if it is not there."""
        answer = self._ask("get_object", f"reach {what} at", what, key, none_if_absent=True, Key=key)
        return answer and bytes(answer["Body"].read())
