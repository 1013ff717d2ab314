"""A public git repository as a source: one exact commit of it, fetched without a working tree."""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from components.ingest.address import holds_secret, shown_address
from components.ingest.pin import PIN
from components.ingest.source import MAX_FILES, MAX_IMAGE_BYTES, too_large, too_many
from model.errors import InputError, one_line

# A mirror inside an institution may be a folder; git's other protocols run programs or are unsigned.
_PROTOCOLS = ("https", "ssh", "file")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")


class GitSource:
    """The files of one commit. Nothing is checked out: no hook, filter, submodule or link of it ever acts."""

    def __init__(self, repository: str, commit: str, store: Path) -> None:
        """`store` is the bare repository to fetch into; what an earlier attempt fetched there is used."""
        protocol = repository.partition("://")[0]
        if protocol not in _PROTOCOLS or "://" not in repository:
            raise InputError(
                f"{shown_address(repository)} is no address of a git repository; give https://, ssh:// or file://"
            )
        if holds_secret(repository):
            raise InputError(
                f"the {protocol} address of a git repository holds a user or password, or a query, which {PIN} would "
                "keep; leave it out, and let git's credential helper or ssh:// answer"
            )
        if not _COMMIT.fullmatch(commit):
            raise InputError(f"{shown_address(commit)!r} is no full commit hash; give all 40 hexadecimal digits")
        self.name = f"{shown_address(repository)} at {commit[:12]}"
        self._repository, self._commit, self._store, self._protocol = repository, commit, store, protocol
        self._blobs: dict[str, str] | None = None

    def paths(self) -> list[str]:
        """Fetch the commit, and list its plain files."""
        return list(self._listing())

    def read(self, wanted: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
        """Read files out of the fetched commit."""
        listing = self._listing()
        command = self._command("cat-file", "--batch")
        with subprocess.Popen(
            command, env=self._environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdin and process.stdout
            for key, path in wanted.items():
                process.stdin.write(listing[path].encode() + b"\n")
                process.stdin.flush()
                _, kind, size = [*process.stdout.readline().decode().split(), "", "", "0"][:3]
                if kind != "blob":
                    raise InputError(f"git cannot read {path} of {self.name}; remove {self._store} and try again")
                if int(size) > MAX_IMAGE_BYTES:
                    process.kill()
                    raise too_large(path, self.name)
                yield key, process.stdout.read(int(size))
                process.stdout.read(1)

    def provenance(self) -> dict[str, str]:
        """The repository and the commit."""
        return {"git": self._repository, "commit": self._commit}

    def _listing(self) -> dict[str, str]:
        if self._blobs is None:
            self._fetch()
            self._blobs = {}
            for line in self._git("ls-tree", "-r", "-z", self._commit).split("\0"):
                entry, _, path = line.partition("\t")
                if entry.startswith("100"):
                    self._blobs[path] = entry.split()[2]
            if len(self._blobs) > MAX_FILES:
                raise too_many(self.name)
        return self._blobs

    def _fetch(self) -> None:
        if (self._store / "HEAD").exists() and self._has_commit():
            return
        self._git("init", "--quiet", "--bare", "--template=", str(self._store), inside=False)
        self._git("fetch", "--quiet", "--depth=1", "--no-tags", "--", self._repository, self._commit)

    def _has_commit(self) -> bool:
        # rev-list reads every tree and names every file, so an interrupted fetch does not pass for a whole one.
        command = self._command("rev-list", "--objects", "--quiet", self._commit)
        return subprocess.run(command, env=self._environment(), capture_output=True).returncode == 0

    def _git(self, *arguments: str, inside: bool = True) -> str:
        command = self._command(*arguments) if inside else ["git", *arguments]
        try:
            done = subprocess.run(command, env=self._environment(), capture_output=True, stdin=subprocess.DEVNULL)
        except FileNotFoundError:
            raise InputError("git is not installed; install it, or import from a folder or an archive") from None
        if done.returncode:
            raise InputError(self._told(done.stderr.decode(errors="replace")))
        return done.stdout.decode("utf-8", "surrogateescape")

    def _told(self, said: str) -> str:
        lines = [line.removeprefix("fatal: ") for line in said.splitlines() if line.strip()]
        if "No space left" in said:
            return f"the disk is full at {self._store.parent}; make room and run the same command again"
        if "not our ref" in said or "couldn't find remote ref" in said or "unadvertised object" in said:
            return f"{shown_address(self._repository)} does not have the commit {self._commit}; check both"
        # Of several lines the first names the cause ("Could not resolve host"), the others what it led to.
        why = one_line(lines[0]) if lines else "it gave no reason"
        return f"git cannot fetch {self.name}: {why}; check the network, or import from a folder, an archive or s3://"

    def _command(self, *arguments: str) -> list[str]:
        settings = ("core.hooksPath=/dev/null", "gc.auto=0", "fetch.recurseSubmodules=false")
        options = [word for setting in settings for word in ("-c", setting)]
        return ["git", *options, "--git-dir", str(self._store), *arguments]

    def _environment(self) -> dict[str, str]:
        # A hook that runs this command leaves GIT_DIR and its like behind, which would lead git elsewhere.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or "SSL" in name}
        return kept | {
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "true",
            "SSH_ASKPASS": "true",
            "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
            "GIT_ALLOW_PROTOCOL": self._protocol,
            "LC_ALL": "C",
        }
