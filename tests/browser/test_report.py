"""The evaluation report in a real browser: it works by mouse and keyboard, on a phone, framed, and without network."""

import numpy as np
import pytest

from components.evaluate.evaluation import Column, Evaluation, MethodResult
from components.evaluate.pictures import Picture
from components.evaluate.report import render_report

METHODS = {"network-sfnn": "This network, SFNN", "average": "Average", "maximum": "Elementwise maximum"}
MEASURES = ("psnr", "ssim", "ms_ssim", "mi", "nmi", "fsim", "en", "sd", "sf", "ag", "scd", "vif", "qabf")
PIXEL = """canvas => {
  const copy = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  return [...copy.getImageData(3, 3, 1, 1).data];
}"""
PIXEL_IN_THE_MIDDLE = """canvas => {
  const copy = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, -Math.floor(canvas.width / 2), -Math.floor(canvas.height / 2));
  return [...copy.getImageData(0, 0, 1, 1).data];
}"""
PAIRS = ("7001", "7002", "9001")
FUSED = {"network-sfnn": 200, "average": 100, "maximum": 150}


def image(value):
    return np.full((32, 32), value, np.uint8)


def page_text():
    values = {name: [0.1 * n + 0.01 * m for n in range(3)] for m, name in enumerate(MEASURES)}
    pictures = [
        Picture(
            pair, pair[0], int(pair[1:]), False, image(200), image(50 + row), {k: image(v) for k, v in FUSED.items()}
        )
        for row, pair in enumerate(PAIRS)
    ]
    evaluation = Evaluation(
        dataset_version="0" * 32 + ".dir",
        collection="CT-MRI",
        modalities=("CT", "MRI"),
        splits={"train": {"pairs": 9, "subjects": 3}, "test": {"pairs": 3, "subjects": 2}},
        synthetic=False,
        batchnorm="image",
        pairs=list(PAIRS),
        subjects=["7", "9"],
        measures=[Column(name, name.upper(), "dB", "higher") for name in MEASURES],
        candidate="network-sfnn",
        methods=[MethodResult(n, t, "network" if n[0] == "n" else "baseline", values) for n, t in METHODS.items()],
        pictures=pictures,
        floors={"lesions": None, "seconds": 0.1},
    )
    losses = {"total": 0.3, "l2": 0.1, "gradient": 0.5, "perceptual": 0.5}
    curves = [{"epoch": epoch, "train": losses, "validation": losses} for epoch in range(1, 4)]
    return render_report(evaluation, curves, {"perceptual": "random", "seed": 1})


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page_text(), encoding="utf-8")
    return path


@pytest.fixture
def opened(opening, report):
    """A page showing the report."""
    with opening(report) as page:
        yield page


def shown(page):
    """What the viewer holds now, once the differences of the chosen pair and method are drawn."""
    title = page.locator("[data-view=fused] b").inner_text()
    place = page.locator("input[name=pair]:checked").locator("..").inner_text()
    drawn = page.locator(f'canvas[aria-label="{title} minus MRI, {place}"]')
    drawn.wait_for()
    colour = drawn.evaluate(PIXEL)
    return {
        "fused": page.locator("[data-view=fused] img").get_attribute("src"),
        "alt": page.locator("[data-view=fused] img").get_attribute("alt"),
        "mri": page.locator("[data-view=b] img").get_attribute("src"),
        "colour": colour,
    }


def test_choosing_a_method_by_click_changes_image_and_difference(opened):
    before = shown(opened)
    opened.get_by_label("Average", exact=True).check()
    after = shown(opened)
    assert before["alt"].endswith("This network, SFNN") and after["alt"].endswith("Average")
    assert after["fused"] != before["fused"] and after["mri"] == before["mri"]
    assert before["colour"] == [255, 158, 54, 255]
    assert after["colour"] == [100, 62, 21, 255]  # 50 of 128 grey levels brighter than the MRI
    assert opened.locator("[data-view=lossa] canvas").evaluate(PIXEL) == [56, 122, 199, 255]  # 100 darker than the CT


def test_a_thumbnail_chooses_its_method(opened):
    opened.locator(".sheet:visible figure", has_text="Elementwise maximum").locator("img").click()
    assert shown(opened)["alt"].endswith("Elementwise maximum")


def test_choosing_a_pair_by_click_keeps_the_method(opened):
    opened.get_by_label("Average", exact=True).check()
    before = shown(opened)
    opened.get_by_label("Subject 9, slice 1").check()
    after = shown(opened)
    assert after["alt"] == "Subject 9, slice 1 fused by: Average"
    assert after["mri"] != before["mri"]
    assert opened.locator(".sheet:visible").get_attribute("data-pair") == "9001"


def test_the_keyboard_reaches_pair_and_method(opened):
    before = shown(opened)
    reached = []
    while "pair" not in reached:
        opened.keyboard.press("Tab")
        reached.append(opened.evaluate("document.activeElement.name"))
    opened.keyboard.press("ArrowRight")
    assert "Subject 7, slice 2" in shown(opened)["alt"]
    opened.keyboard.press("Tab")
    opened.keyboard.press("ArrowRight")
    after = shown(opened)
    assert after["alt"] == "Subject 7, slice 2 fused by: Average"
    assert after["fused"] != before["fused"]


@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_narrow_screen_scrolls_no_further_than_down(opened, width):
    opened.set_viewport_size({"width": width, "height": 844})
    shown(opened)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    table = opened.locator("#measures .scroll")
    assert table.evaluate("box => box.scrollWidth > box.clientWidth")


def test_every_image_and_table_is_named_for_those_who_do_not_see_it(opened):
    shown(opened)
    assert opened.locator("img:visible").evaluate_all("images => images.every((image) => image.alt)")
    assert opened.locator("canvas, svg").evaluate_all("all => all.every((each) => each.getAttribute('aria-label'))")
    assert opened.locator("table").evaluate_all("tables => tables.every((table) => table.caption)")
    assert opened.locator("th:not([scope])").count() == 0


def test_a_sandboxed_frame_shows_the_differences_too(browser, report):
    page = browser.new_page()
    page.set_content('<iframe sandbox="allow-scripts" width="1000" height="800"></iframe>')
    page.locator("iframe").evaluate("(frame, text) => { frame.srcdoc = text; }", report.read_text(encoding="utf-8"))
    drawn = page.frame_locator("iframe").locator(
        'canvas[aria-label="This network, SFNN minus MRI, Subject 7, slice 1"]'
    )
    drawn.wait_for()
    assert drawn.evaluate(PIXEL) == [255, 158, 54, 255]
    page.close()


def test_without_scripts_the_table_and_every_pair_are_there(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.get_by_role("columnheader", name="QABF").is_visible()
    assert page.locator(".sheet img").count() == len(PAIRS) * (2 + len(METHODS))
    assert all(picture.is_visible() for picture in page.locator(".sheet img").all())
    assert not page.locator("#controls").is_visible() and not page.locator("#viewer").is_visible()
    context.close()


def test_dark_and_light_follow_the_reader(browser, report):
    colours = {}
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto(report.as_uri())
        colours[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        context.close()
    assert colours == {"light": "rgb(252, 252, 250)", "dark": "rgb(17, 20, 23)"}


def test_the_viewer_opens_on_the_chosen_pair_and_method(opened):
    opened.get_by_label("Average", exact=True).check()
    opened.get_by_label("Subject 9, slice 1").check()
    opened.get_by_role("button", name="Look closely").click()
    viewer = opened.get_by_role("dialog", name="Viewer")
    viewer.locator("figure[data-pane=fused] canvas[aria-label='Average, Subject 9, slice 1']").wait_for()
    colour = viewer.locator("figure[data-pane=b] canvas").evaluate(PIXEL_IN_THE_MIDDLE)
    assert colour == [52, 52, 52, 255]
    assert viewer.locator("tr", has_text="Average").locator("td").count() == 4
    viewer.locator("figure[data-pane=b] canvas").dblclick()
    opened.keyboard.press("Escape")
    assert viewer.is_visible() and viewer.locator("figure:visible").count() == 6
    viewer.get_by_role("button", name="Close").first.click()
    assert not viewer.is_visible()
    opened.get_by_label("Elementwise maximum", exact=True).first.check()
    opened.get_by_role("button", name="Look closely").click()
    viewer.locator("figure[data-pane=fused] canvas[aria-label='Elementwise maximum, Subject 9, slice 1']").wait_for()


def test_the_viewer_takes_the_images_of_the_page_and_brings_none(report):
    text = report.read_text(encoding="utf-8")
    images = [image for image in text.split('"') if image.startswith("data:image/png")]
    assert len(images) == len(PAIRS) * (2 + len(METHODS))


def test_a_phone_shows_the_viewer_of_the_report_whole(opened):
    opened.set_viewport_size({"width": 390, "height": 844})
    opened.get_by_role("button", name="Look closely").click()
    opened.locator("#view [data-ui=weights][data-how]").wait_for()
    boxes = [canvas.bounding_box() for canvas in opened.locator("#view canvas").all()]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] > 150 for box in boxes)


def test_a_sandboxed_frame_opens_the_viewer_too(browser, report):
    page = browser.new_page()
    page.set_content('<iframe sandbox="allow-scripts" width="1000" height="800"></iframe>')
    page.locator("iframe").evaluate("(frame, text) => { frame.srcdoc = text; }", report.read_text(encoding="utf-8"))
    frame = page.frame_locator("iframe")
    frame.get_by_role("button", name="Look closely").click()
    frame.locator("figure[data-pane=a] canvas[aria-label='CT, Subject 7, slice 1']").wait_for()
    page.close()
