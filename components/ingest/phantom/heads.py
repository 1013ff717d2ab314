"""Makes the phantom dataset: heads with known anatomy and lesions, sliced into CT-MRI pairs with their truth."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.ingest.phantom.anatomy import paint_head
from components.ingest.phantom.canvas import FIELD_MM, Array, fold_lattice
from components.ingest.phantom.imaging import image_ct, image_mri
from components.ingest.phantom.lesions import paint_lesions
from components.ingest.phantom.subject import Subject, draw_subject
from model.errors import InputError

STRUCTURES = ("bone", "ventricles", "mri_lesion", "ct_lesion")
LOWEST_MM, HIGHEST_MM = -42.0, 64.0


@dataclass(frozen=True)
class PhantomConfig:
    """How many heads to draw, how finely, and from which seed; images are size x size pixels over 230 mm."""

    subjects: int = 8
    slices: int = 8
    size: int = 256
    seed: int = 3407

    def __post_init__(self) -> None:
        limits = {"subjects": (1, 899), "slices": (1, 99), "size": (64, 1024), "seed": (0, 2**32 - 1)}
        for field in fields(self):
            value, (low, high) = getattr(self, field.name), limits[field.name]
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise InputError(f"phantom: {field.name} is {value!r}; give a whole number from {low} to {high}")
        if self.size % 32:
            raise InputError(f"phantom: size is {self.size}; give a multiple of 32, such as 256")


@dataclass(frozen=True)
class SlicePair:
    """One slice: ct and mri (H, W) uint8, truth structure -> (H, W) bool in the frame of the CT image."""

    name: str
    ct: NDArray[np.uint8]
    mri: NDArray[np.uint8]
    truth: dict[str, NDArray[np.bool_]]


def write_phantom(
    folder: Path, config: PhantomConfig | None = None, progress: Callable[[int, int], object] | None = None
) -> None:
    """Writes the data root `folder`: CT-MRI/{CT,MRI,truth/<structure>}/<name>.png and phantom.json.

    `progress(done, total)` is told after every pair. The folder appears whole or not at all; the same config gives the
    same bytes. Raises InputError if the folder holds anything already or cannot be written.
    """
    config = config or PhantomConfig()
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"phantom: {folder} is not an empty folder; name a new one")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        _write_tree(aside, config, progress)
        aside.replace(folder)
    except OSError as error:
        raise InputError(f"phantom: cannot write {folder} ({error.strerror}); name another folder") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_tree(root: Path, config: PhantomConfig, progress: Callable[[int, int], object] | None) -> None:
    homes = {"ct": root / "CT-MRI/CT", "mri": root / "CT-MRI/MRI"}
    homes |= {structure: root / "CT-MRI/truth" / structure for structure in STRUCTURES}
    for home in homes.values():
        home.mkdir(parents=True)
    total, done = config.subjects * config.slices, 0
    for index in range(config.subjects):
        for pair in subject_volume(config, index):
            for name, image in {"ct": pair.ct, "mri": pair.mri, **pair.truth}.items():
                pixels = image.astype(np.uint8) * 255 if image.dtype == bool else image
                Image.fromarray(pixels).save(homes[name] / f"{pair.name}.png", compress_level=6)
            done += 1
            if progress:
                progress(done, total)
    facts = {
        **asdict(config),
        "pixel_mm": FIELD_MM / config.size,
        "slice_heights_mm": [slice_height(config, number) for number in range(1, config.slices + 1)],
        "truth_frame": "CT",
        "structures": list(STRUCTURES),
        "people": [asdict(draw_subject(config.seed, index)) for index in range(config.subjects)],
    }
    (root / "phantom.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def slice_height(config: PhantomConfig, number: int) -> float:
    """Height in mm above the commissures of slice `number`, 1 the lowest."""
    return LOWEST_MM + (number - 0.5) * (HIGHEST_MM - LOWEST_MM) / config.slices


def subject_volume(config: PhantomConfig, index: int) -> Iterator[SlicePair]:
    """The slices of subject `index`, from the lowest to the highest, one at a time."""
    subject, folds = draw_subject(config.seed, index), fold_lattice(config.seed, index)
    for number in range(1, config.slices + 1):
        yield slice_pair(config, subject, folds, number)


def slice_pair(config: PhantomConfig, subject: Subject, folds: Array, number: int) -> SlicePair:
    """Slice `number` (from 1) of a subject, imaged by both scanners."""
    head = paint_head(config.size, subject, folds, slice_height(config, number))
    lesions = paint_lesions(head)
    truth = {"bone": head.holds("bone", "marrow"), "ventricles": head.holds("ventricle"), **lesions}
    rng = np.random.default_rng([config.seed, int(subject.subject), number, 2])
    name = f"{subject.subject}{number:03d}"
    return SlicePair(name, image_ct(head.ct, subject, rng), image_mri(head.mri, subject, rng), truth)
