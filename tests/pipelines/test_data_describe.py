"""`fusion data describe`: what it counts and draws, and what it writes whole or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.ingest.describe import FILES
from tests.datasets import write_tree


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


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "mine"}


@pytest.mark.parametrize("failing", FILES)
def test_an_older_description_is_replaced_wholly_or_not_at_all(tree, tmp_path, refused, fusion, monkeypatch, failing):
    out = tmp_path / "out"
    assert fusion("data", "describe", tree, "-o", out).returncode == 0
    before, place = contents(out), out.stat().st_ino
    write_tree(tree, {"CT-MRI": ("37003",)})
    replace = Path.replace

    def fails(self, target):
        if self.name == failing and self.parent.name == ".description.ready":
            raise PermissionError(13, "Permission denied", str(target))
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fails)
        assert "cannot write" in refused("data", "describe", tree, "-o", out)
    assert contents(out) == before
    assert fusion("data", "describe", tree, "-o", out).returncode == 0
    after = contents(out)
    assert after.keys() == before.keys() and all(after[name] != before[name] for name in after)
    assert out.stat().st_ino == place, "a shell that stands in it still does"


def test_a_description_that_was_cut_off_on_its_way_in_is_finished_by_the_next(tree, tmp_path, fusion):
    out = tmp_path / "out"
    assert fusion("data", "describe", tree, "-o", out).returncode == 0
    whole = contents(out)
    (out / ".description.ready").mkdir()
    (out / ".description.older").mkdir()
    (out / "pairs.csv").replace(out / ".description.ready" / "pairs.csv")
    (out / "pairs.csv").write_text("older")
    (out / ".DS_Store").write_bytes(b"Bud1")
    assert fusion("data", "describe", tree, "-o", out).returncode == 0
    assert {name: content for name, content in contents(out).items() if name != ".DS_Store"} == whole


def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_changes(tree, tmp_path, fusion, refused):
    out = tmp_path / "out"
    assert fusion("data", "describe", tree, "-o", out).returncode == 0
    (out / "pairs.csv").unlink()
    (out / "pairs.csv").mkdir()
    before = (out / "description.json").stat().st_mtime_ns
    assert "pairs.csv is no file" in refused("data", "describe", tree, "-o", out)
    assert (out / "description.json").stat().st_mtime_ns == before
