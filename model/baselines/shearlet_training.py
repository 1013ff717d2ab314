"""Train the Siamese network of the shearlet fusion: on natural-like images first, then on the training pairs.

    python -m model.baselines.shearlet_training PACKED -o FOLDER [--pretrain-steps 300] [--steps 500] [--seed 3407]

Both phases draw patch pairs in the same way. Two images of one scene, CT and MRI or a natural-like image and the same
after a random tone curve with noise, are transformed; in each band, places are drawn where both have energy. A positive
pair is what the two images show at one place, the second patch negated if that makes it agree with the first: where
the modalities differ in contrast, structure is shared up to its sign. There are two kinds of negatives: the first patch
with the second image's patch of another place of the band, negated by the same rule; and the positive pair with its
second patch negated once more, since to average such coefficients would cancel them. The loss is the logistic one on
the logit of the similarity, the negatives of both kinds together weighing as much as the positives.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.baselines.shearlet import ShearletTransform
from model.baselines.shearlet_cnn import LAYERS, MARGIN, ShearletCnnConfig, SiameseNetwork, save_shearlet_cnn
from model.errors import InputError
from model.pairs import PackedPairs

PATCH = 2 * MARGIN + 1
PLACES = 8
"""Patch pairs drawn from each band of each pair of images; the negatives of a patch are among them."""
SPACING = 7
"""Places of one band are this many samples apart at least, so that the windows of the similarity do not overlap."""
GROUPS = 32
"""Bands in a batch, which has GROUPS * PLACES positives."""
NATURAL_IMAGES = 64
NATURAL_SIZE = 160
RECORD_EVERY = 50
_MODULE = "model.baselines.shearlet_training"

ProgressCallback = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class ShearletTrainingConfig:
    """How to train: steps of Adam in both phases, its learning rate, and the seed of everything drawn."""

    pretrain_steps: int = 300
    steps: int = 500
    learning_rate: float = 2e-3
    seed: int = 3407

    def __post_init__(self) -> None:
        for name, value, least in (("pretrain steps", self.pretrain_steps, 0), ("steps", self.steps, 1)):
            if value < least:
                raise InputError(f"{name} is {value}; give at least {least}")
        if not 0 < self.learning_rate < 1:
            raise InputError(f"learning rate is {self.learning_rate}; give a number between 0 and 1")


def natural_images(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Natural-like images (count, 1, size, size) in [0, 1]: in turn 1/f noise, straight edges and dead leaves.

    Source: Lee, Mumford, Huang, "Occlusion models for natural images", International Journal of Computer Vision 41,
    2001, for the dead leaves, whose radii are distributed by the inverse cube.
    """
    kinds = (_pink_noise, _edges, _dead_leaves)
    images = torch.stack([kinds[i % len(kinds)](size, generator) for i in range(count)])[:, None]
    low, high = images.amin((-2, -1), keepdim=True), images.amax((-2, -1), keepdim=True)
    return (images - low) / (high - low)


def _pink_noise(size: int, generator: torch.Generator) -> Tensor:
    spectrum = torch.fft.rfft2(torch.randn(size, size, generator=generator))
    y, x = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
    noise: Tensor = torch.fft.irfft2(spectrum / (x**2 + y**2).sqrt().clamp(min=1 / size), s=(size, size))
    return noise


def _edges(size: int, generator: torch.Generator) -> Tensor:
    image, (y, x) = torch.zeros(size, size), _grid(size)
    for _ in range(8):
        angle, place, step, softness = torch.rand(4, generator=generator).tolist()
        direction = torch.tensor(torch.pi * angle)
        across = x * direction.cos() + y * direction.sin() - (place - 0.5) * size
        image += (2 * step - 1) * torch.sigmoid(across / (0.1 + 2 * softness))
    return image


def _dead_leaves(size: int, generator: torch.Generator) -> Tensor:
    image, (y, x) = torch.zeros(size, size), _grid(size)
    smallest, largest = 3.0, size / 3
    for _ in range(400):
        across, down, radius, grey = torch.rand(4, generator=generator).tolist()
        # The inverse of the distribution of radii whose density falls with the cube between the two limits.
        r2 = 1 / (smallest**-2 + radius * (largest**-2 - smallest**-2))
        image[(x - (across - 0.5) * size) ** 2 + (y - (down - 0.5) * size) ** 2 <= r2] = grey
    return image


def _grid(size: int) -> tuple[Tensor, Tensor]:
    """Row and column coordinates around the image's middle."""
    centred = torch.arange(size) - (size - 1) / 2
    return centred[:, None].expand(size, size), centred[None].expand(size, size)


def other_modality(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (N, 1, H, W) in [0, 1] as another modality might show them: a random tone curve each, and noise."""
    knots = torch.rand(len(images), 6, generator=generator)
    position = images.flatten(1).clamp(0, 1) * (knots.shape[1] - 1)
    below = position.floor().clamp(max=knots.shape[1] - 2)
    share, index = position - below, below.long()
    toned = knots.gather(1, index) * (1 - share) + knots.gather(1, index + 1) * share
    return toned.view_as(images) + 0.02 * torch.randn(images.shape, generator=generator)


def patch_pairs(a: Tensor, b: Tensor, transform: ShearletTransform, generator: torch.Generator) -> Tensor:
    """Aligned patch pairs of one pair of images (1, 1, H, W): (bands, PLACES, 2, PATCH, PATCH).

    Each patch takes every 2^level-th coefficient, as fusion does. Raises InputError if the images are too small for
    PLACES patches on every level.
    """
    _, *bands = transform.bands(torch.cat([a, b]))
    drawn = []
    for level, band in zip(transform.levels, bands, strict=True):
        step = 2**level
        offset = torch.randint(0, step, (2,), generator=generator).tolist()
        every = band[:, 0, offset[0] :: step, offset[1] :: step]
        if min(every.shape[-2:]) < PATCH + 2 * SPACING:
            least = (PATCH + 2 * SPACING + 1) * step
            raise InputError(f"images of {_size(a)} are too small to train on; give {least}x{least} or larger")
        patches = every.unfold(1, PATCH, SPACING).unfold(2, PATCH, SPACING).flatten(1, 2)
        energy = (patches**2).mean((-2, -1))
        # Some of any place, so that empty images have places too.
        chances = (energy[0] * energy[1]).sqrt() + 1e-9
        places = torch.multinomial(chances, PLACES, generator=generator)
        first, second = patches[:, places]
        drawn.append(torch.stack([first, second * _agreement(first, second)], dim=1))
    return torch.stack(drawn)


def _agreement(first: Tensor, second: Tensor) -> Tensor:
    """The sign (n, 1, 1), 1 or -1, with which patches (n, PATCH, PATCH) correlate in the similarity's window."""
    inside = slice(LAYERS, -LAYERS)
    product = (first * second)[:, inside, inside].sum((-2, -1), keepdim=True)
    return torch.where(product < 0, -1.0, 1.0)


def _size(image: Tensor) -> str:
    return "x".join(str(side) for side in reversed(image.shape[-2:]))


def judge(network: SiameseNetwork, patches: Tensor) -> tuple[Tensor, Tensor]:
    """The logistic loss and the accuracy on patch pairs (groups, PLACES, 2, PATCH, PATCH) and the negatives of them."""
    first, second = patches[:, :, 0], patches[:, :, 1]
    elsewhere = second.roll(1, dims=1)
    flat = [p.reshape(-1, 1, PATCH, PATCH) for p in (first, second, elsewhere)]
    flat[2] = flat[2] * _agreement(flat[0][:, 0], flat[2][:, 0])[:, None]
    ours, theirs, other, opposite = (network.features(p) for p in (*flat, -flat[1]))
    positive = network.logit(ours, theirs)
    negative = torch.stack([network.logit(ours, other), network.logit(ours, opposite)])
    loss = (F.softplus(-positive).mean() + F.softplus(negative).mean()) / 2
    return loss, ((positive > 0).float().mean() + (negative < 0).float().mean()) / 2


def train(
    config: ShearletTrainingConfig,
    training: PackedPairs,
    validation: PackedPairs,
    transform: ShearletTransform,
    on_progress: ProgressCallback = lambda phase, done, total, note: None,
) -> tuple[SiameseNetwork, list[dict[str, Any]]]:
    """Train a network and return it with its curve; the same configuration and data give the same on one machine.

    The curve has {"phase", "step", "loss", "accuracy"} every 50 steps, means since the last entry, and in a phase's
    last entry "validation", {"loss", "accuracy"} on patches of the validation split, or None if that is empty.
    Accuracy is the share of positives and negatives judged rightly, in the mean. Raises InputError if there are no
    training pairs or their images are too small.
    """
    if not len(training):
        raise InputError("the packed dataset has no training pairs; pack one that has")
    generator = torch.Generator().manual_seed(config.seed)
    natural = natural_images(NATURAL_IMAGES, NATURAL_SIZE, generator)
    phases = (
        ("pretrain", config.pretrain_steps, list(zip(natural, other_modality(natural, generator), strict=True))),
        ("finetune", config.steps, _singles(training)),
    )

    def patches(name: str, images: Sequence[tuple[Tensor, Tensor]], generator: torch.Generator) -> Tensor:
        drawn = []
        for i, (a, b) in enumerate(images, 1):
            drawn.append(patch_pairs(a[None], b[None], transform, generator))
            on_progress(f"{name}-patches", i, len(images), "")
        return torch.cat(drawn)

    # Drawn with random numbers of their own, so that the validation split leaves no trace in the weights.
    apart = torch.Generator().manual_seed(config.seed)
    held_out = patches("validation", _singles(validation), apart) if len(validation) else None
    curve: list[dict[str, Any]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = SiameseNetwork()
        for phase, steps, images in phases:
            if not steps:
                continue
            drawn = patches(phase, images, generator)
            for entry in _optimise(network, drawn, steps, config.learning_rate, generator):
                curve.append({"phase": phase, **entry})
                on_progress(phase, entry["step"], steps, f"loss {entry['loss']:.4f}")
            curve[-1]["validation"] = None if held_out is None else _validate(network, held_out)
    return network, curve


def _singles(pairs: PackedPairs) -> list[tuple[Tensor, Tensor]]:
    """The pairs one by one, each image (1, H, W)."""
    return list(zip(*pairs.batch(slice(None)), strict=True))


def _optimise(
    network: SiameseNetwork, patches: Tensor, steps: int, learning_rate: float, generator: torch.Generator
) -> Iterator[dict[str, Any]]:
    """Take `steps` steps of Adam, its rate falling evenly to zero; yields the mean scores every RECORD_EVERY steps."""
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    sums, since = torch.zeros(2), 0
    for step in range(1, steps + 1):
        chosen = torch.randint(0, len(patches), (GROUPS,), generator=generator)
        loss, accuracy = judge(network, patches[chosen])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        sums, since = sums + torch.stack([loss.detach(), accuracy]), since + 1
        if step % RECORD_EVERY == 0 or step == steps:
            mean_loss, mean_accuracy = (sums / since).tolist()
            yield {"step": step, "loss": mean_loss, "accuracy": mean_accuracy}
            sums, since = torch.zeros(2), 0


@torch.no_grad()
def _validate(network: SiameseNetwork, patches: Tensor) -> dict[str, float]:
    sums = torch.zeros(2)
    for start in range(0, len(patches), GROUPS):
        part = patches[start : start + GROUPS]
        sums += torch.stack(judge(network, part)) * len(part)
    loss, accuracy = (sums / len(patches)).tolist()
    return {"loss": loss, "accuracy": accuracy}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train by command-line arguments and write the model folder with its configuration, record, curve and card."""
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description="Train the shearlet network.")
    defaults = ShearletTrainingConfig()
    parser.add_argument("packed", type=Path, help="folder of packed pairs, as the preprocess step writes it")
    parser.add_argument("-o", "--output", type=Path, required=True, help="model folder to write")
    parser.add_argument("--pretrain-steps", type=int, default=defaults.pretrain_steps, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=defaults.steps, help="of fine-tuning; default: %(default)s")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="default: %(default)s")
    given = parser.parse_args(arguments)
    config = ShearletTrainingConfig(given.pretrain_steps, given.steps, seed=given.seed)
    training, validation = (PackedPairs.open(given.packed, split) for split in ("train", "validation"))
    torch.use_deterministic_algorithms(True)
    start, saved = time.monotonic(), ShearletCnnConfig()
    network, curve = train(config, training, validation, saved.transform, _print_progress)
    save_shearlet_cnn(network, saved, given.output)
    facts = asdict(config) | {
        "command": (
            f"python -m {_MODULE} PACKED -o FOLDER"
            f" --pretrain-steps {config.pretrain_steps} --steps {config.steps} --seed {config.seed}"
        ),
        "pairs": {"train": len(training), "validation": len(validation)},
        "subjects": {"train": sorted(training.subjects), "validation": sorted(validation.subjects)},
        "result": {key: value for key, value in curve[-1].items() if key not in ("phase", "step")},
        "split": training.index["split"],
        "dataset_version": training.index["dataset_version"],
        "collection": training.index["collection"],
        "seconds": round(time.monotonic() - start, 1),
        "libraries": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }
    (given.output / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    (given.output / "curves.json").write_text(json.dumps(curve, indent=1) + "\n")
    (given.output / "README.md").write_text(_card(facts))
    print(f"wrote {given.output}")


def _print_progress(phase: str, done: int, total: int, note: str) -> None:
    print(f"progress {phase} {done}/{total} {note}".rstrip(), flush=True)


def _card(facts: dict[str, Any]) -> str:
    """The model card: what the network is, what it learnt from, and what it must not be taken for."""
    validation = facts["result"]["validation"]
    held_out = f", {validation['accuracy']:.3f} on the validation split" if validation else ""
    return f"""# Shearlet CNN, {facts["collection"]}, split by {facts["split"]["by"]}

The Siamese network of the fusion in the shearlet domain after Hermessi, Mourali, Zagrouba (Neural Comput. Appl.
30:2029, 2018), a baseline. No code of the paper is public: `model/baselines/shearlet_cnn.py` tells what is inferred,
and the figures of this reconstruction are not the paper's. It is for research, not for diagnosis.

- Pre-trained on {NATURAL_IMAGES} synthetic natural-like images (1/f noise, edges, dead leaves),
  {facts["pretrain_steps"]} steps.
- Fine-tuned on {facts["pairs"]["train"]} training pairs of dataset `{facts["dataset_version"]}`,
  {facts["steps"]} steps.
- Patch pairs judged rightly: {facts["result"]["accuracy"]:.3f} in the last training steps{held_out}; chance is 0.5.

Made by `{facts["command"]}`
"""


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
