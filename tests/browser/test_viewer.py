"""The viewer in a real browser: what is chosen, dragged and typed changes the pixels, and nothing leaves the page."""

import re
from contextlib import ExitStack

import numpy as np
import pytest

from components.evaluate.page import png
from components.evaluate.viewer.scene import Scene, Shown, Side, deep_png, render_viewer, share_address

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright to drive a browser").expect

SIZE = 32
# The colour that a pane shows at a place told in shares of its shorter side from the middle.
PIXEL = """(pane, [x, y]) => {
  const canvas = pane.querySelector("canvas");
  const place = [canvas.width / 2, canvas.height / 2], side = Math.min(canvas.width, canvas.height);
  const [left, top] = [place[0] + x * side, place[1] + y * side].map(Math.floor);
  const copy = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, -left, -top);
  return [...copy.getImageData(0, 0, 1, 1).data].slice(0, 3);
}"""
BLUE, HALF, ORANGE = (72, 156, 255), (64, 64, 64), (255, 158, 54)


def flat(value, middle=None):
    """An image of one level, with another in the middle quarter of its sides."""
    image = np.full((SIZE, SIZE), value, np.uint8)
    if middle is not None:
        image[12:20, 12:20] = middle
    return image


def shown(name, a, b, **more):
    share = np.zeros((SIZE, SIZE))
    share[:, : SIZE // 2] = 1
    fused = {"average": flat((a + b) // 2), "mostly": flat(round(0.8 * a + 0.2 * b)), "parted": flat(a)}
    return Shown(
        name,
        png(flat(a)),
        png(flat(b)),
        {key: png(image) for key, image in fused.items()},
        {"average": 0.5, "parted": share_address(share)},
        {"average": ["0.100", "0.200"], "mostly": ["0.300", "0.400"]},
        **more,
    )


METHODS = [("average", "Average"), ("mostly", "Mostly CT"), ("parted", "In two parts")]


def scene(**changes):
    told = {
        "title": "ct.png and mr.png",
        "a": Side("CT"),
        "b": Side("MR"),
        "methods": METHODS,
        "pairs": [shown("one", 200, 50), shown("two", 120, 20), shown("three", 100, 10)],
        "measures": ["Q", "VIF"],
    }
    return Scene(**told | changes)


@pytest.fixture
def opens(opening, tmp_path):
    """Open the page of a scene; afterwards, it has neither complained nor asked the network for anything."""
    with ExitStack() as stack:

        def call(shown_scene=None, **options):
            path = tmp_path / "view.html"
            path.write_text(render_viewer(shown_scene or scene()), encoding="utf-8")
            page = stack.enter_context(opening(path, **options))
            page.locator("[data-ui=weights][data-how]").wait_for()
            return page

        yield call


@pytest.fixture
def page(opens):
    return opens()


def pane(page, kind):
    return page.locator(f"figure[data-pane={kind}]")


def waits_for(page, kind, colour, at=(0, 0), number=0):
    """Wait until a pane shows a colour, to one level."""
    script = f"""([kind, number, at, colour]) => {{
      const found = ({PIXEL})(document.querySelectorAll(`figure[data-pane=${{kind}}]`)[number], at);
      return found.every((value, i) => Math.abs(value - colour[i]) <= 1);
    }}"""
    wanted = [colour] * 3 if isinstance(colour, int) else list(colour)
    page.wait_for_function(script, arg=[kind, number, list(at), wanted])


def slide(page, name, value):
    page.locator(f"[data-ui={name}]").evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', { bubbles: true })); }", value
    )


def drag(page, kind, dx, dy, button="left"):
    box = pane(page, kind).locator("canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down(button=button)
    page.mouse.move(x + dx, y + dy, steps=4)
    page.mouse.up(button=button)


def test_every_pane_shows_what_it_says(page):
    waits_for(page, "a", 200)
    waits_for(page, "b", 50)
    waits_for(page, "fused", 125)
    waits_for(page, "compare", 125)
    waits_for(page, "weights", HALF)
    waits_for(page, "difference", [75 * 2 / 255 * value for value in BLUE])
    captions = page.locator("figcaption b").all_inner_texts()
    assert captions == ["CT", "MR", "Average", "CT | MR", "Weights", "Fused \u2212 CT"]


def test_the_slider_blends_one_image_into_the_other(page):
    slide(page, "mix", 100)
    waits_for(page, "compare", 50)
    slide(page, "mix", 20)
    waits_for(page, "compare", 170)
    for _ in range(4):
        page.keyboard.press(",")
    waits_for(page, "compare", 200)
    page.get_by_label("Right or above").select_option("In two parts")
    page.keyboard.press(".")
    page.keyboard.press("b")
    waits_for(page, "compare", 200)
    page.get_by_label("Left or below").select_option("MR")
    slide(page, "mix", 0)
    waits_for(page, "compare", 50)


def test_the_swipe_parts_the_images_and_its_edge_can_be_dragged(page):
    page.get_by_role("button", name="Swipe").click()
    waits_for(page, "compare", 200, at=(-0.1, 0.2))
    waits_for(page, "compare", 50, at=(0.1, 0.2))
    drag(page, "compare", 80, 0)
    waits_for(page, "compare", 200, at=(0.1, 0.2))
    assert float(page.locator("[data-ui=mix]").input_value()) > 60


def test_sliders_set_level_and_width_of_one_kind_of_image(page):
    slide(page, "level", 200 / 255)
    waits_for(page, "a", 127)
    slide(page, "width", 0.5)
    assert page.locator("[data-ui=width]").get_attribute("aria-valuetext") == "11"
    slide(page, "level", 0.7)
    waits_for(page, "a", 255)
    waits_for(page, "b", 50)
    page.get_by_role("button", name="MR", exact=True).click()
    slide(page, "level", 50 / 255)
    waits_for(page, "b", 127)
    page.keyboard.press("i")
    waits_for(page, "a", 0)
    page.get_by_role("button", name="Reset").click()
    waits_for(page, "a", 200)
    waits_for(page, "b", 50)


@pytest.mark.parametrize("how", ["right", "shift", "tool"])
def test_dragging_sets_window_and_level_of_the_image_below(page, how):
    waits_for(page, "b", 50)
    if how == "shift":
        page.keyboard.down("Shift")
    if how == "tool":
        page.keyboard.press("w")
    drag(page, "b", 0, -100, button="right" if how == "right" else "left")
    waits_for(page, "b", 135)  # a third of the width brighter
    drag(page, "b", -200, 0, button="right" if how == "right" else "left")
    waits_for(page, "b", 147)
    waits_for(page, "a", 200)
    assert page.locator("[data-side=b]").get_attribute("aria-pressed") == "true"


def test_the_window_can_be_found_from_the_image(opens):
    pair = Shown("one", png(flat(40, 60)), png(flat(50)), {"average": png(flat(45))})
    image = flat(40, 60)
    image[:4] = 0
    page = opens(scene(methods=METHODS[:1], pairs=[Shown("one", png(image), pair.b, pair.fused)]))
    page.get_by_role("button", name="Auto").click()
    waits_for(page, "a", 255)
    waits_for(page, "a", 0, at=(-0.3, 0))


def test_zoom_and_shift_hold_for_every_pane(opens):
    images = {"a": flat(10, 110), "b": flat(20, 120), "fused": flat(30, 130)}
    pair = Shown("one", png(images["a"]), png(images["b"]), {"average": png(images["fused"])}, {"average": 0.5})
    page = opens(scene(pairs=[pair], methods=METHODS[:1]))
    middles = {"a": (10, 110), "b": (20, 120), "fused": (30, 130), "compare": (15, 115)}
    for kind, (around, _) in middles.items():
        waits_for(page, kind, around, at=(-0.2, 0))
    pane(page, "b").locator("canvas").hover()
    for _ in range(5):
        page.mouse.wheel(0, -300)
    for kind, (_, middle) in middles.items():
        waits_for(page, kind, middle, at=(-0.2, 0))
    drag(page, "fused", 400, 0)
    for kind, (around, _) in middles.items():
        waits_for(page, kind, around, at=(-0.2, 0))
    assert page.locator("[data-ui=zoom]").inner_text() != "100 %"
    page.keyboard.press("0")
    for kind, (_, middle) in middles.items():
        waits_for(page, kind, middle)
    assert page.locator("[data-ui=zoom]").inner_text() == "100 %"
    for _ in range(6):
        page.keyboard.press("+")
    for _ in range(5):
        page.keyboard.press("Shift+ArrowRight")
    waits_for(page, "a", 10, at=(0.1, 0))


def test_pairs_and_methods_are_chosen_by_mouse_and_keyboard(page):
    page.get_by_label("Next pair").click()
    waits_for(page, "a", 120)
    page.keyboard.press("PageDown")
    waits_for(page, "a", 100)
    page.keyboard.press("PageDown")
    page.keyboard.press("ArrowLeft")
    waits_for(page, "a", 120)
    page.get_by_label("Pair", exact=True).select_option("one")
    waits_for(page, "b", 50)
    page.keyboard.press("3")
    waits_for(page, "fused", 200)
    page.keyboard.press("n")
    waits_for(page, "fused", 125)
    page.get_by_label("Mostly CT", exact=True).check()
    waits_for(page, "fused", 170)
    assert page.locator("[data-ui=spoken]").text_content() == "one, Mostly CT"
    row = page.locator("tr", has_text="Mostly CT").locator("td")
    assert row.all_inner_texts() == ["0.300", "0.400"]


def test_the_wheel_with_shift_turns_the_pairs(page):
    pane(page, "a").locator("canvas").hover()
    page.keyboard.down("Shift")
    page.mouse.wheel(0, 100)
    waits_for(page, "a", 120)


def test_methods_and_weights_stand_side_by_side(page):
    page.keyboard.press("m")
    for number, value in enumerate((125, 170, 200)):
        waits_for(page, "fused", value, number=number)
    page.get_by_role("button", name="Weights").click()
    waits_for(page, "weights", HALF, number=0)
    waits_for(page, "weights", ORANGE, at=(-0.2, 0), number=2)
    waits_for(page, "weights", BLUE, at=(0.2, 0), number=2)
    captions = page.locator("figure[data-pane=weights] b").all_inner_texts()
    assert captions == ["Average", "Mostly CT, estimated", "In two parts"]
    page.keyboard.press("o")
    waits_for(page, "difference", [75 * 2 / 255 * value for value in BLUE])


def test_the_weights_are_the_methods_own_or_said_to_be_estimated(page):
    told = page.locator("[data-ui=weights]")
    canvas = pane(page, "weights").locator("canvas")
    for key, how, value in (("1", "one", "50 % CT"), ("2", "estimated", "80 % CT"), ("3", "exact", "100 % CT")):
        page.keyboard.press(key)
        page.locator(f"[data-ui=weights][data-how={how}]").wait_for()
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] / 2)
        expect(pane(page, "weights").locator("output")).to_have_text(value)
    assert "method's own weight of each pixel" in told.inner_text() and "50.0 % of CT" in told.inner_text()
    page.get_by_label("Tint the fused image").check()
    waits_for(page, "fused", [200 / 255 * value for value in ORANGE], at=(-0.2, 0))


def test_where_nothing_can_be_weighed_the_weights_are_black(opens):
    dark, half = flat(0, 100), flat(0, 100)
    pair = Shown("one", png(dark), png(half), {"average": png(dark), "mostly": png(dark)}, {"average": 0.5})
    page = opens(scene(pairs=[pair], methods=METHODS[:2]))
    waits_for(page, "weights", HALF)
    waits_for(page, "weights", 0, at=(-0.3, 0))
    page.keyboard.press("2")
    waits_for(page, "weights", 0)  # the sources and the fused image are one


def test_the_values_under_the_pointer_are_told_for_every_image(page):
    box = pane(page, "b").locator("canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 + 4, box["y"] + box["height"] / 2 + 4)
    expect(page.locator("[data-ui=place]")).to_have_text("Column 16, row 16")
    values = page.locator("figcaption output").all_inner_texts()
    assert values == ["200", "50", "125", "200 | 50", "50 % CT", "\u221229.4 %"]
    page.mouse.move(5, 5)
    expect(page.locator("figcaption output").first).to_be_empty()


def test_volumes_are_read_in_their_units_through_the_window_they_were_fused_by(opens):
    hounsfield = np.full((SIZE, SIZE), 20 + 1000, np.uint16)
    hounsfield[12:20, 12:20] = 1700
    ct = Side("CT", 3000, -1000, 2000, "HU", 0, 80)
    pair = Shown("Slice 1", deep_png(hounsfield), png(flat(0)), {"average": png(flat(64, 255))}, {})
    page = opens(scene(a=ct, pairs=[pair], methods=METHODS[:1], aspect=2.0, millimetres=0.5))
    waits_for(page, "a", 64, at=(-0.1, 0.3))
    waits_for(page, "a", 255)
    waits_for(page, "weights", ORANGE, at=(-0.1, 0.3))
    waits_for(page, "difference", 0)  # what the fusion saw of bone is white
    page.get_by_role("button", name="Bone").click()
    waits_for(page, "a", round(255 * (700 + 800) / 2800))
    assert page.locator("[data-ui=width]").get_attribute("aria-valuetext") == "2800 HU"
    pane(page, "a").locator("canvas").hover()
    expect(pane(page, "a").locator("output")).to_have_text("700 HU")


def test_one_image_alone_and_back(page):
    canvas = pane(page, "fused").locator("canvas")
    small = canvas.bounding_box()["width"]
    canvas.focus()
    page.keyboard.press("Enter")
    assert page.locator("figure:visible").count() == 1
    assert canvas.bounding_box()["width"] > 2 * small
    waits_for(page, "fused", 125)
    page.keyboard.press("Escape")
    assert page.locator("figure:visible").count() == 6
    canvas.dblclick()
    assert page.locator("figure:visible").count() == 1
    page.keyboard.press("m")
    assert page.locator("figure:visible").count() == 5


def test_help_tells_the_keys_and_hands_the_focus_back(page):
    page.keyboard.press("?")
    help_ = page.get_by_role("dialog", name="Keys and mouse")
    assert help_.is_visible() and "window: right is wider" in help_.inner_text()
    page.keyboard.press("m")
    assert page.locator("figure").count() == 6
    page.keyboard.press("Escape")
    assert not help_.is_visible()
    page.get_by_role("button", name="Help").click()
    help_.get_by_role("button", name="Close").click()
    assert not help_.is_visible()
    assert page.evaluate("document.activeElement.dataset.do") == "help"


def test_arrows_in_a_slider_move_the_slider_alone(page):
    page.locator("[data-ui=mix]").focus()
    page.keyboard.press("ArrowRight")
    waits_for(page, "a", 200)
    assert page.locator("[data-ui=mix]").input_value() == "51"
    assert page.locator("[data-ui=pair]").input_value() == "0"


@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_phone_shows_the_images_first_and_never_scrolls_sideways(opens, width):
    page = opens(viewport={"width": width, "height": 844}, has_touch=True)
    waits_for(page, "a", 200)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [canvas.bounding_box() for canvas in page.locator("canvas").all()]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= width and box["width"] > 140 for box in boxes)
    assert boxes[1]["y"] + boxes[1]["height"] < 844
    heights = page.locator("button:visible").evaluate_all("all => all.map(each => each.offsetHeight)")
    assert min(heights) >= 36


def test_two_fingers_zoom_about_their_middle(opens):
    page = opens(viewport={"width": 390, "height": 844}, has_touch=True)
    waits_for(page, "a", 200)
    box = pane(page, "a").locator("canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = page.context.new_cdp_session(page)
    for kind, apart in (("touchStart", 20), ("touchMove", 30), ("touchMove", 40), ("touchEnd", None)):
        points = [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}] if apart else []
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    expect(page.locator("[data-ui=zoom]")).to_have_text(re.compile(r"(1[3-9]\d|2\d\d) %"))


def test_light_and_dark_follow_the_reader_until_the_button_says_otherwise(opens):
    background = "getComputedStyle(document.getElementById('view')).backgroundColor"
    colours = {scheme: opens(color_scheme=scheme).evaluate(background) for scheme in ("light", "dark")}
    assert colours == {"light": "rgb(246, 246, 243)", "dark": "rgb(20, 23, 26)"}
    page = opens(color_scheme="dark")
    page.get_by_role("button", name="Light").click()
    assert page.evaluate(background) == colours["light"]
    page.keyboard.press("t")
    assert page.evaluate(background) == colours["dark"]


def test_everything_has_a_name_for_those_who_do_not_see_it(page):
    waits_for(page, "a", 200)
    labels = page.locator("canvas").evaluate_all("all => all.map(each => each.getAttribute('aria-label'))")
    assert labels[0] == "CT, one" and labels[4] == "Weights of CT in Average, one" and all(labels)
    nameless = page.locator("button, select, input").evaluate_all(
        """all => all.filter(each => !(each.innerText || each.getAttribute("aria-label") || each.labels?.length))
            .map(each => each.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("th:not([scope])").count() == 0 and page.locator("table caption").count() == 1
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.closest('figure')?.dataset.pane"))
    assert {"a", "b", "fused", "compare", "weights", "difference"} <= reached


def test_names_from_files_are_text_and_nothing_else(opens):
    evil = "</script><img src=x onerror=alert(1)>"
    pair = shown(evil, 200, 50)
    page = opens(scene(title=evil, a=Side(evil), pairs=[pair], methods=[("average", evil)]))
    assert page.locator("h2").first.inner_text() == evil
    assert page.locator("figure[data-pane=a] b").inner_text() == evil
    assert page.locator("img").count() == 0


def test_without_scripts_the_page_says_what_it_needs(browser, tmp_path):
    (tmp_path / "view.html").write_text(render_viewer(scene()), encoding="utf-8")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((tmp_path / "view.html").as_uri())
    assert "allow scripts" in page.locator("body").inner_text()
    context.close()
