"""Draw the picture of the viewer in the documentation: `fusion view` on pairs of the phantom, in headless Chromium.

python -m benchmarks.screenshot -o docs/viewer.png
"""

import argparse
import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks.picture import PAIRS, telling_pairs
from components.ingest.phantom import PhantomConfig
from model.images import write_atomically
from pipelines.view import Network, view

SIZE = (1280, 800)
COLOURS = 96  # as many as keep the picture small


def write_page(folder: Path, config: PhantomConfig) -> Path:
    """The page of the phantom's most telling pairs, in a folder of their own."""
    for pair in telling_pairs(config, PAIRS):
        for name, image in (("CT", pair.ct), ("MR", pair.mri)):
            (folder / name).mkdir(exist_ok=True)
            Image.fromarray(image).save(folder / name / f"{pair.name}.png")
    page = folder / "view.html"
    network = Network(strategies="default,sfnn")
    view(folder / "CT", folder / "MR", page, network, "average,maximum,laplacian", folder, PAIRS)
    return page


def photograph(page: Path, executable: str) -> Image.Image:
    """The page as a reader sees it who compares by the swipe and points at the lesion that only MR shows."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}, color_scheme="dark")
        opened.goto(page.as_uri())
        opened.locator("[data-ui=weights][data-how]").wait_for()
        opened.keyboard.press("s")
        box = opened.locator("figure[data-pane=b] canvas").bounding_box()
        assert box
        opened.mouse.move(box["x"] + 0.66 * box["width"], box["y"] + 0.56 * box["height"])
        opened.locator("figure[data-pane=a] output:not(:empty)").wait_for()
        shot = Image.open(io.BytesIO(opened.screenshot()))
        browser.close()
    return shot.convert("RGB").quantize(COLOURS)


def main() -> None:
    """Read the command line, draw, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    executable = shutil.which("chromium")
    if not executable:
        sys.exit("error: no Chromium on the PATH; install it (apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder:
        shot = photograph(write_page(Path(folder), PhantomConfig()), executable)
    write_atomically(given.output, lambda partial: shot.save(partial, optimize=True))
    print(f"wrote {given.output}: the viewer on {PAIRS} pairs of the phantom")


if __name__ == "__main__":
    main()
