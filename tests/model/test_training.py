"""The training loop repeats, learns, sees every image once an epoch, and refuses what cannot work."""

import copy
import math
from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from model.checkpoint import CheckpointFolder
from model.errors import InputError, Stopped
from model.losses import TERMS, FusionLoss, LossWeights
from model.networks import NETWORKS
from model.pairs import PackedPairs
from model.training import train
from model.training_callbacks import Callbacks, Keeping
from model.training_config import TrainingConfig
from model.vgg import feature_stack


def run(packed, keeping=None, **changes):
    """The trained network, its records, and the reports of its steps."""
    config = TrainingConfig(**{"epochs": 2, "batch": 4, "crop": 32, "learning_rate": 1e-3, "seed": 1} | changes)
    steps = []
    splits = [PackedPairs.open(packed, split) for split in ("train", "validation")]
    trained = train(config, *splits, feature_stack("random"), Callbacks(step=steps.append), keeping)
    return trained.network, trained.curves, steps


def same_weights(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class Kept:
    """Checkpoints in memory, all of them."""

    def __init__(self):
        self.all = []

    def save(self, checkpoint):
        self.all.append(copy.deepcopy(checkpoint))

    def latest(self):
        return self.all[-1] if self.all else None


def test_the_same_seed_gives_the_same_losses_and_weights(packed):
    first, second, other = run(packed), run(packed), run(packed, seed=2)
    assert first[1] == second[1]
    assert same_weights(first[0], second[0])
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
    assert (steps[-1].step, steps[-1].steps, steps[-1].epoch) == (18, 18, 6)
    assert steps[-1].losses.keys() == set(TERMS)
    for part in ("train", "validation"):
        assert set(records[0][part]) == set(TERMS)
        assert records[-1][part]["total"] < records[0][part]["total"] / 2
        terms = records[-1][part]
        assert terms["total"] == pytest.approx(
            terms["l2"] + 0.2 * terms["gradient"] + 0.2 * terms["perceptual"], rel=1e-4
        )


def test_a_loss_that_is_not_finite_stops_with_step_and_term_and_keeps_the_last_good_checkpoint(packed):
    kept = Kept()
    good, _, _ = run(packed, Keeping(kept, every=1), epochs=1)
    assert len(kept.all) == 3
    ill = copy.deepcopy(kept.all[-1])
    ill.tensors[next(name for name in ill.tensors if "decoder.2.bias" in name)].fill_(1e30)
    kept.all = [kept.all[0], ill]
    with pytest.raises(InputError, match=r"the l2 loss is no longer finite at step 4; lower the learning rate"):
        run(packed, Keeping(kept, every=1), epochs=2)
    assert kept.all == [kept.all[0], ill]
    assert all(torch.isfinite(weight).all() for weight in good.parameters())


def test_every_term_is_named_where_it_is_the_first_that_is_not_finite(packed):
    with pytest.raises(InputError, match=r"the total loss is no longer finite at step 1;"):
        run(packed, loss=LossWeights(gradient=1e39))


@settings(max_examples=8, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    stops=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    more=st.sampled_from(
        [
            {},
            {"statistics": "image", "ema": 0.9, "patience": 2},
            {"accumulate": 3, "batch": 1, "clip": 0.1},
            {"schedule": "cosine", "batch": 5},
        ]
    ),
    every=st.integers(0, 3),
)
def test_a_training_stopped_anywhere_and_resumed_ends_with_the_same_weights_and_losses(packed, stops, more, every):
    straight, curves, _ = run(packed, crop=16, epochs=3, **more)
    kept, parts = Kept(), 0
    for patience in [*stops, 10**9]:
        calls = count(1)
        try:
            resumed, records, _ = run(
                packed, Keeping(kept, every, lambda c=calls, p=patience: next(c) > p), crop=16, epochs=3, **more
            )
            break
        except Stopped:
            parts += 1
    assert parts
    assert records == curves
    assert same_weights(resumed, straight)


def test_a_training_goes_on_from_a_folder_and_may_be_given_more_epochs(packed, tmp_path):
    folder = CheckpointFolder(tmp_path / "kept", {"network": "dilran"})
    straight, curves, _ = run(packed, epochs=3, crop=16)
    run(packed, Keeping(folder), epochs=1, crop=16)
    longer, records, steps = run(packed, Keeping(folder), epochs=3, crop=16)
    assert same_weights(longer, straight)
    assert records == curves
    assert steps[0].step == 4
    with pytest.raises(InputError, match="the checkpoint is of step 9, this training ends after 3; raise epochs"):
        run(packed, Keeping(folder), epochs=1, crop=16)


@pytest.mark.parametrize("batch", [1, 2])
def test_accumulated_batches_are_one_large_batch(packed, batch: int):
    moments = []
    for choices in ({"batch": 4}, {"batch": batch, "accumulate": 4 // batch}):
        kept = Kept()
        run(packed, Keeping(kept, every=1), epochs=1, crop=16, statistics="image", **choices)
        # Adam's first moment after one step is a tenth of the gradient.
        moments.append([value for name, value in kept.all[0].tensors.items() if name.endswith("exp_avg")])
    for one, other in zip(*moments, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6 * float(one.norm()) + 1e-8)


def test_the_average_of_the_weights_is_kept_and_validated(packed):
    kept = Kept()
    plain, _, _ = run(packed, Keeping(kept, every=1), epochs=1, crop=16)
    averaged, _, _ = run(packed, epochs=1, crop=16, ema=0.15)
    name = "decoder.2.weight"
    torch.manual_seed(1)
    expected = dict(NETWORKS["dilran"]().named_parameters())[name].detach()
    for step, checkpoint in enumerate(kept.all):
        weights = next(value for key, value in checkpoint.tensors.items() if name in key and "network" in key)
        decay = min(0.15, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weights
    torch.testing.assert_close(averaged.state_dict()[name], expected)
    assert not same_weights(plain, averaged)


def test_impatience_ends_a_training_that_gets_worse_with_its_best_weights(packed):
    network, curves, _ = run(packed, epochs=40, crop=16, learning_rate=0.05, patience=2)
    losses = [record["validation"]["total"] for record in curves]
    assert len(curves) < 40
    assert losses.index(min(losses)) == len(losses) - 3
    validation = PackedPairs.open(packed, "validation")
    images = torch.cat(validation.batch(slice(None)))[..., 24:40, 24:40]
    with torch.no_grad():
        loss = FusionLoss(LossWeights(), feature_stack("random"))(network.eval()(images, "image"), images)["total"]
    assert float(loss) == pytest.approx(min(losses), rel=1e-3)


def test_the_gradients_norm_is_told_and_bounded(packed):
    norms = {}
    for clip in (1e-4, 1e6):
        kept = Kept()
        _, _, steps = run(packed, Keeping(kept, every=1), epochs=1, crop=16, clip=clip)
        # Adam's first moment after one step is a tenth of the gradient it was given.
        moments = [value for name, value in kept.all[0].tensors.items() if name.endswith("exp_avg")]
        norms[clip] = steps[0].norm, 10 * float(torch.stack([moment.norm() for moment in moments]).norm())
    assert norms[1e-4][0] == pytest.approx(norms[1e6][0], rel=1e-5)
    assert norms[1e6][1] == pytest.approx(norms[1e6][0], rel=1e-3)
    assert norms[1e-4][1] == pytest.approx(1e-4, rel=1e-2)


def test_bfloat16_computes_near_float32_and_keeps_the_weights_in_it(packed):
    _, exact, _ = run(packed, epochs=4)
    network, rounded, _ = run(packed, epochs=4, precision="bfloat16")
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    assert rounded[0]["train"]["total"] == pytest.approx(exact[0]["train"]["total"], rel=0.05)
    assert rounded != exact


def test_the_cosine_schedule_rises_and_falls():
    rate = TrainingConfig(schedule="cosine", learning_rate=1e-2).rate(200)
    rates = [rate(step) for step in range(200)]
    assert rates[0] == pytest.approx(1e-3)
    assert max(rates) == pytest.approx(1e-2, rel=0.02)
    assert rates.index(max(rates)) <= 10
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 1e-5
    assert rates[100] == pytest.approx(1e-2 * (0.5 + 0.5 * math.cos(math.pi / 2)), rel=0.02)


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
        ({"batch": 4, "accumulate": 4}, "batches of 4, 4 a step, in 1 processes; lower the batch"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"patience": -1}, "patience is -1"),
        ({"clip": -1.0}, "clip is -1.0"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"seed": -1}, "seed is -1; give a whole number from 0"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"precision": "float16"}, "choose one of auto, float32, bfloat16"),
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
