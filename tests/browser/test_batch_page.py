"""A batch's page in a real browser: its pictures load, a phone reads it, the dark scheme is legible, no network."""

import json

import pytest
import torch

from components.batch.steps import check_step, fuse_step, report_step
from components.ingest.phantom import PhantomConfig
from model.fuser import Fuser, FuserConfig
from model.network import FusionNetwork
from tests.datasets import write_image

LONG = "7" + "_a_name_that_goes_on" * 6 + "_001"
STATISTICS = ("mean", "background", "entropy", "sharpness", "bone")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of a batch of three subjects and more: the CT drifted, and two pairs cannot be fused."""
    folder = tmp_path_factory.mktemp("batch")
    torch.manual_seed(0)
    Fuser(FusionNetwork(8), FuserConfig("average", "image")).save(folder / "model")
    far = {name: {"mean": 1e3, "sd": 1.0, "between": 1.0} for name in STATISTICS}
    near = {name: {"mean": 0.0, "sd": 1e4, "between": 1.0} for name in STATISTICS}
    text = {"collection": "CT-MRI", "modalities": {"CT": {"subjects": 5} | far, "MRI": {"subjects": 5} | near}}
    (folder / "model" / "data_statistics.json").write_text(json.dumps(text))
    for number, name in enumerate(("1001", "2001", "3001", "4001", LONG, f"{LONG}2")):
        for modality in ("CT", "MRI"):
            write_image(folder / "in" / modality / f"{name}.png", number, modality, (48, 64))
    (folder / "in" / "CT" / "4001.png").write_bytes(b"")
    (folder / "in" / "MRI" / f"{LONG}2.png").unlink()
    plan, chosen, fused, out = (folder / name for name in ("plan", "chosen", "fused", "out"))
    asked = str(folder / "in"), str(out), "CT-MRI", str(folder / "model"), "", "default", "skip"
    check_step(*asked, PhantomConfig(), plan, chosen)
    fuse_step(plan, chosen, str(out), fused)
    report_step(plan, chosen, fused, str(out), folder / "summary", "0" * 40, "0" * 16)
    return out / "CT-MRI" / "report.html"


@pytest.fixture
def page(opening, written):
    with opening(written) as page:
        yield page


def test_every_picture_loads_and_is_named(page):
    images = page.locator("img")
    assert images.count() == 9
    assert images.evaluate_all("all => all.map(image => [image.naturalWidth, image.naturalHeight])") == [[64, 48]] * 9
    assert images.evaluate_all("all => new Set(all.map(image => image.alt)).size") == 9
    assert page.locator("figcaption").all_inner_texts() == ["CT", "Fused", "MRI"] * 3


def test_it_says_what_drifted_and_leads_to_what_was_not_fused(page):
    assert (
        "differ from those that the model learned from in 5 of 10 statistics" in page.locator("#summary").inner_text()
    )
    assert page.locator("#subjects tr.candidate th").all_inner_texts() == [f"CT {name}" for name in STATISTICS]
    page.get_by_role("link", name="which, and why").click()
    assert page.url.endswith("#faults")
    assert sorted(page.locator("#faults li").all_inner_texts()) == [
        "4001: CT/4001.png is not an image this program reads; give a PNG or TIFF file",
        f"{LONG}2: no MRI image has this name",
    ]


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_never_scrolls_the_page_sideways_and_sees_the_fused_image_first(page, width):
    page.set_viewport_size({"width": width, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [figure.bounding_box() for figure in page.locator(".trio").first.locator("figure").all()]
    assert boxes[1]["y"] < boxes[0]["y"] == boxes[2]["y"] and boxes[1]["width"] > 0.8 * width


def test_every_table_is_whole_on_a_desktop(page):
    boxes = page.locator(".scroll").evaluate_all("boxes => boxes.map(box => [box.scrollWidth, box.clientWidth])")
    assert len(boxes) == 2 and all(needed <= there for needed, there in boxes), boxes


# The least contrast of text, by WCAG 2.1: of every element with text of its own against the nearest background.
CONTRAST = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (parts(colour)[3] !== 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = [...document.querySelectorAll("body *")].filter((element) =>
    [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
  return texts.map((element) => {
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.outerHTML.slice(0, 80)];
  }).sort((a, b) => a[0] - b[0])[0];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_background(opening, written, scheme):
    with opening(written, color_scheme=scheme) as page:
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(252, 252, 250)"
        assert dark == (scheme == "dark")
        ratio, element = page.evaluate(CONTRAST)
        assert ratio >= 4.5, element
