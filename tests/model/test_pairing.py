"""Two volumes as a pair: what is shown of each, one grid for both, and only within one space."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest

from model.errors import InputError
from model.nifti import write_nifti
from model.pairing import overlap, pair_volumes
from model.volumes import Volume, Window, display_range, read_volume, shown
from tests.scans import FRAME, PIXELS, axial, head, nifti, ras, turned


def test_what_is_shown_of_ct_is_the_window_and_of_mr_what_most_of_it_holds():
    ct, mr = head(size=64, slices=2)
    volume = Volume(ct.astype(np.float32), np.eye(4))
    assert volume.is_ct and display_range(volume) == (0, 80)
    assert display_range(volume, Window.parse("600/2000")) == (-400, 1600)
    spiked = mr.astype(np.float32)
    spiked[0, 0, 0] = 1e6
    low, high = display_range(Volume(spiked, np.eye(4), "MR"))
    assert low == 0 and high == np.percentile(spiked, 99.5) < 1100
    assert shown(np.float32([-50, 0, 20, 80, 3000]), (0, 80)).tolist() == [0, 0, 0.25, 1, 1]
    flat = Volume(np.full((2, 3, 4), 7, np.float32), np.eye(4), "MR")
    assert not shown(flat.pixels, display_range(flat)).any()
    for text in ("40", "40/0", "a/b", "40/nan", "1/2/3", "40/-5"):
        with pytest.raises(InputError, match="40/80"):
            Window.parse(text)


def blob(affine: np.ndarray, shape: tuple[int, int, int], frame: str = FRAME, modality: str = "MR") -> Volume:
    """A smooth function of the place in space, sampled on a grid."""
    grid = np.stack([*np.meshgrid(*map(np.arange, shape), indexing="ij"), np.ones(shape)])
    x, y, z, _ = np.tensordot(affine, grid[[2, 1, 0, 3]], 1)
    return Volume((100 + x + 2 * y - 3 * z).astype(np.float32), affine, modality, frame)


def test_a_volume_on_another_grid_is_resampled_to_the_same_places():
    first = blob(ras(axial(8, (4, 4, 5), (-40, -40, -20))), (8, 20, 20))
    second = blob(ras(turned(axial(8, (3, 3, 3), (-60, -60, -50)), 10, 5, -20)), (40, 50, 50))
    pair = pair_volumes(first, second)
    assert "resampled" in pair.how and pair.second.affine is first.affine
    assert np.abs(pair.second.pixels - first.pixels)[2:6, 4:16, 4:16].max() < 1e-2


def test_volumes_on_one_grid_are_paired_as_they_are_and_others_only_within_one_frame():
    affine, shape = ras(axial(8)), (4, 6, 6)
    near, moved = affine.copy(), affine.copy()
    near[0, 3] += 0.005
    moved[0, 3] += 2
    first = blob(affine, shape)
    assert pair_volumes(first, blob(near, shape, "")).how == "on one grid"
    assert "name different frames" in pair_volumes(first, blob(affine, shape, "1.2.9")).how
    for frame in (FRAME, "scanner"):
        assert "resampled" in pair_volumes(first, blob(moved, shape, frame)).how
    for frame, words in (
        ("1.2.9", "different frames"),
        ("mni", "different frames"),
        ("", "second volume does not say"),
    ):
        with pytest.raises(InputError, match=words):
            pair_volumes(first, blob(moved, shape, frame))
    assert "resampled" in pair_volumes(blob(affine, shape, "scanner"), blob(moved, shape, "scanner")).how
    with pytest.raises(InputError, match="different frames"):
        pair_volumes(blob(affine, shape, "scanner"), blob(moved, shape, "mni"))


@pytest.mark.parametrize("other", [FRAME, "scanner", "aligned"])
def test_aligned_nifti_is_paired_on_one_grid_alone(tmp_path, other):
    aligned = read_volume(nifti(tmp_path / "aligned.nii", PIXELS, ras(axial(6)), code=2))
    assert aligned.frame == "aligned"
    shape, moved = PIXELS.shape, ras(axial(6))
    assert pair_volumes(aligned, blob(moved.copy(), shape, other)).how.startswith("on one grid")
    moved[0, 3] += 2
    for pair in ((aligned, blob(moved, shape, other)), (blob(moved, shape, other), aligned)):
        with pytest.raises(InputError, match="aligned space"):
            pair_volumes(*pair)
    write_nifti(tmp_path / "out.nii", replace(aligned, pixels=aligned.pixels / 4000))
    assert int(nibabel.load(tmp_path / "out.nii").header["sform_code"]) == 2


def test_overlap_is_of_the_smaller_volume():
    big, small = blob(np.eye(4), (40, 40, 40)), np.eye(4)
    for shift, share in ((0, 1.0), (35, 0.5), (50, 0.0)):
        small[0, 3] = shift
        assert overlap(big, blob(small, (10, 10, 10))) == pytest.approx(share, abs=0.1)
        assert overlap(blob(small, (10, 10, 10)), big) == pytest.approx(share, abs=0.1)
    with pytest.raises(InputError, match="share 0% of the smaller one"):
        pair_volumes(big, blob(small, (10, 10, 10)))
