"""The shearlet transform is exact, directional and moves with its image; the fusion by its network learns and loads."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from model.baselines import shearlet_training
from model.baselines.classical import average
from model.baselines.shearlet import ShearletTransform
from model.baselines.shearlet_cnn import (
    MARGIN,
    ShearletCnn,
    ShearletCnnConfig,
    SiameseNetwork,
    fuse_low,
    fuse_weight,
    load_shearlet_cnn,
)
from model.baselines.shearlet_training import (
    PATCH,
    PLACES,
    ShearletTrainingConfig,
    judge,
    natural_images,
    other_modality,
    patch_pairs,
    train,
)
from model.errors import InputError, MissingWeights
from model.metrics import measure
from model.pairs import PackedPairs

TRANSFORM = ShearletTransform()
ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "model" / "weights").glob("shearlet-cnn-*"))
SIDES = st.integers(1, 70)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def scene(seed: int, size: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    """Dead leaves as two modalities show them, (1, 1, size, size) in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    image = natural_images(3, size, generator)[2:]
    return image, other_modality(image, generator).clamp(0, 1)


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


def test_patch_pairs_show_one_place_in_both_images_and_agree():
    a, _ = scene(0, 128)
    drawn = patch_pairs(a, -2 * a, TRANSFORM, torch.Generator().manual_seed(1))
    assert drawn.shape == (sum(TRANSFORM.directions), PLACES, 2, PATCH, PATCH)
    assert torch.allclose(drawn[:, :, 1], 2 * drawn[:, :, 0], atol=1e-5)
    assert float((drawn[:, :, 0] ** 2).sum((-2, -1)).min()) > 0


def test_a_network_that_tells_all_apart_is_judged_so():
    """Patches that equal their partners and differ from place to place are the easiest case."""
    patches = torch.randn(4, PLACES, 1, PATCH, PATCH, generator=torch.Generator().manual_seed(2)).expand(
        -1, -1, 2, -1, -1
    )
    torch.manual_seed(0)
    network = SiameseNetwork()
    with torch.no_grad():
        network.scale.fill_(50.0)
        network.offset.fill_(-45.0)
    loss, accuracy = judge(network, patches)
    assert float(accuracy) > 0.95
    assert float(loss.detach()) < 0.5


@pytest.mark.parametrize("seed", [1, 2])
def test_natural_images_are_what_they_are_called(seed: int):
    generator = torch.Generator().manual_seed(seed)
    images = natural_images(6, 128, generator)
    assert torch.equal(images, natural_images(6, 128, torch.Generator().manual_seed(seed)))
    assert torch.equal(images.amin((-2, -1)), torch.zeros(6, 1))
    assert torch.equal(images.amax((-2, -1)), torch.ones(6, 1))
    power = torch.fft.rfft2(images[:, 0] - images[:, 0].mean((-2, -1), keepdim=True)).abs() ** 2
    y, x = torch.fft.fftfreq(128)[:, None], torch.fft.rfftfreq(128)[None]
    radius = (x**2 + y**2).sqrt()
    bands = [(low <= radius) & (radius < 2 * low) for low in (0.02, 0.04, 0.08, 0.16)]
    for spectrum in power:
        falls = [float(spectrum[band].mean().log2()) for band in bands]
        slope = float(np.polyfit(range(4), falls, 1)[0])
        # Power falls by about the square of the frequency in noise, by more under soft edges.
        assert -5 < slope < -1.2


@pytest.fixture(scope="module")
def packed_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed dataset of 128x128 dead leaves: 3 training pairs and 1 validation pair."""
    folder = tmp_path_factory.mktemp("packed")
    counts, seed = {"train": 3, "validation": 1, "test": 0}, 0
    for split, count in counts.items():
        pairs = np.zeros((count, 2, 128, 128), np.uint8)
        for i in range(count):
            seed += 1
            pairs[i] = (torch.cat(scene(seed, 128))[:, 0] * 255).byte().numpy()
        np.save(folder / f"{split}.npy", pairs)
    index = {
        "dataset_version": "1" * 32 + ".dir",
        "collection": "CT-MRI",
        "height": 128,
        "width": 128,
        "split": {"by": "subject", "seed": 0},
        "splits": {k: [{"name": f"{i}", "subject": k, "slice": i} for i in range(n)] for k, n in counts.items()},
    }
    (folder / "index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(autouse=True)
def _small_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shearlet_training, "NATURAL_IMAGES", 3)
    monkeypatch.setattr(shearlet_training, "RECORD_EVERY", 10)
    monkeypatch.setattr(shearlet_training, "GROUPS", 8)


def quick_training(packed: Path, **changes):
    config = ShearletTrainingConfig(**{"pretrain_steps": 10, "steps": 20, "seed": 1} | changes)
    return train(config, *(PackedPairs.open(packed, split) for split in ("train", "validation")), TRANSFORM)


def test_training_learns_and_repeats(packed_scenes):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    network, curve = quick_training(packed_scenes)
    assert torch.equal(torch.rand(3), expected), "the caller's random numbers were touched"
    assert [(entry["phase"], entry["step"]) for entry in curve] == [
        ("pretrain", 10), ("finetune", 10), ("finetune", 20),
    ]  # fmt: skip
    assert curve[-1]["loss"] < 0.85 * curve[0]["loss"]
    assert curve[-1]["accuracy"] > curve[0]["accuracy"]
    assert curve[-1]["validation"]["loss"] < curve[0]["validation"]["loss"]
    again, same = quick_training(packed_scenes)
    assert curve == same
    assert all(torch.equal(x, y) for x, y in zip(network.parameters(), again.parameters(), strict=True))
    other, _ = quick_training(packed_scenes, seed=2, pretrain_steps=0, steps=1)
    assert not torch.equal(network.layers[0].weight, other.layers[0].weight)


def test_only_the_training_split_teaches(packed_scenes):
    training = PackedPairs.open(packed_scenes, "train")
    config = ShearletTrainingConfig(pretrain_steps=0, steps=2)
    nothing = PackedPairs(training.images[:0], [], training.index)
    network, curve = train(config, training, nothing, TRANSFORM)
    assert curve[-1]["validation"] is None
    seen, _ = train(config, training, PackedPairs.open(packed_scenes, "validation"), TRANSFORM)
    # Their weights must not depend on what was only looked at.
    assert all(torch.equal(x, y) for x, y in zip(network.parameters(), seen.parameters(), strict=True))


def test_training_that_cannot_work_is_refused(packed, packed_scenes):
    with pytest.raises(InputError, match="64x64 are too small to train on; give 112x112"):
        quick_training(packed)
    for changes, complaint in (({"steps": 0}, "steps is 0"), ({"learning_rate": 1.0}, "learning rate")):
        with pytest.raises(InputError, match=complaint):
            quick_training(packed_scenes, **changes)
    validation = PackedPairs.open(packed_scenes, "validation")
    with pytest.raises(InputError, match="no training pairs"):
        train(ShearletTrainingConfig(), PackedPairs.open(packed_scenes, "test"), validation, TRANSFORM)


@pytest.fixture(scope="module")
def trained(packed_scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as the command writes it, from a few steps."""
    folder = tmp_path_factory.mktemp("model") / "shearlet-cnn"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shearlet_training, "NATURAL_IMAGES", 3)
        shearlet_training.main([str(packed_scenes), "-o", str(folder), "--pretrain-steps", "2", "--steps", "3"])
    torch.use_deterministic_algorithms(False)
    return folder


def test_the_command_writes_a_model_with_its_record(trained: Path):
    assert sorted(path.name for path in trained.iterdir()) == [
        "README.md", "config.json", "curves.json", "training.json", "weights.safetensors",
    ]  # fmt: skip
    facts = json.loads((trained / "training.json").read_text())
    assert facts["dataset_version"] == "1" * 32 + ".dir"
    assert facts["split"] == {"by": "subject", "seed": 0}
    assert (facts["seed"], facts["steps"], facts["pairs"]) == (3407, 3, {"train": 3, "validation": 1})
    assert facts["subjects"] == {"train": ["train"], "validation": ["validation"]}
    assert "--steps 3 --seed 3407" in facts["command"]
    assert facts["command"] in (trained / "README.md").read_text()
    a, b = scene(9, 40)
    network = SiameseNetwork()
    network.load_state_dict(load_file(trained / "weights.safetensors"))
    assert torch.equal(load_shearlet_cnn(trained)(a, b), ShearletCnn(network).fuse(a, b))


def test_the_command_tells_mistakes_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["shearlet_training", str(tmp_path), "-o", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(shearlet_training.__file__, run_name="__main__")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert "holds no packed dataset" in error
    assert not (tmp_path / "out").exists()


def test_missing_weights_are_told_apart_from_spoilt_ones(trained: Path, tmp_path):
    with pytest.raises(MissingWeights, match=r"config.json is missing; train one by .*shearlet_training"):
        load_shearlet_cnn(tmp_path / "absent")
    weights = load_file(trained / "weights.safetensors")
    config = json.loads((trained / "config.json").read_text())
    spoilt = {
        "cut": (lambda f: (f / "weights.safetensors").write_bytes(b"12"), "damaged"),
        "other": (lambda f: save_file({"x": torch.zeros(3)}, f / "weights.safetensors"), "another architecture"),
        "shape": (
            lambda f: save_file(weights | {"layers.0.weight": torch.zeros(8, 1, 3, 3)}, f / "weights.safetensors"),
            "another architecture",
        ),
        "no-json": (lambda f: (f / "config.json").write_text("{"), "damaged"),
        "bytes": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "damaged"),
        "foreign": (lambda f: (f / "config.json").write_text('{"network": "dilran"}'), "not the configuration"),
        "odd": (lambda f: (f / "config.json").write_text(json.dumps(config | {"directions": ["8"]})), "not the conf"),
        "none": (lambda f: (f / "config.json").write_text(json.dumps(config | {"directions": [0]})), "not the conf"),
    }
    for name, (spoil, complaint) in spoilt.items():
        folder = tmp_path / name
        folder.mkdir()
        for file in ("weights.safetensors", "config.json"):
            (folder / file).write_bytes((trained / file).read_bytes())
        spoil(folder)
        with pytest.raises(InputError, match=complaint) as caught:
            load_shearlet_cnn(folder)
        assert not isinstance(caught.value, MissingWeights)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(MissingWeights, match=r"weights.safetensors is missing"):
        load_shearlet_cnn(folder)


def test_a_saved_network_may_have_other_directions(trained: Path, tmp_path):
    (tmp_path / "weights.safetensors").write_bytes((trained / "weights.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"network": "shearlet-cnn", "directions": [4]}))
    network = SiameseNetwork()
    network.load_state_dict(load_file(trained / "weights.safetensors"))
    a, b = scene(3, 32)
    expected = ShearletCnn(network, ShearletCnnConfig(directions=(4,))).fuse(a, b)
    assert torch.equal(load_shearlet_cnn(tmp_path)(a, b), expected)


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_shipped_networks_keep_detail_that_the_average_loses(folder: Path):
    assert sum(file.stat().st_size for file in folder.iterdir()) < 500_000
    a, b = scene(5)
    fused = load_shearlet_cnn(folder)(a, b)
    assert float(measure(a, b, fused, ["qabf"])["qabf"]) > float(measure(a, b, average(a, b), ["qabf"])["qabf"])
