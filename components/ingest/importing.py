"""Importing a version of the dataset from wherever it lies, and telling how what is here differs from the pin."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.ingest.address import shown_address
from components.ingest.archive import open_archive
from components.ingest.compare import FileDifference, SubjectDifference, compare_files, compare_pairs
from components.ingest.dvc_cache import CacheSource, is_cached
from components.ingest.dvc_command import fetch, into_cache
from components.ingest.dvc_config import cache_folder as dvc_cache_folder
from components.ingest.dvc_config import configured_remote, remote_at
from components.ingest.git_source import GitSource
from components.ingest.layout import check_pairs, find_images
from components.ingest.pin import DATA, PIN, Pin, next_pin, read_pin, require_listing
from components.ingest.source import AddedSource, FolderSource, Source
from components.ingest.staging import (
    Advance,
    Staged,
    clear,
    full_disk_told,
    listing,
    put_pinned_in_place,
    recover,
    stage,
    staging,
)
from components.ingest.version import all_files, tree_version
from model.errors import InputError

GIT, REMOTE = "git", "remote"

_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


class DatasetMismatch(InputError):
    """What a source holds is not the pinned version, or unfit: which files differ, and what is wrong with which."""

    def __init__(self, message: str, difference: FileDifference, faults: Mapping[str, str]) -> None:
        super().__init__(message)
        self.difference = difference
        self.faults = dict(faults)


@dataclass(frozen=True)
class Imported:
    """What an import did: the pin, its source (None: it was here already), the pairs that a new version changed.

    `uncached` says why the version is not in DVC's cache; empty where it is.
    """

    pin: Pin
    source: str | None
    earlier: str | None
    pairs: list[SubjectDifference]
    uncached: str


def import_dataset(
    root: Path,
    spec: str | None,
    new_version: bool = False,
    add: bool = False,
    force: bool = False,
    advance: Advance = lambda *_: None,
    remote: str | None = None,
) -> Imported:
    """Bring the dataset of `spec` into `data`, whole or not at all, verified against `data.dvc`.

    `spec` is "git", "git+URL[@COMMIT]", "remote", an address of a DVC remote, a folder or an archive; None is what the
    pinned version was made from. `new_version` pins what comes instead of verifying it, `add` keeps what `data` holds,
    too; `force` drops files in `data` that no version has; `remote` names the DVC remote. Raises DatasetMismatch, or
    InputError for whatever is wrong with the source or the place.
    """
    new_version = new_version or add
    recover(root)
    pin = read_pin(root) if new_version else require_listing(read_pin(root), root)
    given, spec = spec, spec or (GIT if "git" in _origin(pin) else REMOTE)
    target = root / DATA
    check_no_link(target)
    with staging(root) as aside, full_disk_told(aside):
        here = listing(target) if target.exists() else {}
        if not new_version and here == pin.files:
            clear(aside)
            _check_exists(given)
            return Imported(pin, None, None, [], _cached(root, pin))
        _check_place(target)
        if add and not force:
            _check_nothing_is_missing(here, pin)
        if not add and not _is_folder(spec, target) and not force:
            _check_nothing_is_lost(here, pin)
        source = open_source(spec, root, pin, aside, new_version, advance, remote)
        found = find_images(source.paths(), source.name)
        if add:
            kept = FolderSource(target)
            there = find_images(kept.paths(), kept.name) if here else {}
            source, found = AddedSource(source, found, kept), there | found
        if new_version:
            check_pairs(found, source.name)
        try:
            staged = stage(source, found, pin.files, aside / "tree", advance)
            new = _next(pin, staged, source) if new_version else _verified(pin, staged, source)
            if not force:
                _check_all_is_kept(here, all_files(target), staged.files, pin)
                _keep_pinned(root, here, staged.files, pin)
        except InputError:
            clear(aside)
            raise
        put_pinned_in_place(aside, root, new if new != pin else None)
        clear(aside)
    pairs = compare_pairs(pin.files, new.files)
    return Imported(new, source.name, pin.version if new != pin else None, pairs, _cached(root, new))


def open_source(
    spec: str, root: Path, pin: Pin, aside: Path, new_version: bool, advance: Advance, remote_name: str | None = None
) -> Source:
    """The source that `spec` names; raises InputError if there is none or it cannot be opened."""
    if spec == GIT or spec.startswith("git+"):
        origin = _origin(pin)
        address, at, commit = _split_commit(spec.removeprefix("git+")) if spec != GIT else ("", "", "")
        if at and not commit:
            raise InputError(f"{shown_address(spec)} names no commit after the @; give git+URL@COMMIT")
        address, commit = address or str(origin.get("git", "")), commit or str(origin.get("commit", ""))
        if not address or not commit:
            raise InputError(f"{PIN} names no git repository and commit; give git+URL@COMMIT, or another source")
        return GitSource(address, commit, aside / "source.git")
    if spec == REMOTE or ("://" in spec and not Path(spec).exists()):
        _check_no_web_archive(spec)
        if new_version:
            raise InputError(
                "--new-version wants images of a folder, an archive or git; "
                f"{shown_address(spec)} holds pinned versions"
            )
        remote = configured_remote(root, remote_name) if spec == REMOTE else remote_at(spec)
        return CacheSource(fetch(root, remote, pin, advance), pin.version)
    _check_exists(spec)
    path = Path(spec).expanduser()
    return FolderSource(path) if path.is_dir() else open_archive(path)


def ensure_cached(root: Path) -> Pin:
    """Put the pinned version into DVC's cache if it is only in `data`; raises InputError if it is in neither."""
    recover(root)
    pin = require_listing(read_pin(root), root)
    if not is_cached(dvc_cache_folder(root), pin.version):
        target = root / DATA
        check_no_link(target)
        difference = compare_files(pin.files, listing(target)) if target.is_dir() else None
        if difference is None or difference:
            what = f"{DATA}/ differs ({difference.counts()})" if difference else f"{DATA}/ is not here"
            raise InputError(f"{what} and the DVC cache does not hold {pin.version}; run `fusion data import` first")
        into_cache(root)
    return pin


def _origin(pin: Pin) -> dict[str, Any]:
    origin = pin.meta.get("source")
    return dict(origin) if isinstance(origin, dict) else {}


def _split_commit(spec: str) -> tuple[str, str, str]:
    """The address, the @ and the commit of URL@COMMIT; that of ssh://git@host/path is the address's."""
    address, at, commit = spec.rpartition("@")
    return (address, at, commit) if at and "/" not in commit else (spec, "", "")


def _is_folder(spec: str, folder: Path) -> bool:
    return Path(spec).is_dir() and Path(spec).resolve() == folder.resolve()


def _check_nothing_is_lost(here: Mapping[str, str], pin: Pin) -> None:
    difference = compare_files(pin.files, here)
    _refuse_loss(difference.extra + difference.changed)


def _refuse_loss(lost: Iterable[str]) -> None:
    named = list(lost)
    if named:
        raise InputError(
            f"{DATA}/ holds {len(named)} files that {PIN} does not pin, such as {named[0]}; pin images "
            f"(`fusion data import {DATA} --new-version`), move other files elsewhere, or drop all with --force"
        )


def _check_all_is_kept(here: Mapping[str, str], there: Iterable[str], staged: Mapping[str, str], pin: Pin) -> None:
    """Raise InputError if a file in `data` (`there` names all, `here` has the MD5s) is neither staged nor pinned."""
    safe = {*staged.items(), *pin.files.items()}
    _refuse_loss(path for path in there if (path, here.get(path)) not in safe)


def _keep_pinned(root: Path, here: Mapping[str, str], staged: Mapping[str, str], pin: Pin) -> None:
    """Put the pinned version into DVC's cache before images of it are dropped; InputError if it is not whole here."""
    dropped = [path for path in here.items() & pin.files.items() if staged.get(path[0]) != path[1]]
    if not dropped or is_cached(dvc_cache_folder(root), pin.version):
        return
    if here != pin.files or not pin.listed:
        raise InputError(
            f"{len(dropped)} images of the pinned version would be dropped, such as {min(dropped)[0]}, and the DVC "
            f"cache does not hold them; run `fusion data import` first, or drop them with --force"
        )
    into_cache(root)


def _check_nothing_is_missing(here: Mapping[str, str], pin: Pin) -> None:
    missing = compare_files(pin.files, here).missing
    if missing:
        raise InputError(
            f"{DATA}/ lacks {len(missing)} pinned images, such as {missing[0]}, which the new version would lose; run "
            "`fusion data import` first, or leave them out with --force"
        )


def check_no_link(target: Path) -> None:
    """Raise InputError if `data` is a link: a rename would replace the link alone, and DVC takes it for a file."""
    if target.is_symlink():
        raise InputError(f"{target} is a link, which an import cannot replace whole; make it a plain folder")


def _check_place(target: Path) -> None:
    """Raise InputError if `data` is no folder that a rename can replace."""
    if os.path.ismount(target):
        raise InputError(f"{target} is a mount point, which an import cannot replace whole; make it a plain folder")


def _check_no_web_archive(spec: str) -> None:
    """Raise InputError for the address of an archive: nothing here downloads one, and DVC would look below it."""
    path = spec.partition("?")[0].lower()
    if path.startswith(("http://", "https://")) and path.endswith(_ARCHIVES):
        raise InputError(f"{shown_address(spec)} is the address of an archive; download it, and give the file")


def _check_exists(spec: str | None) -> None:
    """Raise InputError if `spec` is a path at which nothing is."""
    if spec in (None, GIT, REMOTE) or str(spec).startswith("git+") or "://" in str(spec):
        return
    path = Path(str(spec)).expanduser()
    if not (path.is_dir() or path.is_file()):
        raise InputError(
            f"no such folder or archive: {shown_address(str(spec))}; give one, or {GIT}, {REMOTE}, git+URL@COMMIT, or s3://BUCKET/PREFIX"
        )


def _verified(pin: Pin, staged: Staged, source: Source) -> Pin:
    difference = compare_files(pin.files, staged.files)
    if difference:
        raise DatasetMismatch(
            f"{source.name} is not the pinned version {pin.version}: {difference.counts()}; give the pinned one, "
            "or pin this one with --new-version",
            difference,
            staged.faults,
        )
    return pin


def _next(pin: Pin, staged: Staged, source: Source) -> Pin:
    if staged.faults:
        first, why = next(iter(staged.faults.items()))
        rest = f", and {len(staged.faults) - 1} more are unfit" if len(staged.faults) > 1 else ""
        raise DatasetMismatch(
            f"{first} in {source.name} is unfit: {why}{rest}; mend them, nothing was imported",
            FileDifference((), (), ()),
            staged.faults,
        )
    if tree_version(staged.files.items()) == pin.version:
        return pin
    return next_pin(pin, staged.files, staged.size, source.provenance())


def _cached(root: Path, pin: Pin) -> str:
    """Put the version into DVC's cache, so that `dvc push` and `dvc status` know it; why not, if that fails."""
    try:
        if not is_cached(dvc_cache_folder(root), pin.version):
            into_cache(root)
    except InputError as error:
        return str(error)
    return ""
