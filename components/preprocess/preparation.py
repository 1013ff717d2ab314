"""What becomes of a pair between its files and the packed arrays: luma, one size, in register, levels stretched."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.ingest.layout import IN_COLOUR
from components.preprocess.registration import register_rigid
from components.validate.measurements import BACKGROUND_LEVEL
from model.errors import InputError, unknown_choice
from model.images import Pixels, read_grey_bytes, read_luma_bytes

NORMALISATIONS = ("none", "percentile")
LOW, HIGH = 0.005, 0.995
SMALLEST, LARGEST = 16, 4096
NO_CHROMA = 128

Levels = tuple[tuple[int, int], tuple[int, int]]
Size = tuple[int, int]


@dataclass(frozen=True)
class Preparation:
    """How pairs are prepared.

    `size` is the side in pixels that every image is brought to: padded to a square, then averaged over areas where it
    shrinks and bicubic where it grows, 16 to 4096; 0 leaves them as they are. `normalise` "percentile" stretches the
    levels of each modality. `register_pairs` moves the second image of a pair onto the first, see `registration`.
    """

    size: int = 0
    normalise: str = "none"
    register_pairs: bool = False

    def __post_init__(self) -> None:
        if self.size and self.size < SMALLEST:
            raise InputError(f"size is {self.size}; give at least {SMALLEST} pixels, or 0 to keep images as they are")
        if self.size > LARGEST:
            raise InputError(f"size is {self.size}; give at most {LARGEST} pixels, or 0 to keep images as they are")
        if self.normalise not in NORMALISATIONS:
            raise unknown_choice("normalise", self.normalise, NORMALISATIONS)


@dataclass(frozen=True)
class Source:
    """The pairs of an ingested dataset as they will be packed: where they are, their `size`, and how they are prepared.

    `size` is the height and width of every packed image. `levels`, where given, are the level of each modality that
    becomes black and the one that becomes white.
    """

    folders: tuple[Path, Path]
    size: Size
    preparation: Preparation = field(default_factory=Preparation)
    levels: Levels | None = None

    @classmethod
    def of(
        cls, dataset: Path, collection: str, modalities: list[str], first: str, preparation: Preparation
    ) -> "Source":
        """The source in an ingested folder; without a size asked for, all must be as large as the pair `first`."""
        a, b = (dataset / collection / modality for modality in modalities)
        side = preparation.size
        height, width = (side, side) if side else _levels(a / f"{first}.png")[0].shape
        return cls((a, b), (height, width), preparation)

    @property
    def colour(self) -> bool:
        """Whether the first modality is in colour."""
        return self.folders[0].name in IN_COLOUR

    def pair(self, name: str) -> tuple[Pixels, dict[str, Any]]:
        """Both images of a pair, uint8 (2, H, W), of a colour image the luma; and what was done to them, for the index.

        Raises InputError for an image that cannot be read, or of another size than its partner or than all must have.
        """
        paths = [folder / f"{name}.png" for folder in self.folders]
        a, b = (_levels(path)[0] for path in paths)
        done: dict[str, Any] = {}
        if a.shape != b.shape:
            raise InputError(f"{paths[1]} is {_told(b)}, its partner {_told(a)}; make both one size")
        if a.shape != self.size:
            done["resampled_from"] = [a.shape[1], a.shape[0]]
            a, b = (self._fitted(image, path) for image, path in zip((a, b), paths, strict=True))
        if self.preparation.register_pairs:
            b, motion = register_rigid(a, b)
            done["motion"] = motion.to_dict()
        return np.stack(
            [stretch(image, *self.levels[at]) if self.levels else image for at, image in enumerate((a, b))]
        ), done

    def chroma(self, name: str) -> Pixels:
        """The chroma of the first image of a pair, uint8 (2, H, W) about 128."""
        path = self.folders[0] / f"{name}.png"
        planes = read_luma_bytes(path)[1]
        return np.stack([self._fitted(plane, path, NO_CHROMA) for plane in planes])

    def mask(self, path: Path) -> np.ndarray:
        """A mask of the ground truth, bool (H, W)."""
        return self._fitted(read_grey_bytes(path), path) > 127

    def training_levels(self, names: Iterable[str]) -> Levels:
        """The 0.5th and 99.5th percentile of what is not background, for each modality, over the pairs called so.

        Raises InputError if a modality has too little that is not background.
        """
        counts = np.zeros((2, 256), np.int64)
        for name in names:
            for at, folder in enumerate(self.folders):
                counts[at] += np.bincount(_levels(folder / f"{name}.png")[0].ravel(), minlength=256)
        counts[:, : BACKGROUND_LEVEL + 1] = 0
        a, b = (_percentiles(each, folder.name) for each, folder in zip(counts, self.folders, strict=True))
        return a, b

    def _fitted(self, image: Pixels, path: Path, background: int = 0) -> Pixels:
        if image.shape == self.size:
            return image
        if not self.preparation.size:
            raise InputError(
                f"{path} is {_told(image)}, the first image {self.size[1]}x{self.size[0]}; make all one size, or give "
                "the parameter size"
            )
        return resample(image, self.preparation.size, background)


def resample(image: Pixels, side: int, background: int = 0) -> Pixels:
    """A uint8 image (H, W) as a square of that side: centred on the background, then resampled."""
    longer = max(image.shape)
    top, left = ((longer - each) // 2 for each in image.shape)
    square = np.full((longer, longer), background, np.uint8)
    square[top : top + image.shape[0], left : left + image.shape[1]] = image
    how = Image.Resampling.BOX if longer > side else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(square).resize((side, side), how))


def stretch(image: Pixels, low: int, high: int) -> Pixels:
    """A uint8 image with `low` and below as 0, `high` and above as 255, evenly between."""
    table = np.clip((np.arange(256) - low) / (high - low), 0, 1) * 255
    return np.rint(table).astype(np.uint8)[image]


def _percentiles(counts: np.ndarray, modality: str) -> tuple[int, int]:
    shares = counts.cumsum() / max(1, counts.sum())
    low, high = (int(np.searchsorted(shares, share)) for share in (LOW, HIGH))
    if not counts.any() or high <= low:
        raise InputError(f"the {modality} training images have no range of levels to normalise; set normalise to none")
    return low, high


def _levels(path: Path) -> tuple[Pixels, Pixels | None]:
    """Luma, and chroma if the modality (the folder's name) is one in colour; InputError for colour where none is."""
    return read_luma_bytes(path) if path.parent.name in IN_COLOUR else (read_grey_bytes(path), None)


def _told(image: Pixels) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
