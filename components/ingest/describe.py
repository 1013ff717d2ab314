"""A description of a data folder for people: pairs of each subject, grey levels of each modality, a contact sheet."""

import base64
import contextlib
import csv
import io
import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from components.ingest.check import BadImage, check_image
from components.ingest.contact_sheet import Cell, draw_sheet, spread
from components.ingest.histogram import draw_histogram
from components.ingest.layout import COLLECTIONS, check_pairs, find_images, image_path, order, pair_of, subject_of
from components.ingest.source import FolderSource
from components.ingest.version import file_md5, is_litter, tree_version
from model.errors import InputError

PICTURES = 10
FILES = ("description.html", "contact-sheet.png", "pairs.csv", "description.json")
_PERCENTILES = (5, 50, 95)
# In a folder that is there: the new description while it is written, when it is complete, and what it replaces.
_PARTIAL, _READY, _KEPT = ".description.partial", ".description.ready", ".description.older"


@dataclass
class Levels:
    """What the images of one modality of one collection have: luma counts (256,), how many images, sizes, colour."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    images: int = 0
    in_colour: int = 0
    sizes: set[tuple[int, int]] = field(default_factory=set)

    def add(self, image: Image.Image) -> None:
        """Count one image in."""
        self.counts += np.bincount(np.asarray(image.convert("L")).ravel(), minlength=256)
        self.images += 1
        self.sizes.add(image.size)
        if image.mode == "RGB":
            colour = np.asarray(image)
            self.in_colour += bool((colour != colour[..., :1]).any())

    def facts(self) -> dict[str, Any]:
        """Statistics of the luma, 0 to 255; percentiles are of what is not black, shares of all pixels."""
        total, levels = int(self.counts.sum()), np.arange(256)
        mean = float((self.counts * levels).sum() / total)
        deviation = float(np.sqrt((self.counts * (levels - mean) ** 2).sum() / total))
        lit = np.cumsum(self.counts[1:])
        percentiles = [int(np.searchsorted(lit, lit[-1] * q / 100) + 1) if lit[-1] else 0 for q in _PERCENTILES]
        return {
            "images": self.images,
            "in_colour": self.in_colour,
            "sizes": [f"{width}x{height}" for width, height in sorted(self.sizes)],
            "mean": round(mean, 2),
            "standard_deviation": round(deviation, 2),
            "percentiles": dict(zip(map(str, _PERCENTILES), percentiles, strict=True)),
            "levels": int((self.counts > 0).sum()),
            "black": round(float(self.counts[0] / total), 4),
            "saturated": round(float(self.counts[255] / total), 4),
            "histogram": self.counts.tolist(),
        }


def describe_folder(folder: Path, output: Path, advance: Callable[..., None] = lambda *_: None) -> dict[str, Any]:
    """Write `FILES` into the folder `output`, and return the description.

    A new folder appears whole; else it must be empty, or hold an older description. Raises InputError if `folder` is no
    dataset, an image cannot be read, or `output` holds anything else.
    """
    output = output.resolve()
    _check_output(output)
    if not folder.is_dir():
        raise InputError(
            f"no such data folder: {folder}; `fusion data import` makes data/, `fusion data phantom` a phantom"
        )
    source = FolderSource(folder)
    found = find_images(source.paths(), source.name)
    check_pairs(found, source.name)
    levels: dict[tuple[str, str], Levels] = defaultdict(Levels)
    md5s = {}
    paths = sorted(found, key=order)
    for done, path in enumerate(paths, 1):
        collection, modality, _ = path.split("/")
        levels[collection, modality].add(_read(folder / found[path], modality))
        md5s[path] = file_md5(folder / found[path])
        advance(done, len(paths))
    collections = _collections(paths, levels)
    described = {"version": tree_version(md5s.items()), "collections": collections}
    sheet = draw_sheet(
        [
            (collection["name"], COLLECTIONS[collection["name"]], _cells(folder, found, collection))
            for collection in collections
        ]
    )
    _write(described, sheet, output)
    return described


def _collections(paths: list[str], levels: dict[tuple[str, str], Levels]) -> list[dict[str, Any]]:
    pairs: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for collection, pair in sorted({pair_of(path) for path in paths}, key=lambda key: (key[0], order(key[1]))):
        pairs[collection][subject_of(pair)].append(pair)
    return [
        {
            "name": collection,
            "pairs": sum(len(names) for names in subjects.values()),
            "subjects": [
                {
                    "subject": subject,
                    "pairs": len(names),
                    "first": names[0][-3:],
                    "last": names[-1][-3:],
                    "names": names,
                }
                for subject, names in subjects.items()
            ],
            "modalities": {modality: levels[collection, modality].facts() for modality in COLLECTIONS[collection]},
        }
        for collection, subjects in pairs.items()
    ]


def _cells(folder: Path, found: dict[str, str], collection: dict[str, Any]) -> list[Cell]:
    """Pairs for the contact sheet, spread over the subjects and, where these are few, over their slices."""
    subjects = spread(collection["subjects"], PICTURES)
    names = []
    for place, subject in enumerate(subjects):
        share = PICTURES // len(subjects) + (place < PICTURES % len(subjects))
        names += spread(subject["names"], share)
    return [
        Cell(
            name,
            tuple(
                _read(folder / found[image_path(collection["name"], modality, name)], modality)
                for modality in COLLECTIONS[collection["name"]]
            ),
        )
        for name in names
    ]


def _read(path: Path, modality: str) -> Image.Image:
    try:
        content = path.read_bytes()
        check_image(content, modality)
    except BadImage as error:
        raise InputError(f"{path} is unfit: {error}; mend or remove it") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check its permissions") from None
    return Image.open(io.BytesIO(content))


def _check_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; choose a folder")
    if (output / _READY).is_dir():
        _adopt(output)
    held = set()
    if output.is_dir():
        shutil.rmtree(output / _PARTIAL, ignore_errors=True)
        held = {path.name for path in output.iterdir() if not is_litter(path)}
    for name in sorted(held & set(FILES)):
        if not (output / name).is_file():
            raise InputError(f"{output / name} is no file, and a description would replace it; choose another folder")
    other = sorted(held - set(FILES)) or sorted(held)
    if other and (other[0] not in FILES or "description.json" not in held):
        raise InputError(f"{output} holds {other[0]}, no description; choose a new or empty folder")


def _write(described: dict[str, Any], sheet: Image.Image, output: Path) -> None:
    """Write all of it aside, then put it in place: a new folder by one rename, an older description in place.

    A folder that is there stays itself, as a shell may stand in it. The files wait in it under one name, complete, and
    then take their places; a run that is cut off or refused meanwhile leaves them there for the next one.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.exists():
            (output / _PARTIAL).mkdir()
            _fill(output / _PARTIAL, described, sheet)
            (output / _PARTIAL).rename(output / _READY)
            _adopt(output)
            return
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as own:
            made = Path(own, "made")
            made.mkdir()
            _fill(made, described, sheet)
            made.rename(output)
    except OSError as error:
        shutil.rmtree(output / _PARTIAL, ignore_errors=True)
        raise InputError(f"cannot write {output}: {error.strerror or error}; choose another place") from None


def _adopt(output: Path) -> None:
    """Put the complete description that waits in the folder in place; where that fails, the older one is whole again.

    By description.json, the last of `FILES` and the first to be replaced, a next run knows the folder.
    """
    ready, kept = output / _READY, output / _KEPT
    try:
        kept.mkdir(exist_ok=True)
        for name in reversed(FILES):
            if (ready / name).exists():
                with contextlib.suppress(FileNotFoundError):
                    (output / name).replace(kept / name)
                (ready / name).replace(output / name)
    except OSError:
        for path in list(kept.iterdir()) if kept.is_dir() else []:
            path.replace(output / path.name)
        shutil.rmtree(ready, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(kept, ignore_errors=True)
    shutil.rmtree(ready)


def _fill(folder: Path, described: dict[str, Any], sheet: Image.Image) -> None:
    sheet.save(folder / "contact-sheet.png", optimize=True)
    (folder / "description.json").write_text(json.dumps(described, indent=1) + "\n")
    with (folder / "pairs.csv").open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("collection", "subject", "pairs", "first_slice", "last_slice"))
        for collection in described["collections"]:
            for each in collection["subjects"]:
                writer.writerow((collection["name"], each["subject"], each["pairs"], each["first"], each["last"]))
    picture = "data:image/png;base64," + base64.b64encode((folder / "contact-sheet.png").read_bytes()).decode()
    (folder / "description.html").write_text(_page(described, sheet, picture), encoding="utf-8")


def _page(described: dict[str, Any], sheet: Image.Image, picture: str) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    histograms = {
        collection["name"]: draw_histogram(
            {name: np.array(facts["histogram"]) for name, facts in collection["modalities"].items()}
        )
        for collection in described["collections"]
    }
    return environment.get_template("description.html.j2").render(
        described=described,
        pairs=sum(collection["pairs"] for collection in described["collections"]),
        most=max(each["pairs"] for collection in described["collections"] for each in collection["subjects"]),
        histograms=histograms,
        sheet=picture,
        width=sheet.width,
        height=sheet.height,
    )
