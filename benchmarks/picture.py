"""Put a pair and its fusions side by side, as on the first page of the documentation.

python -m benchmarks.picture CT.png MR.png -o docs/fusion.png --model runs/latest/model
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from model.fuser import Fuser
from model.images import read_grey, write_atomically
from model.methods import METHODS, Resources

_STRATEGIES = ("sfnn", "fer")
_BASELINES = ("maximum",)
_GAP, _CAPTION = 6, 24


def montage(images: dict[str, Tensor]) -> Image.Image:
    """Images (1, H, W) in [0, 1] in a row, each with its caption below."""
    height, width = next(iter(images.values())).shape[1:]
    sheet = Image.new("L", (len(images) * (width + _GAP) - _GAP, height + _CAPTION), 255)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for column, (caption, image) in enumerate(images.items()):
        left = column * (width + _GAP)
        sheet.paste(Image.fromarray((image[0].numpy() * 255).round().astype(np.uint8)), (left, 0))
        draw.text((left + width / 2, height + _CAPTION / 2), caption, fill=40, font=font, anchor="mm")
    return sheet


def main() -> None:
    """Read the command line, fuse, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ct", type=Path)
    parser.add_argument("mr", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    given = parser.parse_args()
    ct, mr = (read_grey(path) for path in (given.ct, given.mr))
    fused = Fuser.load(given.model).fuse_each(ct[None], mr[None], _STRATEGIES)
    images = {"CT": ct, "MR": mr} | {f"network, {name.upper()}": image[0] for name, image in fused.items()}
    for method in (METHODS[name] for name in _BASELINES):
        images[method.title.lower()] = method.load(Resources())(ct[None], mr[None])[0]
    write_atomically(given.output, lambda partial: montage(images).save(partial, optimize=True))


if __name__ == "__main__":
    main()
