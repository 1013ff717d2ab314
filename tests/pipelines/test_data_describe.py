"""`fusion data describe`: what it counts and draws, and what it writes whole or not at all."""

import json

import numpy as np
import pytest
from PIL import Image


def test_a_description_counts_draws_and_loads_nothing(checkout, tree, fusion, refused, tmp_path):
    done = fusion("data", "describe", tree, "-o", tmp_path / "out")
    assert done.stdout.splitlines()[0] == "CT-MRI     3 pairs of 2 subjects"
    facts = json.loads((tmp_path / "out" / "description.json").read_text())
    ct = facts["collections"][0]["modalities"]["CT"]
    levels = np.stack([np.array(Image.open(path)) for path in (tree / "CT-MRI" / "CT").iterdir()])
    assert ct["mean"] == pytest.approx(levels.mean(), abs=0.01)
    assert ct["standard_deviation"] == pytest.approx(levels.std(), abs=0.01)
    assert ct["percentiles"]["50"] == pytest.approx(np.median(levels[levels > 0]), abs=1)
    assert ct["saturated"] == pytest.approx((levels == 255).mean(), abs=1e-4)
    assert facts["collections"][1]["modalities"]["PET"]["in_colour"] == 2
    assert (tmp_path / "out" / "pairs.csv").read_text().splitlines()[1] == "CT-MRI,2,2,004,005"
    page = (tmp_path / "out" / "description.html").read_text()
    assert "http" not in page.replace("http-equiv", "") and page.count("<svg") == 2 and facts["version"] in page
    with Image.open(tmp_path / "out" / "contact-sheet.png") as sheet:
        assert sheet.mode == "RGB" and sheet.width > 3 * 128 and np.array(sheet).std() > 20
    assert fusion("data", "describe", tree, "-o", tmp_path / "out").returncode == 0, "an older one is replaced"
    (tmp_path / "out" / "mine.txt").touch()
    assert "holds mine.txt, no description" in refused("data", "describe", tree, "-o", tmp_path / "out")
    assert "no such data folder" in refused("data", "describe", "-o", tmp_path / "new")
