"""The shearlet network learns from pairs of one place, the same from the same seed, and is written and read whole."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from model.baselines import shearlet_training
from model.baselines.shearlet import ShearletTransform
from model.baselines.shearlet_cnn import ShearletCnn, ShearletCnnConfig, SiameseNetwork, load_shearlet_cnn
from model.baselines.shearlet_training import (
    PATCH,
    PLACES,
    ShearletTrainingConfig,
    judge,
    natural_images,
    patch_pairs,
    train,
)
from model.errors import InputError, MissingWeights
from model.pairs import PackedPairs
from tests.scenes import scene

TRANSFORM = ShearletTransform()


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
