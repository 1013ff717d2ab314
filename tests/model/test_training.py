"""The training loop repeats, learns, sees every image once an epoch, and refuses what cannot work."""

import numpy as np
import pytest
import torch

from model.errors import InputError
from model.losses import TERMS, LossWeights
from model.pairs import PackedPairs
from model.training import Singles, TrainingConfig, _batches, train
from model.vgg import feature_stack


def run(packed, **changes):
    config = TrainingConfig(**{"epochs": 2, "batch": 4, "crop": 32, "learning_rate": 1e-3, "seed": 1} | changes)
    records, steps = [], []
    network = train(
        config,
        PackedPairs.open(packed, "train"),
        PackedPairs.open(packed, "validation"),
        feature_stack("random"),
        on_step=lambda *step: steps.append(step),
        on_epoch=records.append,
    )
    return network, records, steps


def test_the_same_seed_gives_the_same_losses_and_weights(packed):
    first, second, other = run(packed), run(packed), run(packed, seed=2)
    assert first[1] == second[1]
    for a, b in zip(first[0].state_dict().values(), second[0].state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert first[1] != other[1]


def test_training_leaves_the_callers_random_numbers_alone(packed):
    splits, features = [PackedPairs.open(packed, split) for split in ("train", "validation")], feature_stack("random")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(TrainingConfig(epochs=1, crop=16), *splits, features)
    assert torch.equal(torch.rand(3), expected)


def test_the_loss_falls_and_every_term_is_told(packed):
    _, records, steps = run(packed, epochs=6)
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert records[-1]["step"] == 18 == len(steps)
    assert steps[-1][:2] == (18, 18)
    for part in ("train", "validation"):
        assert set(records[0][part]) == set(TERMS)
        assert records[-1][part]["total"] < records[0][part]["total"] / 2
        terms = records[-1][part]
        assert terms["total"] == pytest.approx(
            terms["l2"] + 0.2 * terms["gradient"] + 0.2 * terms["perceptual"], rel=1e-4
        )


@pytest.mark.parametrize("world", [1, 2, 3])
def test_an_epoch_shows_every_image_once_whatever_the_number_of_processes(packed, world: int):
    pairs = PackedPairs.open(packed, "train")
    # Each image is one grey level, so a crop tells which image it is from.
    levels = np.arange(2 * len(pairs), dtype=np.uint8)
    flat = np.broadcast_to(levels.reshape(-1, 2, 1, 1), (len(pairs), 2, 64, 64))
    singles = Singles(PackedPairs(flat, pairs.entries, pairs.index))
    config = TrainingConfig(batch=2, crop=16)
    seen = [
        round(float(image.mean()) * 255)
        for rank in range(world)
        for batch in _batches(config, singles, (16, 16), 1, rank, world)
        for image in batch
    ]
    assert sorted(seen) == levels.tolist()


def test_crops_are_the_pixels_of_their_image(packed):
    pairs = PackedPairs.open(packed, "train")
    crops = Singles(pairs).crops(torch.tensor([0, 3]), torch.tensor([[0, 0], [5, 7]]), (16, 16))
    assert np.array_equal((crops[0, 0] * 255).round().numpy(), pairs.images[0, 0, :16, :16])
    assert np.array_equal((crops[1, 0] * 255).round().numpy(), pairs.images[1, 1, 5:21, 7:23])


def test_a_loss_that_is_not_finite_stops_with_step_and_term(packed):
    with pytest.raises(InputError, match=r"the \w+ loss is no longer finite at step \d+; lower the learning rate"):
        run(packed, loss=LossWeights(gradient=1e39))


@pytest.mark.parametrize("shape", [(33, 33), (32, 47), (20, 18)])
def test_whole_images_of_any_shape_are_trained_on(packed, shape: tuple[int, int]):
    height, width = shape
    splits = [PackedPairs.open(packed, split) for split in ("train", "validation")]
    cut = [PackedPairs(pairs.images[..., :height, :width], pairs.entries, pairs.index) for pairs in splits]
    sizes = []
    features = feature_stack("random")
    features.register_forward_pre_hook(lambda module, images: sizes.append(tuple(images[0].shape[-2:])))
    train(TrainingConfig(epochs=1, crop=0), *cut, features)
    assert set(sizes) == {(height // 2 * 2, width // 2 * 2)}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"crop": 33}, "crop is 33"),
        ({"crop": 8}, "crop is 8"),
        ({"learning_rate": 0.0}, "learning rate"),
        ({"crop": 128}, "give a smaller crop"),
        ({"batch": 100}, "lower the batch"),
        ({"statistics": "stored"}, "choose one of batch, image"),
        ({"device": "gpu"}, "choose one of auto, cpu, cuda"),
    ],
)
def test_settings_that_cannot_work_are_refused(packed, changes, complaint: str):
    with pytest.raises(InputError, match=complaint):
        run(packed, **changes)


@pytest.mark.parametrize(("device", "count", "rank"), [("cuda", 0, 0), ("cuda", 1, 1), ("auto", 1, 1)])
def test_more_processes_than_gpus_are_refused(monkeypatch, device: str, count: int, rank: int):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(InputError, match=rf"{rank + 1} GPUs are needed.*{count} found; lower processes"):
        TrainingConfig(device=device).torch_device(rank)


def test_a_process_takes_a_gpu_only_where_it_may(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert TrainingConfig().torch_device(1) == torch.device("cuda", 1)
    assert TrainingConfig(device="cpu").torch_device(1) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert TrainingConfig().torch_device(1) == torch.device("cpu")


@pytest.mark.parametrize("statistics", ["batch", "image"])
def test_either_statistics_train_and_are_stored(packed, statistics: str):
    network, records, _ = run(packed, epochs=6, statistics=statistics)
    assert records[-1]["train"]["total"] < records[0]["train"]["total"] / 2
    assert not torch.equal(network.encoder.norm.running_mean, torch.zeros(64))


def test_a_damaged_packed_dataset_is_refused(packed, tmp_path):
    with pytest.raises(InputError, match="no packed dataset"):
        PackedPairs.open(tmp_path, "train")
    with pytest.raises(InputError, match="no split 'tets'"):
        PackedPairs.open(packed, "tets")
    (tmp_path / "index.json").write_bytes((packed / "index.json").read_bytes())
    np.save(tmp_path / "train.npy", np.zeros((3, 2, 64, 64), np.uint8))
    with pytest.raises(InputError, match="its index says"):
        PackedPairs.open(tmp_path, "train")
    (tmp_path / "train.npy").write_bytes((packed / "train.npy").read_bytes()[:500])
    with pytest.raises(InputError, match=r"train\.npy has 500 bytes, not"):
        PackedPairs.open(tmp_path, "train")
