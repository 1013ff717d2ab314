"""`fusion measure` prints every measure of a fused file, says why one is missing, and refuses what it cannot judge."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from model.metrics import PROTOCOLS, measure


def save(path, *size, seed=0, levels=None):
    array = np.random.default_rng(seed).integers(0, 256, size) if levels is None else np.full(size, levels)
    Image.fromarray(array.astype(np.uint8)).save(path)
    return torch.from_numpy(array.astype(np.float32) / 255)


@pytest.fixture
def triple(tmp_path):
    """a.png, b.png and fused.png of 64x48 pixels in the test's folder, and what they hold."""
    names = ("a.png", "b.png", "fused.png")
    return [save(tmp_path / name, 48, 64, seed=seed)[None, None] for seed, name in enumerate(names)]


def judged(fusion, *arguments):
    done = fusion("measure", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert "NaN" not in done.stdout and "Infinity" not in done.stdout
    return json.loads(done.stdout)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_json_holds_what_measure_gives(fusion, triple, protocol):
    result = judged(fusion, "a.png", "b.png", "fused.png", "--protocol", protocol)
    assert result["protocol"] == protocol
    assert list(result["measures"]) == list(PROTOCOLS[protocol])
    possible = [name for name in PROTOCOLS[protocol] if name != "ms_ssim"]
    for name, value in measure(*triple, possible, protocol).items():
        expected = {key: part.item() for key, part in value.items()} if isinstance(value, dict) else value.item()
        assert result["measures"][name] == pytest.approx(expected), name
    if protocol == "standard":
        assert result["measures"]["ms_ssim"] == {"mean": None, "sum": None}
        assert result["notes"] == {"ms_ssim": "needs at least 161x161 pixels; these images have 64x48"}


def test_the_table_names_every_measure_with_its_unit_and_direction(fusion, triple):
    lines = fusion("measure", "a.png", "b.png", "fused.png").stdout.splitlines()
    for entry in PROTOCOLS["standard"].values():
        (line,) = [
            line
            for line in lines
            if line.strip().startswith((f"{entry.title} \u2191", f"{entry.title}  "))
            or line.strip().startswith(f"{entry.title} [")
        ]
        assert "\u2191" in line and line.rstrip().endswith(entry.unit), line
    assert "[1] needs at least 161x161 pixels; these images have 64x48" in lines
    assert max(map(len, lines)) <= 80


def test_a_copy_of_a_source_has_no_psnr_and_the_reason_is_told(fusion, triple):
    result = judged(fusion, "a.png", "b.png", "b.png")
    assert result["measures"]["psnr"] == {"mean": None, "sum": None}
    assert result["notes"]["psnr"] == "infinite: the fused image equals b.png"
    assert "infinite: the fused image equals a.png and a.png" in fusion("measure", "a.png", "a.png", "a.png").stdout


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (2, 170), (12, 40)])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_small_and_constant_images_have_values_or_reasons(fusion, tmp_path, size, protocol):
    save(tmp_path / "a.png", *size, levels=80)
    save(tmp_path / "b.png", *size, levels=0)
    save(tmp_path / "fused.png", *size, levels=80)
    result = judged(fusion, "a.png", "b.png", "fused.png", "--protocol", protocol)
    for name, entry in PROTOCOLS[protocol].items():
        value = result["measures"][name]
        missing = None in value.values() if isinstance(value, dict) else value is None
        assert missing == (name == "psnr" or min(size) < entry.smallest)
        assert not missing or name in result["notes"]


def test_colour_counts_by_its_luma(fusion, tmp_path, triple):
    Image.fromarray(np.full((48, 64, 3), (200, 30, 90), dtype=np.uint8)).save(tmp_path / "pet.png")
    result = judged(fusion, "pet.png", "b.png", "fused.png")
    save(tmp_path / "grey.png", 48, 64, levels=round(0.299 * 200 + 0.587 * 30 + 0.114 * 90))
    grey = judged(fusion, "grey.png", "b.png", "fused.png")
    assert result["measures"]["scd"] == pytest.approx(grey["measures"]["scd"], abs=1e-9)
    assert result["measures"]["psnr"]["mean"] == pytest.approx(grey["measures"]["psnr"]["mean"], abs=0.05)


def test_what_cannot_be_judged_is_one_line(fusion, refused, tmp_path, triple):
    save(tmp_path / "other.png", 48, 63)
    (tmp_path / "text.png").write_text("no image")
    assert "a.png is 64x48, other.png is 63x48" in refused("measure", "a.png", "b.png", "other.png")
    assert "a.png is 64x48, other.png is 63x48" in refused("measure", "a.png", "other.png", "fused.png")
    assert "absent.png" in refused("measure", "a.png", "b.png", "absent.png")
    assert "text.png" in refused("measure", "a.png", "text.png", "fused.png")
    assert "'field'; choose one of standard, poster" in refused(
        "measure", "a.png", "b.png", "fused.png", "--protocol", "field"
    )
