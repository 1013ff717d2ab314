"""A stranger with a fresh environment: only the requirements that the model names, and the registry's address."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from PIL import Image
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from components.ingest.phantom import PhantomConfig, write_phantom
from model.fuser import Fuser
from tests.mlflow_servers import Server, free_port, until
from tests.registered import make_folders, register

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
CONSUMER = """
import sys, json, mlflow, numpy
from PIL import Image
model = mlflow.pyfunc.load_model("models:/fresh@champion")
images = {name: numpy.array(Image.open(sys.argv[1] + "/" + name + ".png")) for name in ("ct", "mri")}
Image.fromarray(model.predict(images)).save("fused.png")
print(json.dumps([sys.modules["model"].__file__, sys.path]))
"""


@pytest.fixture(scope="module")
def champion(tmp_path_factory):
    """An MLflow server with the champion `fresh`, its model folder, and a pair of images."""
    root = tmp_path_factory.mktemp("champion")
    server = Server(root)
    try:
        write_phantom(root / "heads", PhantomConfig(subjects=1, slices=1, size=64, seed=5))
        for modality, name in (("CT", "ct"), ("MRI", "mri")):
            (path,) = (root / "heads" / "CT-MRI" / modality).iterdir()
            shutil.move(path, root / f"{name}.png")
        until(server.answers)
        register(make_folders(root / "made"), server.uri, "fresh")
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def stranger(champion, tmp_path_factory):
    """Run a command in an empty folder with a virtual environment that holds the model's requirements, no more."""
    home = tmp_path_factory.mktemp("stranger")
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "MLFLOW"))
    }
    kept |= {
        "PATH": f"{home}/venv/bin:{os.environ['PATH']}",
        "PYTHONPATH": "",
        "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": champion.uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    (home / "empty").mkdir()

    def start(*command, **options):
        return subprocess.Popen(list(map(str, command)), cwd=home / "empty", env=kept, text=True, **options)

    def call(*command):
        process = start(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return process.communicate()[0], process.returncode

    (requirements,) = (champion.root / "files").rglob("requirements.txt")
    said, code = call(sys.executable, "-m", "venv", home / "venv")
    assert code == 0, said
    first = next(line for line in requirements.read_text().splitlines() if line.startswith("safetensors"))
    pip = ("python", "-m", "pip", "--disable-pip-version-check", "--timeout", "20", "--retries", "1")
    said, code = call(*pip, "download", "-q", "--no-deps", "--dest", home / "probe", first)
    if code != 0:
        pytest.skip(f"no package index to install {first} from: {said[-200:]}")
    said, code = call(*pip, "install", "-q", "-r", requirements)
    assert code == 0, said
    call.start, call.home = start, home
    return call


@pytest.fixture(scope="module")
def fused(champion):
    a, b = (
        torch.from_numpy(np.array(Image.open(champion.root / f"{name}.png")) / 255).float() for name in ("ct", "mri")
    )
    return Fuser.load(champion.root / "made" / "model").fuse(a[None, None], b[None, None])[0, 0].numpy() * 255


def test_a_stranger_loads_the_champion_and_fuses(champion, stranger, fused):
    said, code = stranger("python", "-c", CONSUMER, champion.root)
    assert code == 0, said
    package, places = json.loads(said.splitlines()[-1])
    assert not Path(package).is_relative_to(ROOT) and not any(Path(place).is_relative_to(ROOT) for place in places)
    assert np.abs(np.array(Image.open(stranger.home / "empty" / "fused.png")) - fused).max() <= 0.51
    said, code = stranger("python", "-c", "import components")
    assert code == 1 and "No module named 'components'" in said


def test_a_stranger_serves_the_champion(champion, stranger, fused):
    port = free_port()
    command = ("mlflow", "models", "serve", "-m", "models:/fresh@champion", "--env-manager", "local", "--port", port)
    process = stranger.start(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        session = requests.Session()
        session.mount("http://", HTTPAdapter(max_retries=Retry(total=600, backoff_factor=0.5, backoff_max=0.5)))
        session.get(f"http://127.0.0.1:{port}/ping", timeout=60).raise_for_status()
        files = {
            name: base64.b64encode((champion.root / f"{name}.png").read_bytes()).decode() for name in ("ct", "mri")
        }
        answer = session.post(
            f"http://127.0.0.1:{port}/invocations",
            json={"inputs": files, "params": {"encoding": "array"}},
            timeout=300,
        )
        assert answer.status_code == 200, answer.text
        assert np.abs(np.array(answer.json()["predictions"]) - fused).max() <= 0.51
        for body in (
            {"inputs": files | {"ct": "no image"}},
            {"inputs": {"ct": files["ct"]}},
            {"inputs": {"ct": 1, "mri": 2}},
        ):
            assert session.post(f"http://127.0.0.1:{port}/invocations", json=body, timeout=300).status_code == 400
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
