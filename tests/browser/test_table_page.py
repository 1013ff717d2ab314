"""The comparison's page in a real browser: whole on a desktop, readable on a phone, and without network."""

import numpy as np
import pytest

from components.evaluate.comparison import Comparison, Row
from components.evaluate.contenders import Contender
from components.evaluate.evaluation import Column
from components.evaluate.held_out import Pair
from components.evaluate.pictures import Picture
from components.evaluate.poster import GROUPS, PRINTED
from components.evaluate.table import write_table

METHODS = [name for group in GROUPS.values() for name in group]
PAIRS = [Pair(f"{subject}{number:03d}", str(subject), number) for subject in (2, 16, 37) for number in (7, 8, 9)]


def comparison(protocol):
    generator = np.random.default_rng(0)
    names = list(PRINTED["published"]) if protocol == "poster" else [f"measure{n}" for n in range(16)]
    rows = [
        Row(
            Contender(name, name.upper(), group, "network", "Somebody, 2022", lambda: None, "0" * 12),
            {} if name == "msdra" else {key: list(10 * position + generator.random(9)) for key in names},
            "no trained weights shipped; train them" if name == "msdra" else "",
        )
        for position, (group, name) in enumerate((group, name) for group, members in GROUPS.items() for name in members)
    ]
    image = np.full((32, 32), 90, np.uint8)
    fused = {name: image + 10 * n for n, name in enumerate(METHODS) if name != "msdra"}
    return Comparison(
        protocol=protocol,
        split="paper",
        data="data",
        data_version="0" * 32 + ".dir",
        synthetic=False,
        expected=20,
        pairs=PAIRS,
        measures=[Column(name, name.upper(), "bit", "higher") for name in names],
        rows=rows,
        pictures=[Picture(pair.name, pair.subject, pair.slice, False, image, image, fused) for pair in PAIRS[::4]],
        facts={"Code": "0" * 16 + " (commit " + "0" * 40 + ")", "Date": "2026-11-23"},
        notes=[],
    )


@pytest.fixture(scope="module", params=["poster", "standard"])
def written(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "table"
    write_table(comparison(request.param), folder)
    return folder / "table.html"


@pytest.fixture
def page(opening, written):
    """The open page, its pictures drawn."""
    with opening(written) as page:
        page.locator("canvas[aria-label]").first.wait_for()
        yield page


def test_every_table_is_whole_on_a_desktop(page):
    boxes = page.locator(".scroll").evaluate_all("boxes => boxes.map(box => [box.scrollWidth, box.clientWidth])")
    assert all(needed <= there for needed, there in boxes), boxes


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_scrolls_the_tables_and_never_the_page_sideways(page, width):
    page.set_viewport_size({"width": width, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#measures .scroll").first.evaluate("box => box.scrollWidth > box.clientWidth")


def test_every_method_is_in_the_table_and_every_one_that_ran_in_the_pictures(page):
    rows = page.locator("#measures .scroll").first.locator("tbody tr th[scope=row]")
    assert [text.split("\n")[0] for text in rows.all_inner_texts()] == [name.upper() for name in METHODS]
    assert "not run" in page.locator("#measures tr", has_text="MSDRA").first.inner_text()
    assert page.locator(".sheet:visible img").count() == 2 + len(METHODS) - 1
    page.get_by_label("MAXIMUM", exact=True).check()
    assert page.locator("[data-view=fused] img").get_attribute("alt").endswith("MAXIMUM")


def test_everything_is_named_for_those_who_do_not_see_it(page):
    assert page.locator("img:visible").evaluate_all("images => images.every((image) => image.alt)")
    assert page.locator("table").evaluate_all("tables => tables.every((table) => table.caption)")
    assert page.locator("th:not([scope])").count() == 0
    names = page.locator("[role=region]").evaluate_all("all => all.map(one => one.getAttribute('aria-label'))")
    assert len([name for name in names if name]) == len({name for name in names if name})
