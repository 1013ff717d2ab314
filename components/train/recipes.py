"""How the weights that ship with this project were trained, each by name: what `fusion weights train` does.

python -m components.train.recipes dilran-subject data vgg19 model/weights/dilran-subject
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from components.ingest.dataset import ingest
from components.ingest.phantom import PhantomConfig
from components.preprocess.packing import pack
from components.register.record import STATISTICS_FILE
from components.train.launch import exiting_when_stopped, forget, train_model
from components.train.settings import Settings
from components.validate.learned import write_statistics_of
from model.errors import InputError, unknown_choice
from model.losses import LossWeights
from model.training_config import TrainingConfig

_ALL = LossWeights()
_ONLY_MSE = LossWeights(gradient=0.0, perceptual=0.0)


@dataclass(frozen=True)
class Recipe:
    """One set of shipped weights: the split of the atlas it saw, and how it was trained."""

    split: str
    training: TrainingConfig


def _recipes(split: str) -> dict[str, Recipe]:
    def recipe(network: str, loss: LossWeights, epochs: int) -> Recipe:
        # Each image is normalised alone, as it will be when it is fused.
        training = TrainingConfig(
            epochs, learning_rate=1e-3, loss=loss, schedule="cosine", network=network, statistics="image"
        )
        return Recipe(split, training)

    return {
        f"dilran-{split}": recipe("dilran", _ALL, 100),
        f"dilran-mse-{split}": recipe("dilran", _ONLY_MSE, 100),
        f"msrpan-{split}": recipe("msrpan", _ONLY_MSE, 50),
        f"msdra-{split}": recipe("msdra", _ONLY_MSE, 25),
    }


RECIPES = _recipes("subject") | _recipes("paper")


def train_recipe(name: str, data: str, perceptual: str, target: Path) -> None:
    """Train the weights called `name` on the atlas in the folder `data` and write the model folder `target`.

    `perceptual` names the feature stack as in training. Raises InputError if the name is unknown, the target exists, or
    the data is not what the split needs.
    """
    if name not in RECIPES:
        raise unknown_choice("recipe", name, RECIPES)
    if target.exists():
        raise InputError(f"{target} exists; move it away, or choose another folder with --output")
    recipe = RECIPES[name]
    with TemporaryDirectory(prefix="atlas-fusion-") as scratch:
        dataset, packed = Path(scratch) / "dataset", Path(scratch) / "packed"
        ingest(data, "", PhantomConfig(), dataset)
        pack(dataset, recipe.split, 0, packed)
        # Hours of work: what ends it half-way, the same command goes on from.
        kept = str(target.with_name(target.name + ".checkpoints") / "kept")
        settings = Settings(recipe.training, perceptual, 1, packed, target, kept)
        with exiting_when_stopped():
            train_model(settings)
        forget(settings)
        write_statistics_of(target, dataset)
    write_card(target, name)


def write_card(folder: Path, name: str) -> None:
    """Write the model card `README.md` of a trained recipe from the facts in its `training.json`."""
    facts = json.loads((folder / "training.json").read_text())
    last = json.loads((folder / "curves.json").read_text())[-1]
    subjects = {split: ", ".join(who) for split, who in facts["subjects"].items()}
    crop = f"random {facts['crop']}x{facts['crop']} crops" if facts["crop"] else "whole images"
    drift = (
        f"| Statistics | means and spreads over the training images, to tell drift: `{STATISTICS_FILE}`, by "
        "`fusion weights statistics FOLDER --data DIR` |\n"
        if (folder / STATISTICS_FILE).exists()
        else ""
    )
    loss = " + ".join(f"{weight:g} {term}" for term, weight in facts["loss"].items() if weight)
    (folder / "README.md").write_text(
        f"""# {name}

Weights of the network `{facts["network"]}` for fusing a CT slice and an MR slice of the same head, as safetensors.

| | |
|---|---|
| Data | {facts["collection"]} of the Whole Brain Atlas, version `{facts["dataset_version"]}` |
| Split | by {facts["split"]["by"]}; {facts["pairs"]["train"]} pairs for training, {facts["pairs"]["validation"]} for \
validation, {facts["pairs"]["test"]} for the test |
| Subjects | training {subjects["train"]}; validation {subjects["validation"]}; test {subjects["test"]} |
| Images | single slices of both modalities, {crop}, flipped at random |
| Loss | {loss}; perceptual features: {facts["perceptual"]} |
| Training | {facts["epochs"]} epochs = {last["step"]} steps of {facts["batch"]}, Adam {facts["learning_rate"]:g}, \
{facts["schedule"]} schedule, BatchNorm by the {facts["statistics"]}, seed {facts["seed"]} |
| Last losses | training {last["train"]["total"]:.2e}, validation {last["validation"]["total"]:.2e} |
| Machine | {facts["hardware"]}, {facts["processes"]} process, {facts["seconds"]:.0f} s, \
torch {facts["libraries"]["torch"]} |
| Command | `fusion weights train {name} --data DIR --perceptual VGG19.safetensors -o FOLDER` |
{drift}
{_PAPER if facts["split"]["by"] == "paper" else _SUBJECT}

How it compares with other methods is in the project's README and `docs/`, written by `fusion table`.

**Intended use**: research on image fusion, and trying this software. **Not a medical device**: it was trained on slices
of ten subjects from one public teaching collection, never checked by readers, and must not guide care. Pairs must be
registered; other scanners, sequences and resolutions were not tried.
""".replace("\\\n", "")
    )


_PAPER = """The split is the published experiment's, drawn at random over slices: neighbours of its test slices are
among its training slices, so figures on its test pairs are too good. It is for comparison with the published table."""
_SUBJECT = "Whole subjects are held out: no slice of a test subject was seen in training or validation."


if __name__ == "__main__":
    try:
        train_recipe(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
    except InputError as error:
        os.write(sys.stderr.fileno(), f"InputError: {error}\n".encode())
        sys.exit(2)
