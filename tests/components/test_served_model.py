"""The registered model as MLflow loads it: its inputs and parameters, and that it refuses what was not registered."""

import base64
import io
import pickle
import re
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from PIL import Image

from components.register.packaging import packaged
from model.fuser import Fuser, FuserConfig
from model.network import FusionNetwork
from model.networks import make_network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("trained") / "model"
    Fuser(FusionNetwork(), FuserConfig("sfnn")).save(folder)
    return folder


@pytest.fixture(scope="module")
def saved(folder, tmp_path_factory):
    """The folder that MLflow makes of it."""
    place = tmp_path_factory.mktemp("saved") / "model"
    with packaged(folder, ["pet", "mri"]) as parts:
        mlflow.pyfunc.save_model(str(place), **parts)
    return place


@pytest.fixture(scope="module")
def loaded(saved):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        return mlflow.pyfunc.load_model(str(saved))


@pytest.fixture
def pair():
    """Grey levels of 8 bits, height 18, width 21."""
    random = np.random.default_rng(3)
    return {name: random.integers(0, 256, (18, 21), dtype=np.uint8) for name in ("pet", "mri")}


def fuse(folder, pair, strategy=None):
    a, b = (torch.from_numpy(pair[name] / 255).float()[None, None] for name in ("pet", "mri"))
    return Fuser.load(folder, strategy).fuse(a, b)[0, 0].numpy()


def png(levels):
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode()


def test_the_signature_names_inputs_and_parameters(loaded):
    assert loaded.metadata.get_input_schema().input_names() == ["pet", "mri"]
    parameters = {param.name: param.default for param in loaded.metadata.get_params_schema()}
    assert parameters == {"strategy": "sfnn", "input_bits": 0, "output_bits": 0, "encoding": "same"}
    example = loaded.input_example
    assert set(example) == {"pet", "mri"} and Image.open(io.BytesIO(base64.b64decode(loaded.predict(example)[0])))


def test_it_fuses_arrays_of_every_type_as_the_fuser_does(folder, loaded, pair):
    expected = fuse(folder, pair)
    floats = loaded.predict({name: levels / 255 for name, levels in pair.items()})
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, expected, atol=1e-5)
    assert np.abs(loaded.predict(pair).astype(float) - expected * 255).max() <= 0.51
    deep = {name: levels.astype(np.uint16) * 257 for name, levels in pair.items()}
    assert np.abs(loaded.predict(deep).astype(float) - expected * 65535).max() <= 1
    batch = loaded.predict({name: np.stack([levels, levels]) for name, levels in pair.items()})
    assert batch.shape == (2, 18, 21)


def test_parameters_choose_strategy_bits_and_encoding(folder, loaded, pair):
    other = loaded.predict(pair, params={"strategy": "maximum", "output_bits": 32})
    np.testing.assert_allclose(other, fuse(folder, pair, "maximum"), atol=1e-5)
    encoded = loaded.predict(pair, params={"encoding": "png"})
    assert np.array_equal(np.array(Image.open(io.BytesIO(base64.b64decode(encoded)))), loaded.predict(pair))
    twelve = {name: (levels // 16).astype(np.uint16) for name, levels in pair.items()}
    assert loaded.predict(twelve, params={"input_bits": 4}).dtype == np.uint8


def test_files_of_any_size_fuse_one_by_one(loaded, pair):
    smaller = {name: levels[:7, :9] for name, levels in pair.items()}
    given = {name: np.array([png(pair[name]), png(smaller[name])], dtype=object) for name in pair}
    fused = [np.array(Image.open(io.BytesIO(base64.b64decode(image)))) for image in loaded.predict(given)]
    assert np.array_equal(fused[0], loaded.predict(pair)) and np.array_equal(fused[1], loaded.predict(smaller))


def test_colour_comes_back_in_colour(loaded, pair):
    colour = np.random.default_rng(0).integers(0, 256, (18, 21, 3), dtype=np.uint8)
    fused = loaded.predict({"pet": colour, "mri": pair["mri"]})
    assert (fused.shape, fused.dtype) == ((18, 21, 3), np.uint8) and (fused[..., 0] != fused[..., 2]).any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pet": np.zeros((4, 4))}, "pet is 4x4, mri is 21x18"),
        ({"pet": np.full((18, 21), np.nan)}, "not finite"),
        ({"pet": np.array("no image", dtype=object)}, "pet is a text, but not base64"),
        ({"pet": b"no array"}, "missing|numpy array"),
        ({"pet": np.zeros((3000, 2000), np.uint8)}, "pet has 2000x3000 pixels, and at most 4194304"),
    ],
)
def test_bad_input_is_a_bad_request(loaded, pair, change, words):
    with pytest.raises(mlflow.MlflowException, match=words) as refusal:
        loaded.predict(pair | change)
    assert refusal.value.get_http_status_code() == 400


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"strategy": "best"}, "unknown fusion strategy 'best'"),
        ({"output_bits": 7}, "output_bits is 7"),
        ({"output_bits": "eight"}, "output_bits"),
        ({"encoding": "jpeg"}, "unknown encoding"),
    ],
)
def test_bad_parameters_are_a_bad_request(loaded, pair, params, words):
    with pytest.raises(mlflow.MlflowException, match=words) as refusal:
        loaded.predict(pair, params=params)
    assert refusal.value.get_http_status_code() == 400


def test_the_device_and_the_limits_are_chosen_on_load(saved, pair, monkeypatch):
    small = mlflow.pyfunc.load_model(str(saved), model_config={"device": "cpu", "max_pixels": 100})
    with pytest.raises(mlflow.MlflowException, match="at most 100 are taken"):
        small.predict(pair)
    monkeypatch.setenv("ATLAS_FUSION_DEVICE", "cuda:99")
    with pytest.raises(mlflow.MlflowException, match="device 'cuda:99' cannot be used here"):
        mlflow.pyfunc.load_model(str(saved))
    assert mlflow.pyfunc.load_model(str(saved), model_config={"device": "cpu"}).predict(pair).shape == (18, 21)


def poison_weights(place: Path) -> None:
    (place / "artifacts" / "fuser" / "weights.safetensors").write_bytes(pickle.dumps({"weights": 1}))


def poison_and_list(place: Path) -> None:
    import hashlib

    poison_weights(place)
    weights, sums = place / "artifacts" / "fuser" / "weights.safetensors", place / "artifacts" / "checksums.sha256"
    lines = [line for line in sums.read_text().splitlines() if "safetensors" not in line]
    lines.append(f"{hashlib.sha256(weights.read_bytes()).hexdigest()}  artifacts/fuser/weights.safetensors")
    sums.write_text("\n".join(lines))


def other_architecture(place: Path) -> None:
    fuser = place / "artifacts" / "fuser"
    Fuser(make_network("msrpan"), FuserConfig("average", network="msrpan")).save(place / "other")
    shutil.copyfile(place / "other" / "weights.safetensors", fuser / "weights.safetensors")


POISONS = {
    "pickle in place of weights": (poison_weights, "weights.safetensors is not the file that was registered"),
    "pickle that is listed": (poison_and_list, "holds a damaged model"),
    "weights of another architecture": (other_architecture, "weights.safetensors is not the file that was registered"),
    "changed configuration": (
        lambda place: (place / "artifacts" / "fuser" / "config.json").write_text('{"strategy": "fer"}'),
        "config.json is not the file that was registered",
    ),
    "changed code": (
        lambda place: (place / "code" / "model" / "strategies.py").write_text("raise SystemExit"),
        "code/model/strategies.py is not the file that was registered",
    ),
    "code that was slipped in": (
        lambda place: (place / "code" / "torch.py").write_text(""),
        "code/torch.py was not registered with this model",
    ),
    "missing code": (lambda place: (place / "code" / "model" / "fast.py").unlink(), "fast.py is missing"),
}


@pytest.mark.parametrize("poison", POISONS)
def test_a_poisoned_model_is_refused_on_load(saved, tmp_path, poison):
    place = Path(shutil.copytree(saved, tmp_path / "model", ignore=shutil.ignore_patterns("__pycache__")))
    harm, words = POISONS[poison]
    harm(place)
    with pytest.raises(mlflow.MlflowException, match=words):
        mlflow.pyfunc.load_model(str(place))


def test_a_pickled_model_in_its_place_is_refused(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    place = Path(shutil.copytree(saved, tmp_path / "model", ignore=shutil.ignore_patterns("__pycache__")))
    text = (place / "MLmodel").read_text()
    (place / "MLmodel").write_text(re.sub("model_code_path: .*", "python_model: python_model.pkl", text))
    assert text != (place / "MLmodel").read_text()
    (place / "python_model.pkl").write_bytes(pickle.dumps(1))
    with pytest.raises(mlflow.MlflowException, match="pickle is disallowed"):
        mlflow.pyfunc.load_model(str(place))


def test_its_requirements_are_pinned_and_few(saved):
    pinned = dict(line.split("==") for line in (saved / "requirements.txt").read_text().split())
    assert set(pinned) == {"mlflow-skinny", "numpy", "pandas", "pillow", "safetensors", "torch"}
