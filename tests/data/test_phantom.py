"""The phantom: reproducible, whole or absent, and true to its own masks."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from components.ingest.phantom import STRUCTURES, PhantomConfig, SlicePair, subject_volume, write_phantom
from components.ingest.phantom.imaging import image_mri
from components.ingest.phantom.subject import draw_subject
from model.errors import InputError

SMALL = PhantomConfig(subjects=2, slices=3, size=64)
HEADS = PhantomConfig(subjects=3, slices=6, size=128)

Mask = NDArray[np.bool_]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "data"
    write_phantom(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def heads() -> list[list[SlicePair]]:
    return [list(subject_volume(HEADS, index)) for index in range(HEADS.subjects)]


def grown(mask: Mask, steps: int) -> Mask:
    for _ in range(steps):
        padded = np.pad(mask, 1)
        mask = padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return mask


def contrast(pair: SlicePair, image: NDArray[np.uint8], structure: str) -> float:
    """Median grey of a lesion's core less that of the brain around it, free of skull, air and fluid."""
    lesion = pair.truth[structure]
    core = ~grown(~lesion, 1)
    taken = np.any([pair.truth[name] for name in STRUCTURES], axis=0)
    ring = grown(lesion, 7) & ~grown(lesion, 2) & ~grown(taken & ~lesion, 2) & (pair.ct > 20)
    return float(np.median(image[core])) - float(np.median(image[ring]))


def seen(volume: list[SlicePair], structure: str) -> list[SlicePair]:
    return [pair for pair in volume if (~grown(~pair.truth[structure], 1)).sum() >= 12]


def test_same_config_gives_the_same_bytes_in_another_process(small: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from components.ingest.phantom import PhantomConfig, write_phantom; "
        "write_phantom(Path(sys.argv[1]), PhantomConfig(subjects=2, slices=3, size=64))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "again")], check=True, cwd=Path(__file__).parents[2])
    assert tree(tmp_path / "again") == tree(small)


def test_a_subject_does_not_depend_on_how_many_there_are(small: Path, tmp_path: Path) -> None:
    write_phantom(tmp_path / "one", PhantomConfig(subjects=1, slices=3, size=64))
    alone, together = tree(tmp_path / "one"), tree(small)
    images = [path for path in alone if path.endswith(".png")]
    assert len(images) == 3 * (2 + len(STRUCTURES))
    assert all(alone[path] == together[path] for path in images)


def test_another_seed_gives_other_heads() -> None:
    ours, other = (next(subject_volume(PhantomConfig(1, 1, 64, seed), 0)) for seed in (1, 2))
    assert np.abs(ours.mri.astype(int) - other.mri).mean() > 5


def test_the_tree_is_a_data_root_of_paired_grey_images(small: Path) -> None:
    names = {f"{subject}{number:03d}.png" for subject in (101, 102) for number in (1, 2, 3)}
    homes = ["CT", "MRI", *(f"truth/{structure}" for structure in STRUCTURES)]
    for home in homes:
        files = list((small / "CT-MRI" / home).iterdir())
        assert {file.name for file in files} == names
        for file in files:
            with Image.open(file) as image:
                assert (image.mode, image.size) == ("L", (64, 64))
                if home.startswith("truth"):
                    assert set(np.unique(np.asarray(image))) <= {0, 255}
    assert {path.name for path in small.iterdir()} == {"CT-MRI", "phantom.json"}


def test_phantom_json_tells_the_parameters_and_every_subject(small: Path) -> None:
    facts = json.loads((small / "phantom.json").read_text())
    assert (facts["seed"], facts["subjects"], facts["slices"], facts["size"]) == (3407, 2, 3, 64)
    assert facts["truth_frame"] == "CT"
    assert [person["subject"] for person in facts["people"]] == ["101", "102"]
    for person in facts["people"]:
        assert abs(person["mr_rotation"]) < 1
        assert all(abs(shift) < 1.5 for shift in person["mr_shift"])
        assert person["mri_lesion"] and person["ct_lesion"]


def test_the_recorded_misregistration_maps_mr_onto_ct() -> None:
    person = replace(draw_subject(HEADS.seed, 0), mr_rotation=10.0, mr_shift=(6.0, -4.0), mr_bias=0.0)
    signal = np.zeros((256, 256))
    signal[60:65, 170:175] = 200.0
    moved = (image_mri(signal, person, np.random.default_rng(0)) > 90).astype(float)
    down, right = np.mgrid[:256, :256]
    x, y = (moved * right).sum() / moved.sum() - 127.5, (moved * down).sum() / moved.sum() - 127.5
    cos, sin = np.cos(np.radians(10)), np.sin(np.radians(10))
    landed = (cos * x - sin * y + 127.5 + 6, sin * x + cos * y + 127.5 - 4)
    assert landed == pytest.approx((172, 62), abs=0.3)


def test_progress_counts_every_pair(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    write_phantom(tmp_path / "data", PhantomConfig(2, 1, 64), lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_both_lesions_show_in_most_slices_of_every_subject(heads: list[list[SlicePair]]) -> None:
    for volume in heads:
        for structure in ("mri_lesion", "ct_lesion"):
            assert sum(pair.truth[structure].any() for pair in volume) > len(volume) / 2
            assert len(seen(volume, structure)) >= 2


@pytest.mark.parametrize("slices", [1, 2, 5])
def test_both_lesions_are_there_however_few_the_slices(slices: int) -> None:
    for index in range(4):
        volume = list(subject_volume(PhantomConfig(slices=slices, size=64), index))
        for structure in ("mri_lesion", "ct_lesion"):
            assert any(pair.truth[structure].any() for pair in volume)


def test_a_ct_lesion_is_bright_in_ct_and_hidden_in_mr(heads: list[list[SlicePair]]) -> None:
    for pair in [pair for volume in heads for pair in seen(volume, "ct_lesion")]:
        assert contrast(pair, pair.ct, "ct_lesion") > 25, pair.name
        assert abs(contrast(pair, pair.mri, "ct_lesion")) < 35, pair.name


def test_an_mr_lesion_is_bright_in_mr_and_hidden_in_ct(heads: list[list[SlicePair]]) -> None:
    for pair in [pair for volume in heads for pair in seen(volume, "mri_lesion")]:
        assert contrast(pair, pair.mri, "mri_lesion") > 40, pair.name
        assert abs(contrast(pair, pair.ct, "mri_lesion")) < 15, pair.name


def test_lesions_lie_apart_and_outside_bone_and_ventricles(heads: list[list[SlicePair]]) -> None:
    for pair in [pair for volume in heads for pair in volume]:
        assert np.sum([pair.truth[name] for name in STRUCTURES], axis=0).max() <= 1


def test_bone_is_bright_in_ct_and_dark_in_mr(heads: list[list[SlicePair]]) -> None:
    for pair in [pair for volume in heads for pair in volume]:
        bone = pair.truth["bone"]
        assert 0.05 < bone.mean() < 0.3
        assert np.mean(pair.ct[bone] >= 250) > 0.9
        assert np.median(pair.mri[bone]) < 60


def test_ventricles_are_bright_in_mr_and_dark_in_ct(heads: list[list[SlicePair]]) -> None:
    for volume in heads:
        holding = [pair for pair in volume if (~grown(~pair.truth["ventricles"], 1)).sum() >= 12]
        assert len(holding) >= 2
        for pair in holding:
            core = ~grown(~pair.truth["ventricles"], 1)
            brain = pair.ct[(pair.ct > 20) & (pair.ct < 250)]
            assert np.median(pair.mri[core]) > 150
            assert np.median(pair.ct[core]) < np.median(brain) - 15


def test_heads_fill_the_frame_on_a_black_background(heads: list[list[SlicePair]]) -> None:
    for volume in heads:
        rows = np.flatnonzero((np.max([pair.mri for pair in volume], axis=0) > 40).sum(axis=1) > 2)
        assert 0.7 < (rows[-1] - rows[0] + 1) / HEADS.size < 1
        for pair in volume:
            corners = [image[y, x] for image in (pair.ct, pair.mri) for y in (0, -1) for x in (0, -1)]
            assert max(corners) < 12


def test_subjects_differ(heads: list[list[SlicePair]]) -> None:
    for first, second in ((0, 1), (0, 2), (1, 2)):
        for ours, other in zip(heads[first], heads[second], strict=True):
            assert np.abs(ours.mri.astype(int) - other.mri).mean() > 5
    people = [draw_subject(HEADS.seed, index) for index in range(8)]
    assert len({person.scale for person in people}) == 8
    assert {focus.kind for person in people for focus in person.ct_lesion} == {"haemorrhage", "calcification"}


@pytest.mark.parametrize(
    "bad", [{"subjects": 0}, {"slices": 100}, {"size": 100}, {"size": 32}, {"seed": -1}, {"slices": 2.5}]
)
def test_a_bad_config_is_refused_by_name(bad: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        PhantomConfig(**bad)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="not an empty folder"):
        write_phantom(tmp_path / "data", SMALL)
    assert tree(tmp_path) == {"data/mine.txt": b"keep"}


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_phantom(tmp_path / "data", PhantomConfig(1, 1, 64))
    assert (tmp_path / "data/CT-MRI/CT/101001.png").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / "data", SMALL, interrupt)
    assert list(tmp_path.iterdir()) == []
