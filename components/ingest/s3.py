"""One object on S3 at a time, by boto3 alone: fetched to disk, continued where it was cut, or put; checked by its MD5.

Endpoint, region, addressing style and credentials come from the standard AWS environment and profile chain.
"""

import base64
import hashlib
import os
import random
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from model.errors import InputError

THREADS = 8

_PIECE = 256 << 10
_ATTEMPTS = 5
_CONNECT_SECONDS = 5
_READ_SECONDS = 30
_WRONG_CREDENTIALS = {
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired"),
    *("AuthorizationHeaderMalformed", "InvalidClientTokenId", "AuthFailure", "UnrecognizedClientException"),
}
_NOT_FOUND = {"NoSuchKey", "404", "NotFound"}
_ELSEWHERE = {"PermanentRedirect", "301", "307", "TemporaryRedirect", "IllegalLocationConstraintException"}


class Stopped(Exception):
    """Another object failed, or the user interrupts: this one is left where it is."""


class Corrupted(InputError):
    """An object is not what was stored, also when it is fetched again."""


@dataclass
class Bucket:
    """A bucket to fetch objects from, by several threads at once (`stopped` ends what they are at), and to put them in.

    A request is tried `attempts` times (0: as the AWS settings say), each for as long as the server is silent for no
    more than `read_seconds`.
    Raises InputError where the profile, the endpoint or the like is not fit to reach any bucket.
    """

    name: str
    stopped: threading.Event = field(default_factory=threading.Event)
    attempts: int = 0
    read_seconds: float = _READ_SECONDS

    def __post_init__(self) -> None:
        import boto3
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ProfileNotFound

        try:
            settings = botocore.session.get_session()
            session = boto3.session.Session(botocore_session=settings)
            mode, attempts = (settings.get_config_variable(name) for name in ("retry_mode", "max_attempts"))
            config = Config(
                # The mode that is the default, legacy, knows fewer errors to try again after.
                retries={
                    "mode": "standard" if mode == "legacy" else mode,
                    "total_max_attempts": self.attempts or attempts or _ATTEMPTS,
                },
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=self.read_seconds,
                max_pool_connections=THREADS,
                # The MD5 that the version pins is checked anyway, against more than the server's word.
                response_checksum_validation="when_required",
                # Content-MD5 guards what is put; servers other than Amazon's know no newer checksums.
                request_checksum_calculation="when_required",
            )
            region = os.environ.get("AWS_REGION") or None
            self._client: Any = session.client("s3", region_name=region, config=config)
        except ProfileNotFound as error:
            raise InputError(f"{error}; check AWS_PROFILE and the AWS configuration files") from None
        except (BotoCoreError, ValueError) as error:
            raise InputError(
                f"the AWS settings do not fit ({type(error).__name__}); check AWS_ENDPOINT_URL_S3, AWS_REGION and the "
                "AWS configuration files"
            ) from None

    def download(self, key: str, md5: str, part: Path, what: str) -> int:
        """Complete the file `part` with the object, and return how many bytes came over the network.

        An object whose MD5 is not `md5` is fetched once more. Raises InputError that tells `what` could not be had and
        why, Stopped; OSError if the file cannot be written.
        """
        received = 0
        for _ in range(2):
            found, more = self._complete(key, md5, part, what)
            received += more
            if found == md5:
                return received
            part.unlink()
        raise Corrupted(
            f"{what} is corrupted in {self._place(key)}: its md5 there is {found}, fetched twice; "
            "push it again from a good copy"
        )

    def fetch(self, key: str, part: Path, what: str) -> str:
        """Write the object as it is now into the file `part`, anew, and return its MD5; raises as `download` does."""
        part.unlink(missing_ok=True)
        return self._complete(key, "", part, what)[0]

    def upload(self, key: str, content: bytes, what: str) -> None:
        """Put an object there, whole or not at all; the server checks its MD5, which is kept beside it.

        Raises InputError that tells why `what` could not be put.
        """
        self._put(key, content, hashlib.md5(content, usedforsecurity=False).hexdigest(), what)

    def upload_file(self, key: str, file: Path, md5: str, what: str) -> None:
        """Put a file of at most 5 GiB there, as `upload` does; `md5` is its own."""
        with file.open("rb") as stream:
            self._put(key, stream, md5, what)

    def md5(self, key: str, what: str) -> str:
        """The MD5 that an object had when it was put; raises InputError if it is not there."""
        answer = self._ask("head_object", f"fetch {what} from", what, key, Key=key)
        kept: str = answer["Metadata"].get("md5", answer["ETag"].strip('"'))
        if not re.fullmatch("[0-9a-f]{32}", kept):
            raise Corrupted(f"{what} has no MD5 in {self._place(key)}; put it there again from a good copy")
        return kept

    def names(self, start: str, what: str) -> list[str]:
        """The keys that begin with `start`; raises InputError that tells why `what` could not be listed."""
        return list(self.tags(start, what))

    def tags(self, start: str, what: str) -> dict[str, str]:
        """The ETag, which changes with the content, of every key that begins with `start`; raises as `names` does."""
        found: dict[str, str] = {}
        more: dict[str, Any] = {}
        while True:
            answer = self._ask("list_objects_v2", f"list {what} at", what, start, Prefix=start, **more)
            found |= {entry["Key"]: entry["ETag"].strip('"') for entry in answer.get("Contents", ())}
            if not answer.get("IsTruncated"):
                return found
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def remove(self, key: str, what: str) -> None:
        """Remove an object, which need not be there; raises InputError that tells why `what` could not be removed."""
        self._ask("delete_object", f"remove {what} from", what, key, Key=key)

    def _put(self, key: str, content: bytes | BinaryIO, md5: str, what: str) -> None:
        checked: dict[str, Any] = {
            "ContentMD5": base64.b64encode(bytes.fromhex(md5)).decode(),
            "Metadata": {"md5": md5},
        }
        self._ask("put_object", f"write {what} to", what, key, Key=key, Body=content, **checked)

    def _ask(self, operation: str, task: str, what: str, key: str, none_if_absent: bool = False, **request: Any) -> Any:
        """The answer to one request, after botocore's own retries; `task` reads on with the endpoint."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self._client, operation)(Bucket=self.name, **request)
        except ClientError as error:
            # The answer to HEAD has no text, so that a missing bucket looks like a missing object there.
            if none_if_absent and error.response.get("Error", {}).get("Code") in _NOT_FOUND:
                return None
            raise self._refused(error, key, what) from None
        except BotoCoreError as error:
            raise self._unreachable(error, task) from None

    def _complete(self, key: str, md5: str, part: Path, what: str) -> tuple[str, int]:
        """Append to `part` what it lacks; the MD5 of the whole, and the bytes received."""
        received, failures = 0, 0
        while True:
            digest, size = _hashed(part)
            if size and digest.hexdigest() == md5:
                return md5, received
            body, size = self._open(key, size, what)
            got = 0
            try:
                with part.open("r+b" if part.exists() else "wb") as stream:
                    stream.seek(size)
                    stream.truncate()
                    digest = digest if size else hashlib.md5(usedforsecurity=False)
                    for piece in self._pieces(body):
                        stream.write(piece)
                        digest.update(piece)
                        got += len(piece)
                return digest.hexdigest(), received + got
            except _cuts() as error:
                received += got
                failures = 1 if got >= _PIECE else failures + 1
                if failures == _ATTEMPTS:
                    raise InputError(
                        f"the connection to {self._endpoint()} broke {failures} times while {what} was fetched "
                        f"({type(error).__name__}); run again to go on from there"
                    ) from None
                self._back_off(failures)
            finally:
                body.close()

    def _pieces(self, body: Any) -> Any:
        while piece := body.read(_PIECE):
            yield piece
            if self.stopped.is_set():
                raise Stopped

    def _back_off(self, failures: int) -> None:
        if self.stopped.wait(0.1 * 2**failures * random.uniform(0.5, 1)):
            raise Stopped

    def _open(self, key: str, start: int, what: str) -> tuple[Any, int]:
        """The object's content from byte `start`, or from 0 if that is not to be had; and which of the two."""
        from botocore.exceptions import BotoCoreError, ClientError

        if self.stopped.is_set():
            raise Stopped
        wanted = {"Range": f"bytes={start}-"} if start else {}
        try:
            response = self._client.get_object(Bucket=self.name, Key=key, **wanted)
        except ClientError as error:
            if start and error.response["ResponseMetadata"]["HTTPStatusCode"] == 416:
                return self._open(key, 0, what)
            raise self._refused(error, key, what) from None
        except BotoCoreError as error:
            raise self._unreachable(error, f"fetch {what} from") from None
        return response["Body"], start if response["ResponseMetadata"]["HTTPStatusCode"] == 206 else 0

    def _refused(self, error: Any, key: str, what: str) -> InputError:
        """What the server's answer means; nothing of its text, which may quote keys and signatures."""
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if code in _WRONG_CREDENTIALS:
            return InputError(f"{self._endpoint()} does not accept the AWS credentials ({code}); check them")
        if code == "NoSuchBucket":
            return InputError(f"no bucket {self.name!r} at {self._endpoint()}; check its name and the endpoint")
        if code in _NOT_FOUND:
            return InputError(f"{what} is missing in the remote, at {self._place(key)}; push it again")
        if code in _ELSEWHERE:
            return InputError(f"bucket {self.name!r} is in another region; set AWS_REGION to it")
        if status == 403:
            return InputError(f"{self._endpoint()} denies access to {self._place(key)} ({code}); check the credentials")
        return InputError(f"{self._endpoint()} answered {status} {code} to {self._place(key)}; try again later")

    def _unreachable(self, error: Exception, task: str) -> InputError:
        """Why no answer came at all, after botocore's own retries."""
        from botocore import exceptions

        lacking = (
            exceptions.NoCredentialsError,
            exceptions.PartialCredentialsError,
            exceptions.CredentialRetrievalError,
            exceptions.TokenRetrievalError,
            exceptions.SSOError,
            exceptions.NoAuthTokenError,
        )
        if isinstance(error, lacking):
            return InputError(
                "no usable AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            )
        return InputError(
            f"cannot {task} {self._endpoint()}: {type(error).__name__}; "
            "check the network and AWS_ENDPOINT_URL_S3, then run again"
        )

    def _place(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    def _endpoint(self) -> str:
        """Scheme, host and port; a user and password in the URL stay out of messages."""
        parts = urlsplit(self._client.meta.endpoint_url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _cuts() -> tuple[type[Exception], ...]:
    from botocore import exceptions
    from urllib3.exceptions import HTTPError

    return exceptions.IncompleteReadError, exceptions.HTTPClientError, HTTPError


def _hashed(part: Path) -> tuple[Any, int]:
    """The running MD5 and the size of what is there already of an object."""
    digest, size = hashlib.md5(usedforsecurity=False), 0
    if part.exists():
        with part.open("rb") as stream:
            while piece := stream.read(_PIECE):
                digest.update(piece)
                size += len(piece)
    return digest, size
