"""Registration finds known motions of phantom slices, tells them, and leaves alone what it cannot better."""

import math

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from components.ingest.phantom import PhantomConfig, write_phantom
from components.preprocess import registration
from components.preprocess.registration import mutual_information, register_rigid
from model.images import read_grey_bytes

SIZE = 128
MOTIONS = [(-3.0, 4.0, -2.5), (2.0, -5.0, 3.0), (0.0, 0.0, 6.0), (5.0, 0.0, 0.0)]


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """CT and MR slices (128, 128) of two phantom heads, MR brought onto CT before, so that a known motion is all."""
    folder = tmp_path_factory.mktemp("heads") / "heads"
    write_phantom(folder, PhantomConfig(subjects=2, slices=2, size=SIZE, seed=5))
    found = []
    for path in sorted((folder / "CT-MRI" / "CT").iterdir()):
        ct, mr = (read_grey_bytes(folder / "CT-MRI" / modality / path.name) for modality in ("CT", "MRI"))
        found.append((ct, register_rigid(ct, mr)[0]))
    return found


def moved(image, angle, right, down):
    """The image turned by degrees about its centre, then shifted by pixels."""
    transform = sitk.Euler2DTransform()
    transform.SetCenter([(SIZE - 1) / 2] * 2)
    transform.SetAngle(math.radians(angle))
    transform.SetTranslation([right, down])
    source = sitk.GetImageFromArray(image.astype(np.float32))
    return np.rint(sitk.GetArrayFromImage(sitk.Resample(source, source, transform.GetInverse()))).astype(np.uint8)


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("number", [0, 3])
def test_a_known_motion_is_undone_within_a_pixel_and_a_degree(slices, number, motion):
    ct, mr = slices[number]
    result, found = register_rigid(ct, moved(mr, *motion))
    assert found.accepted and found.after > found.before
    # Done one after the other, both motions leave every corner of the brain within a pixel of where it was.
    angle, turn = math.radians(motion[0]), math.radians(found.angle)
    for x, y in ((40.0, 0.0), (0.0, 40.0), (-40.0, 0.0), (0.0, 0.0)):
        there = complex(x, y) * complex(math.cos(angle), math.sin(angle)) + complex(*motion[1:])
        back = there * complex(math.cos(turn), math.sin(turn)) + complex(found.right, found.down)
        assert abs(back - complex(x, y)) < 1
    assert abs(found.angle + motion[0]) < 1
    inner = (slice(20, -20), slice(20, -20))
    worse = np.abs(moved(mr, *motion)[inner].astype(int) - mr[inner]).mean()
    assert np.abs(result[inner].astype(int) - mr[inner]).mean() < 0.7 * worse


def test_the_same_pair_gives_the_same_bytes(slices):
    ct, mr = slices[1]
    shifted = moved(mr, 1.0, 2.0, 0.0)
    first, second = (register_rigid(ct, shifted) for _ in range(2))
    assert np.array_equal(first[0], second[0]) and first[1] == second[1]


def test_what_gains_nothing_is_left_as_it_is(slices):
    ct, mr = slices[1]
    result, found = register_rigid(ct, mr)
    assert not found.accepted and np.array_equal(result, mr)


@pytest.mark.parametrize(("bound", "value"), [("LARGEST_SHIFT", 0.02), ("LARGEST_ANGLE", 2.0)])
def test_a_motion_beyond_the_bounds_is_found_but_not_carried_out(slices, monkeypatch, bound: str, value: float):
    monkeypatch.setattr(registration, bound, value)
    ct, mr = slices[0]
    away = moved(mr, -3.0, 5.0, 0.0)
    result, found = register_rigid(ct, away)
    assert not found.accepted and np.array_equal(result, away)
    assert found.after > found.before


def test_slices_without_content_are_left_as_they_are():
    blank = np.zeros((64, 64), np.uint8)
    result, found = register_rigid(blank, blank)
    assert not found.accepted and np.array_equal(result, blank)


def test_mutual_information_is_the_entropy_of_what_is_shared():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert mutual_information(levels, levels) == pytest.approx(5)
    assert mutual_information(levels, 255 - levels) == pytest.approx(5)
    assert mutual_information(levels, np.zeros_like(levels)) == pytest.approx(0, abs=1e-9)
