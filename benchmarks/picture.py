"""Draw the picture on the first page of the documentation: pairs of the phantom and what fuses them, a row a pair.

python -m benchmarks.picture -o docs/fusion.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from components.ingest.phantom import PhantomConfig, SlicePair, subject_volume
from model.images import write_atomically
from model.methods import METHODS, Fuse, Resources, strategy_title
from model.strategies import DEFAULT_STRATEGY

PAIRS = 2
_GAP, _CAPTION = 6, 24


def telling_pairs(config: PhantomConfig, count: int) -> list[SlicePair]:
    """Of each head the slice that shows most of both lesions, and of these slices the `count` that show most."""

    def shown(pair: SlicePair) -> int:
        return int(min(pair.truth[lesion].sum() for lesion in ("ct_lesion", "mri_lesion")))

    best = [max(subject_volume(config, index), key=shown) for index in range(config.subjects)]
    return sorted(best, key=shown, reverse=True)[:count]


def fusions() -> dict[str, Fuse]:
    """What fuses the pairs, by its caption: elementwise maximum, and the shipped network by two strategies."""
    names = {
        "elementwise maximum": "maximum",
        "network, SFNN (published)": "dilran-sfnn",
        f"network, {strategy_title(DEFAULT_STRATEGY)} (default)": f"dilran-{DEFAULT_STRATEGY}",
    }
    return {caption: METHODS[name].load(Resources()) for caption, name in names.items()}


def row(pair: SlicePair, fuse: dict[str, Fuse]) -> dict[str, Tensor]:
    """The sources of a pair and its fusions, (H, W) in [0, 1], by caption."""
    ct, mr = (torch.from_numpy(image.astype(np.float32) / 255)[None, None] for image in (pair.ct, pair.mri))
    images = {"CT": ct, "MR": mr} | {caption: method(ct, mr) for caption, method in fuse.items()}
    return {caption: image[0, 0] for caption, image in images.items()}


def montage(rows: Sequence[dict[str, Tensor]]) -> Image.Image:
    """Rows of images of one size, all with the same captions, which stand below the last."""
    height, width = next(iter(rows[0].values())).shape
    sheet = Image.new("L", (len(rows[0]) * (width + _GAP) - _GAP, len(rows) * (height + _GAP) - _GAP + _CAPTION), 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for line, images in enumerate(rows):
        for column, image in enumerate(images.values()):
            pixels = Image.fromarray((image.numpy() * 255).round().astype(np.uint8))
            sheet.paste(pixels, (column * (width + _GAP), line * (height + _GAP)))
    for column, caption in enumerate(rows[0]):
        middle = column * (width + _GAP) + width / 2, sheet.height - _CAPTION / 2
        draw.text(middle, caption, fill=40, font=font, anchor="mm")
    return sheet


def main() -> None:
    """Read the command line, fuse, write the picture, say what it shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    pairs, fuse = telling_pairs(PhantomConfig(), PAIRS), fusions()
    sheet = montage([row(pair, fuse) for pair in pairs])
    write_atomically(given.output, lambda partial: sheet.save(partial, optimize=True))
    print(f"wrote {given.output}: phantom pairs {', '.join(pair.name for pair in pairs)}")


if __name__ == "__main__":
    main()
