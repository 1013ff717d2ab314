"""Ingest a dataset: copy the pairs of one collection aside, write their manifest, and verify the version asked for."""

import csv
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from components.ingest.layout import COLLECTIONS
from components.ingest.listing import check_version, part_of
from components.ingest.phantom import PhantomConfig, write_phantom
from components.ingest.remote import SCHEME, fetch_version, parse_remote
from components.ingest.version import LITTER, folder_md5s, tree_version
from components.progress import Progress
from model.errors import InputError, unknown_choice

PHANTOM = "phantom"
FOLDER = "a folder"  # what is recorded of one: its name may be a patient's
COLLECTION = "CT-MRI"
MODALITIES = COLLECTIONS[COLLECTION]
MANIFEST_COLUMNS = ("path", "collection", "modality", "name", "subject", "slice", "bytes", "md5")

_NAME = re.compile(r"^(?P<subject>\w+?)(?P<slice>\d{3})\.png$")


@dataclass(frozen=True)
class Image:
    """One image of the collection: its path below the data folder, and what its name says."""

    path: str
    modality: str
    subject: str
    slice: int
    md5: str
    bytes: int

    @property
    def name(self) -> str:
        """The name that the two images of a pair share."""
        return Path(self.path).stem


def ingest(
    data: str, expected_version: str, phantom: PhantomConfig, target: Path, collection: str = COLLECTION
) -> dict[str, object]:
    """Bring the pairs of `data` (a folder, s3://bucket/prefix, "phantom") into the folder `target`; its `dataset.json`.

    `target` appears whole or not at all. Raises InputError if the data is missing, misnamed, or not of
    `expected_version` (empty: any, but not of S3), and for a `collection` that is unknown or that the phantom has not.
    """
    check_collection(collection, data)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        if data == PHANTOM:
            write_phantom(partial, phantom, Progress("ingest"))
            facts = _write_manifest(partial, partial, PHANTOM, *_md5s(partial, data, expected_version), collection)
        elif data.startswith(SCHEME):
            md5s = _fetch(data, expected_version, partial, collection)
            facts = _write_manifest(partial, partial, data, md5s, expected_version, collection)
        else:
            source = check_folder(Path(data), collection)
            md5s_and_version = _md5s(source, data, expected_version)
            facts = _write_manifest(source, partial, FOLDER, *md5s_and_version, collection)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return facts


def check_remote(data: str, version: str) -> None:
    """Raise InputError unless `data` is an S3 address and `version` one that it may hold; nothing is fetched."""
    parse_remote(data)
    if not version:
        raise InputError(f"{data} holds many versions; name one, data_version=<md5>.dir, as the .dvc file's md5 has it")
    check_version(version)


def check_collection(collection: str, data: str) -> None:
    """Raise InputError for a collection that is unknown, or that the phantom has not where `data` is the phantom."""
    if collection not in COLLECTIONS:
        raise unknown_choice("collection", collection, COLLECTIONS)
    if data == PHANTOM and collection != COLLECTION:
        raise InputError(
            f"the phantom has {COLLECTION} pairs only; give a folder that holds {collection} instead of it"
        )


def check_folder(folder: Path, collection: str = COLLECTION) -> Path:
    """Return `folder` if it holds both folders of a collection with files in each; raise InputError otherwise."""
    try:
        return _check_folder(folder, collection)
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}; check --data and its permissions") from None


def _check_folder(folder: Path, collection: str) -> Path:
    modalities = COLLECTIONS[collection]
    if not folder.exists():
        raise InputError(f"no such data folder: {folder}; check --data")
    if not folder.is_dir():
        wanted = " and ".join(f"{collection}/{modality}" for modality in modalities)
        raise InputError(f"{folder} is a file; --data wants the folder that holds {wanted}")
    for modality in modalities:
        images = folder / collection / modality
        if not images.is_dir():
            inside = all((folder / each).is_dir() for each in modalities)
            remedy = f"give its parent {folder.resolve().parent}" if inside else "see the README on its layout"
            raise InputError(f"{folder} has no folder {collection}/{modality}; {remedy}")
        if not any(images.iterdir()):
            raise InputError(f"{images} is empty; put its PNG slices there")
    return folder


def _fetch(data: str, version: str, target: Path, collection: str) -> dict[str, str]:
    """Fetch the collection; interrupted downloads stay in the folder FUSION_DOWNLOADS, if set, for the next run."""
    check_remote(data, version)
    downloads = os.environ.get("FUSION_DOWNLOADS")
    md5s = fetch_version(parse_remote(data), version, target, collection, Path(downloads) if downloads else None)
    for modality in COLLECTIONS[collection]:
        if not part_of(md5s, f"{collection}/{modality}"):
            raise InputError(f"version {version} in {data} has no folder {collection}/{modality}; see the README")
    # As of a folder here, hidden files and litter are none of the data.
    return {path: md5 for path, md5 in md5s.items() if "/." not in path and path.rpartition("/")[2] not in LITTER}


def _md5s(folder: Path, data: str, expected_version: str) -> tuple[dict[str, str], str]:
    """Relative path -> MD5 of every data file of a folder, and the version that they make, the expected one if any."""
    md5s = folder_md5s(folder)
    version = tree_version(md5s.items())
    if expected_version and version != expected_version:
        raise InputError(f"{data} is version {version}, not {expected_version}; restore the files or drop the version")
    return md5s, version


def _write_manifest(
    source: Path, target: Path, name: str, md5s: dict[str, str], version: str, collection: str
) -> dict[str, object]:
    modalities = COLLECTIONS[collection]
    folders = [[collection, modality] for modality in modalities]
    images = [_image(source, path, md5) for path, md5 in sorted(md5s.items()) if path.split("/")[:2] in folders]
    if source != target:
        _copy([path for path in md5s if path.startswith(f"{collection}/")], source, target)
    with (target / "manifest.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(MANIFEST_COLUMNS)
        writer.writerows(
            (image.path, collection, image.modality, image.name, image.subject, image.slice, image.bytes, image.md5)
            for image in images
        )
    facts: dict[str, object] = {
        "source": name,
        "collection": collection,
        "modalities": list(modalities),
        "version": version,
        "pairs": len({image.name for image in images}),
        "subjects": len({image.subject for image in images}),
    }
    (target / "dataset.json").write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def _image(source: Path, path: str, md5: str) -> Image:
    match = _NAME.fullmatch(Path(path).name)
    if match is None or path.count("/") != 2:
        raise InputError(
            f"{source / path} does not follow <subject><3-digit slice>.png, such as 16003.png; rename or remove it"
        )
    return Image(path, path.split("/")[1], match["subject"], int(match["slice"]), md5, (source / path).stat().st_size)


def _copy(paths: list[str], source: Path, target: Path) -> None:
    progress = Progress("ingest")
    for done, path in enumerate(paths, 1):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, target / path)
        progress(done, len(paths))
