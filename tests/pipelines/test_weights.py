"""`fusion weights convert`: the published weights become a model, whole or not at all, and nothing else is lost."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from model.fuser import Fuser
from model.network import FusionNetwork
from model.published import PUBLISHED


@pytest.fixture
def published(tmp_path):
    """A network's tensors in a file under the published names."""
    torch.manual_seed(0)
    names = {ours: theirs for theirs, ours in PUBLISHED.items()}
    parts = ((name.rpartition("."), tensor) for name, tensor in FusionNetwork().state_dict().items())
    path = tmp_path / "last.safetensors"
    save_file({f"{names[module]}.{leaf}": tensor for (module, _, leaf), tensor in parts}, path)
    return path


def test_the_published_weights_become_a_model_that_fuses_as_published(published, tmp_path, fusion):
    done = fusion("weights", "convert", published, "-o", "my model")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "wrote my model; use it with `fusion fuse A B -o OUT --model 'my model'`\n"
    made = tmp_path / "my model"
    assert {path.name for path in made.iterdir()} == {"config.json", "weights.safetensors"}
    assert json.loads((made / "config.json").read_text()) == {
        "strategy": "sfnn",
        "batchnorm": "image",
        "network": "dilran",
    }
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "file").touch()
    assert made.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (made / "weights.safetensors").stat().st_mode == (tmp_path / "plain" / "file").stat().st_mode
    assert fusion("weights", "convert", published, "-o", "one.safetensors").returncode == 0
    assert load_file(tmp_path / "one.safetensors").keys() == Fuser.load(made).network.state_dict().keys()


def test_a_model_folder_a_lone_file_and_the_published_file_fuse_alike(published, folder, fusion):
    assert fusion("weights", "convert", published, "-o", "made").returncode == 0
    assert fusion("weights", "convert", published, "-o", "one.safetensors").returncode == 0
    (folder / "made" / "weights.safetensors").rename(folder / "made" / "renamed.safetensors")
    for number, model in enumerate((published, "one.safetensors", "made/renamed.safetensors")):
        done = fusion("fuse", "ct.png", "mr.png", "-o", f"{number}.png", "--model", model)
        assert done.returncode == 0, done.stderr
    assert (
        fusion("fuse", "ct.png", "mr.png", "-o", "fer.png", "--model", published, "--strategy", "fer").returncode == 0
    )
    images = [(folder / f"{name}.png").read_bytes() for name in (0, 1, 2, "fer")]
    assert images[0] == images[1] == images[2] != images[3]


def test_a_weights_file_in_a_model_folder_brings_its_configuration(folder, fusion):
    (folder / "model" / "config.json").write_text(json.dumps({"strategy": "fer"}))
    for out, model in (("a.png", "model"), ("b.png", "model/weights.safetensors")):
        assert fusion("fuse", "ct.png", "mr.png", "-o", out, "--model", model).returncode == 0
    assert (folder / "a.png").read_bytes() == (folder / "b.png").read_bytes()


def test_only_force_replaces_and_only_a_model(published, tmp_path, fusion, refused):
    Fuser(FusionNetwork()).save(tmp_path / "model")
    Fuser(FusionNetwork()).save(tmp_path / "card")
    (tmp_path / "card" / "README.md").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "x.safetensors").write_text("mine")
    (tmp_path / "empty").mkdir()
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    for output, *force, words in (
        ("model", "model holds a model; choose another folder, or replace it with --force"),
        ("card", "--force", "card holds more than a model: README.md"),
        ("other", "--force", "other holds more than a model: notes.txt"),
        ("file", "--force", "file is a file"),
        ("x.safetensors", "x.safetensors exists"),
        (published.name, "--force", "is the published file itself"),
        ("absent/model", "cannot write absent/model: No such file"),
        ("absent/x.safetensors", "cannot write absent/x.safetensors: No such file"),
        ("file/model", "cannot write file/model: Not a directory"),
        ("n" * 300, "File name too long"),
        ("n" * 300 + ".safetensors", "File name too long"),
        ("/proc/model", "cannot write /proc/model"),
    ):
        assert words in refused("weights", "convert", published.name, "-o", output, *force)
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before
    for output in ("empty", "model", "x.safetensors"):
        assert fusion("weights", "convert", published.name, "-o", output, "--force").returncode == 0
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"config.json", "weights.safetensors"}
    assert (tmp_path / "model" / "weights.safetensors").read_bytes() == (
        tmp_path / "empty" / "weights.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_leaves_what_was_there(published, tmp_path, refused, monkeypatch, there: bool):
    if there:
        Fuser(FusionNetwork()).save(tmp_path / "model")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    save = Fuser.save

    def full(fuser, folder):
        save(fuser, folder)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Fuser, "save", full)
    assert "No space left" in refused("weights", "convert", published.name, "-o", "model", "--force")
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_what_holds_no_published_weights_is_refused(folder, refused):
    (folder / "cut.safetensors").write_bytes(b"\x10" + bytes(100))
    Image.new("L", (4, 4)).save(folder / "image.png")
    torch.save({"a": torch.zeros(2)}, folder / "last.pt")
    before = sorted(folder.rglob("*"))
    for given, words in (
        ("absent", "no such weights file: absent"),
        ("model", "model is a folder"),
        ("cut.safetensors", "truncated or no safetensors file"),
        ("image.png", "truncated or no safetensors file"),
        ("last.pt", "last.pt is a PyTorch pickle"),
        ("model/weights.safetensors", "--model takes it as it is"),
    ):
        assert words in refused("weights", "convert", given, "-o", "made")
    assert sorted(folder.rglob("*")) == before
