"""The train step: torchrun with two processes, the files it leaves, and what it refuses beforehand."""

import json

import pytest
import torch
from kfp import dsl
from safetensors.torch import load_file

from components.progress import parse
from components.train.component import train as train_component
from components.train.launch import train_model
from components.train.settings import Settings
from model.errors import InputError
from model.fuser import Fuser
from model.losses import LossWeights
from model.training_config import TrainingConfig

CONFIG = TrainingConfig(epochs=2, batch=2, crop=16, learning_rate=1e-3, seed=4)


@pytest.fixture(scope="module")
def trained(packed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "model"
    train_model(Settings(CONFIG, "random", 2, packed, folder))
    return folder


def test_two_processes_leave_one_complete_model(trained):
    assert sorted(path.name for path in trained.iterdir()) == [
        "config.json",
        "curves.json",
        "training.json",
        "weights.safetensors",
    ]
    a = torch.rand(1, 1, 16, 16)
    assert Fuser.load(trained).fuse(a, a).shape == a.shape


def test_settings_and_curves_are_stored_with_the_model(trained):
    facts = json.loads((trained / "training.json").read_text())
    assert {
        key: facts[key] for key in ("epochs", "batch", "crop", "learning_rate", "seed", "processes", "perceptual")
    } == {
        "epochs": 2,
        "batch": 2,
        "crop": 16,
        "learning_rate": 1e-3,
        "seed": 4,
        "processes": 2,
        "perceptual": "random",
    }
    assert facts["dataset_version"].endswith(".dir")
    assert facts["images_per_second"] > 0
    curves = json.loads((trained / "curves.json").read_text())
    # 12 single images, 2 processes of batch 2: 3 steps an epoch.
    assert [(record["epoch"], record["step"]) for record in curves] == [(1, 3), (2, 6)]


def test_training_again_gives_the_same_weights(trained, packed, tmp_path):
    train_model(Settings(CONFIG, "random", 2, packed, tmp_path / "model"))
    again = load_file(tmp_path / "model" / "weights.safetensors")
    for name, tensor in load_file(trained / "weights.safetensors").items():
        assert torch.equal(tensor, again[name]), name


def test_the_component_shows_progress_and_leaves_the_model(packed, tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    model = dsl.Model(uri=str(tmp_path / "model"))
    train_component.python_func(
        packed=dsl.Dataset(uri=str(packed)),
        network="dilran",
        width=64,
        epochs=1,
        batch=4,
        accumulate=1,
        crop=16,
        learning_rate=1e-3,
        schedule="cosine",
        gradient_weight=0.2,
        perceptual_weight=0.0,
        perceptual="vgg16-bn",
        statistics="image",
        precision="float32",
        clip=0.0,
        ema=0.0,
        patience=0,
        device="auto",
        processes=1,
        gpus="0",
        workspace="",
        checkpoint_every=0,
        num_nodes=1,
        gpus_per_node=0,
        cpus_per_node=4,
        memory_per_node="16Gi",
        deadline_seconds=0,
        experiment="atlas-fusion",
        seed=1,
        code_version="code",
        model=model,
    )
    assert (tmp_path / "model" / "weights.safetensors").is_file()
    # A perceptual weight of 0 needs no feature stack, so none was fetched, and the model says so.
    facts = json.loads((tmp_path / "model" / "training.json").read_text())
    assert (facts["perceptual"], facts["code_version"], facts["statistics"]) == ("none", "code", "image")
    # What was kept to go on after a failure is gone with its use.
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    lines = [parse(line) for line in capfd.readouterr().out.splitlines()]
    last = [line for line in lines if line][-1]
    assert last[:3] == ("train", 3, 3)
    assert last[3].startswith("loss ")


@pytest.mark.parametrize(
    ("changes", "perceptual", "processes", "complaint"),
    [
        ({}, "random", 0, "processes is 0"),
        ({"batch": 10}, "random", 2, "lower the batch"),
        ({"crop": 128}, "random", 1, "give a smaller crop"),
        ({}, "absent.safetensors", 1, "no feature stack"),
    ],
)
def test_what_cannot_work_is_refused_before_any_process_starts(
    packed, tmp_path, monkeypatch, changes, perceptual: str, processes: int, complaint: str
):
    monkeypatch.setattr("subprocess.Popen", lambda *args, **kwargs: pytest.fail("a process was started"))
    config = TrainingConfig(**{"batch": 2, "crop": 16} | changes)
    with pytest.raises(InputError, match=complaint):
        train_model(Settings(config, perceptual, processes, packed, tmp_path / "model"))


def test_a_failure_in_a_worker_names_its_cause_and_leaves_no_model(packed, tmp_path, capfd):
    config = TrainingConfig(epochs=1, batch=2, crop=16, loss=LossWeights(gradient=1e39))
    with pytest.raises(RuntimeError, match="torchrun ended with exit code"):
        train_model(Settings(config, "random", 1, packed, tmp_path / "model"))
    assert "InputError: the " in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []
