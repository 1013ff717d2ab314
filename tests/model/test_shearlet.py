"""The shearlet transform is exact, directional and moves with its image; the fusion by its network keeps detail."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.baselines.classical import average
from model.baselines.shearlet import ShearletTransform
from model.baselines.shearlet_cnn import (
    MARGIN,
    ShearletCnn,
    SiameseNetwork,
    fuse_low,
    fuse_weight,
    load_shearlet_cnn,
)
from model.baselines.shearlet_training import (
    PATCH,
)
from model.errors import InputError
from model.metrics import measure
from tests.scenes import noise, scene

TRANSFORM = ShearletTransform()
ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "model" / "weights").glob("shearlet-cnn-*"))
SIDES = st.integers(1, 70)


@settings(max_examples=40)
@given(height=SIDES, width=SIDES, directions=st.lists(st.sampled_from([2, 3, 4, 8, 16]), min_size=1, max_size=5))
@example(height=256, width=256, directions=[8, 8, 4, 4])
@example(height=255, width=131, directions=[8, 4, 4])
@example(height=1, width=1, directions=[2])
def test_the_bands_of_any_size_sum_to_the_image(height: int, width: int, directions: list[int]):
    transform, image = ShearletTransform(tuple(directions)), noise(2, 1, height, width)
    low, bands = transform.forward(image)
    assert len(bands) == sum(directions)
    assert {band.shape for band in (low, *bands)} == {image.shape}
    assert torch.allclose(transform.inverse(low, bands), image, rtol=0, atol=1e-5)


@settings(max_examples=25)
@given(height=SIDES, width=SIDES)
def test_the_filters_are_a_partition_of_unity_level_by_level(height: int, width: int):
    low, *bands = TRANSFORM.responses(height, width, torch.float64)
    assert float(torch.stack([low, *bands]).min()) >= 0
    y, x = torch.fft.fftfreq(height).double()[:, None], torch.fft.rfftfreq(width).double()[None]
    kept, start = torch.ones(1, 1, dtype=torch.float64), 0
    for level, count in enumerate(TRANSFORM.directions):
        # The pyramid from its definition: circular a-trous convolution by (1 4 6 4 1) / 16 with 2^level holes.
        smooth = torch.stack(
            [sum(c * torch.cos(2 * torch.pi * f * k * 2**level) for k, c in ((0, 6), (1, 8), (2, 2))) / 16 + 0 * (x + y)
             for f in (x, y)]
        ).prod(0)  # fmt: skip
        assert torch.allclose(sum(bands[start : start + count]), kept * (1 - smooth), atol=1e-6)
        kept, start = kept * smooth, start + count
    assert torch.allclose(low, kept, atol=1e-6)


# Wave vectors (x, y) in cycles over 64 pixels, of the direction's middle: slope coordinate 4 d / D.
@pytest.mark.parametrize(
    ("direction", "wave"),
    [(0, (20, 0)), (1, (20, 10)), (2, (20, 20)), (3, (10, 20)), (4, (0, 20)), (5, (-10, 20)), (6, (-20, 20)),
     (7, (-20, 10))],
)  # fmt: skip
def test_a_grating_falls_into_the_band_of_its_direction(direction: int, wave: tuple[int, int]):
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    grating = torch.cos(2 * torch.pi * (wave[0] * x + wave[1] * y) / 64)[None, None]
    _, bands = ShearletTransform((8,)).forward(grating)
    energies = torch.stack([(band**2).sum() for band in bands])
    assert int(energies.argmax()) == direction
    assert float(energies[direction] / energies.sum()) > 0.999


def test_coarse_gratings_fall_into_coarse_levels():
    x = torch.arange(128.0).expand(1, 1, 128, 128)
    strongest = []
    for period in (3, 8, 16, 64):
        low, bands = TRANSFORM.forward(torch.cos(2 * torch.pi * x / period))
        energies = [float((band**2).sum()) for band in (*bands, low)]
        strongest.append(int(np.argmax(energies)))
    starts = [0, *np.cumsum(TRANSFORM.directions).tolist()]
    assert strongest == starts


@settings(max_examples=15)
@given(height=st.integers(2, 40), width=st.integers(2, 40), down=st.integers(-9, 9), right=st.integers(-9, 9))
def test_the_transform_is_linear_and_moves_with_its_image(height: int, width: int, down: int, right: int):
    first, second = noise(2, 1, 1, height, width, seed=1)
    moved = first.roll((down, right), (-2, -1))
    parts = [list(TRANSFORM.bands(image)) for image in (first, second, 2 * first - 3 * second, moved)]
    for a, b, mixed, shifted in zip(*parts, strict=True):
        assert torch.allclose(2 * a - 3 * b, mixed, atol=1e-5)
        assert torch.allclose(a.roll((down, right), (-2, -1)), shifted, atol=1e-5)


def test_filters_are_kept_for_each_size():
    assert TRANSFORM.responses(40, 30) is ShearletTransform().responses(40, 30)
    assert TRANSFORM.responses(40, 30) is not TRANSFORM.responses(30, 40)


@pytest.mark.parametrize("directions", [(), (1,), (8, 0)])
def test_directions_that_are_none_are_refused(directions: tuple[int, ...]):
    with pytest.raises(InputError, match="give 2 or more"):
        ShearletTransform(directions)


@pytest.fixture(scope="module")
def fuser() -> ShearletCnn:
    torch.manual_seed(0)
    return ShearletCnn(SiameseNetwork())


@settings(max_examples=8)
@given(height=st.integers(1, 24), width=st.integers(1, 24))
def test_an_image_fused_with_itself_comes_back(fuser: ShearletCnn, height: int, width: int):
    image = noise(2, 1, height, width)
    assert torch.allclose(fuser.fuse(image, image), image, rtol=0, atol=1e-5)


@settings(max_examples=8)
@given(height=st.integers(1, 24), width=st.integers(1, 24))
def test_any_size_is_fused_within_range_whatever_the_order_and_the_company(fuser, height: int, width: int):
    a, b = noise(2, 2, 1, height, width)
    fused = fuser.fuse(a, b)
    assert fused.shape == a.shape
    assert 0 <= float(fused.min()) <= float(fused.max()) <= 1
    assert torch.allclose(fused, fuser.fuse(b, a), atol=1e-5)
    assert torch.allclose(fused[1:], fuser.fuse(a[1:], b[1:]), atol=1e-6)


def test_empty_images_give_a_finite_result(fuser: ShearletCnn):
    empty = torch.zeros(1, 1, 9, 12)
    assert torch.equal(fuser.fuse(empty, empty), empty)
    assert torch.isfinite(fuser.fuse(empty, torch.ones_like(empty))).all()


def test_detail_is_taken_from_the_source_that_has_it(fuser: ShearletCnn):
    fine = 0.5 + 0.5 * (noise(1, 1, 64, 64) - 0.5)
    flat = torch.full_like(fine, 0.5)
    for fused in (fuser.fuse(fine, flat), fuser.fuse(flat, fine)):
        assert float((fused - fine).std()) < 0.1 * float((average(fine, flat) - fine).std())


def test_bad_pairs_are_refused(fuser: ShearletCnn):
    good = noise(1, 1, 8, 8)
    for other, complaint in ((noise(1, 1, 8, 9), "differ in size"), (good / 0, "not finite")):
        with pytest.raises(InputError, match=complaint):
            fuser.fuse(good, other)


def test_the_weight_follows_activity_and_similarity():
    three, one, zero = (torch.full((1, 1, 1, 1), value) for value in (3.0, 1.0, 0.0))
    assert float(fuse_weight(zero, three, one)) == 1
    assert float(fuse_weight(zero, one, three)) == 0
    assert float(fuse_weight(one, three, one)) == 0.75
    assert float(fuse_weight(one / 2, three, one)) == 0.875
    assert float(fuse_weight(one, three, three)) == float(fuse_weight(one, zero, zero)) == 0.5


def test_low_bands_are_weighed_by_their_energy():
    low = torch.stack([torch.full((1, 20, 20), 0.6), torch.full((1, 20, 20), 0.2)])
    assert torch.allclose(fuse_low(low), torch.tensor((0.36 * 0.6 + 0.04 * 0.2) / 0.4), atol=1e-6)


def test_features_scale_with_the_coefficients_and_similarity_does_not(fuser: ShearletCnn):
    a, b = noise(2, 1, 1, PATCH, PATCH) - 0.5
    network = fuser.network
    assert torch.allclose(network.features(3 * a), 3 * network.features(a), atol=1e-5)
    assert torch.allclose(network(a, b), network(5 * a, b / 7), atol=1e-4)
    assert network(a, b).shape == (1, 1, PATCH - 2 * MARGIN, PATCH - 2 * MARGIN)
    best = network.scale + network.offset
    assert float(network(a, 2 * a)) == pytest.approx(float(best), rel=1e-4)
    assert float(network(a, b)) < float(best)


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_shipped_networks_keep_detail_that_the_average_loses(folder: Path):
    assert sum(file.stat().st_size for file in folder.iterdir()) < 500_000
    a, b = scene(5)
    fused = load_shearlet_cnn(folder)(a, b)
    assert float(measure(a, b, fused, ["qabf"])["qabf"]) > float(measure(a, b, average(a, b), ["qabf"])["qabf"])
