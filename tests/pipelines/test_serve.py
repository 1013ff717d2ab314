"""`fusion serve` over real HTTP: pairs in every form, 4xx for whatever is wrong, limits, and a quiet end."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from PIL import Image

from components.ingest.phantom import PhantomConfig, write_phantom
from model.fuser import Fuser
from model.network import FusionNetwork

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A model folder, and CT and MR slices of a phantom head beside it."""
    root = tmp_path_factory.mktemp("images")
    torch.manual_seed(0)
    Fuser(FusionNetwork()).save(root / "model")
    write_phantom(root / "heads", PhantomConfig(subjects=1, slices=2, size=64, seed=5))
    for modality, name in (("CT", "ct"), ("MRI", "mri")):
        for number, path in enumerate(sorted((root / "heads" / "CT-MRI" / modality).iterdir())):
            (root / f"{name}{number}.png").write_bytes(path.read_bytes())
    return root


@pytest.fixture(scope="module")
def url(images):
    """The address of a server in a process of its own, which takes a MiB at once; SIGTERM ends it without a word."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "serve", images / "model", "--max-body", "1", "--port", "0"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    yield line.split(" at ")[1].split()[0]
    process.send_signal(signal.SIGTERM)
    assert (process.communicate(timeout=60), process.returncode) == (("", ""), 0)


def text(path):
    return base64.b64encode(path.read_bytes()).decode()


def shown(encoded):
    return np.array(Image.open(io.BytesIO(base64.b64decode(encoded))))


def ask(url, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return requests.post(url, content, headers={"Content-Type": "application/json"} | headers, timeout=60)


def fused(images, number, strategy=None):
    a, b = (
        torch.from_numpy(np.array(Image.open(images / f"{name}{number}.png")) / 255).float() for name in ("ct", "mri")
    )
    return Fuser.load(images / "model", strategy).fuse(a[None, None], b[None, None])[0, 0].numpy() * 255


def test_a_pair_and_a_batch_of_files_come_back_as_files(url, images):
    one = ask(url, {"inputs": {name: text(images / f"{name}0.png") for name in ("ct", "mri")}})
    assert one.status_code == 200, one.text
    assert np.abs(shown(one.json()["predictions"]) - fused(images, 0)).max() <= 0.51
    batch = {name: [text(images / f"{name}{number}.png") for number in (0, 1)] for name in ("ct", "mri")}
    rows = [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]
    split = {"columns": list(batch), "data": [list(row.values()) for row in rows]}
    for body in ({"inputs": batch}, {"instances": rows}, {"dataframe_split": split}, {"dataframe_records": rows}):
        answer = ask(url, body | {"params": {"strategy": "maximum"}})
        assert answer.status_code == 200, answer.text
        for number, image in enumerate(answer.json()["predictions"]):
            assert np.abs(shown(image) - fused(images, number, "maximum")).max() <= 0.51


def test_nested_lists_come_back_as_lists(url, images):
    levels = {name: np.array(Image.open(images / f"{name}0.png")).tolist() for name in ("ct", "mri")}
    answer = ask(url, {"inputs": levels})
    assert answer.status_code == 200, answer.text
    assert np.abs(np.array(answer.json()["predictions"]) - fused(images, 0)).max() <= 0.51
    png = ask(url, {"inputs": levels, "params": {"encoding": "png", "output_bits": 16}}).json()["predictions"]
    assert np.abs(shown(png) / 257 - fused(images, 0)).max() <= 0.01


def test_requests_at_once_get_their_own_images(url, images):
    def pair(number):
        body = {"inputs": {name: text(images / f"{name}{number}.png") for name in ("ct", "mri")}}
        return shown(ask(url, body).json()["predictions"])

    numbers = [0, 1, 1, 0, 1, 0]
    with ThreadPoolExecutor(6) as threads:
        for number, image in zip(numbers, threads.map(pair, numbers), strict=True):
            assert np.abs(image - fused(images, number)).max() <= 0.51


def test_health_is_as_mlflow_has_it(url):
    for path in ("/ping", "/health", "/version"):
        assert requests.get(url.replace("/invocations", path), timeout=60).status_code == 200


GREY = [[0.5, 0.25]]
BAD = {
    "no JSON": (b"{", 400, "JSON"),
    "a list": ([1], 400, "JSON dictionary"),
    "no input": ({}, 400, "exactly one of the input fields"),
    "null": ({"inputs": None}, 400, "missing inputs"),
    "a missing input": ({"inputs": {"ct": GREY}}, 400, "missing inputs ['mri']"),
    "no numbers": ({"inputs": {"ct": GREY, "mri": {"a": 1}}}, 400, "mri does not hold numbers"),
    "null for an image": ({"instances": [{"ct": GREY, "mri": None}]}, 400, "mri"),
    "another size": ({"inputs": {"ct": GREY, "mri": [[0.5]]}}, 400, "ct is 2x1, mri is 1x1"),
    "another number": ({"inputs": {"ct": [GREY, GREY], "mri": [GREY]}}, 400, "ct has 2 images and mri has 1"),
    "ragged rows": ({"inputs": {"ct": [[0.5, 0.5], [0.5]], "mri": GREY}}, 400, "shape"),
    "levels": ({"inputs": {"ct": [[0, 4095]], "mri": GREY}}, 400, "input_bits"),
    "NaN": (b'{"inputs": {"ct": [[NaN]], "mri": [[0.5]]}}', 400, "not finite"),
    "no image": ({"inputs": {"ct": "aGVsbG8=", "mri": "aGVsbG8="}}, 400, "ct is not an image"),
    "no base64": ({"inputs": {"ct": "/etc/passwd!", "mri": "x"}}, 400, "not base64"),
    "unknown strategy": ({"inputs": {"ct": GREY, "mri": GREY}, "params": {"strategy": "best"}}, 400, "strategy 'best'"),
    "bits of a word": ({"inputs": {"ct": GREY, "mri": GREY}, "params": {"output_bits": "8"}}, 400, "output_bits"),
    "params of a list": ({"inputs": {"ct": GREY, "mri": GREY}, "params": [1]}, 400, "dictionary"),
    "a chat": ({"messages": []}, 400, "missing inputs"),
    "nesting without end": (b"[" * 100_000, 400, "cannot be read"),
    "deep lists": ({"inputs": {"ct": json.loads("[" * 80 + "]" * 80), "mri": GREY}}, 400, "ct"),
    "an endless number": (b'{"inputs": ' + b"9" * 5000 + b"}", 400, "cannot be read"),
    "no UTF-8": (b"\xff\xfe\xfa", 400, "JSON"),
    "too large": (b"x" * (2**20 + 1), 413, "larger than the 1048576 bytes"),
}


@pytest.mark.parametrize("case", BAD)
def test_whatever_is_wrong_is_one_line_and_no_fault_of_the_server(url, case):
    body, status, words = BAD[case]
    answer = ask(url, body)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error_code", "message"}
    message = answer.json()["message"]
    assert words in message and "\n" not in message and "Traceback" not in message and len(message) <= 500


@pytest.mark.parametrize("kind", [None, "image/png", "text/csv", "application/json; charset=latin-1"])
def test_another_content_type_is_refused(url, kind):
    answer = requests.post(url, b"ct,mri\n", headers={"Content-Type": kind}, timeout=60)
    assert answer.status_code in (400, 415) and answer.json()["message"]


def test_a_damaged_file_is_told(url, images):
    cut = base64.b64encode((images / "ct0.png").read_bytes()[:200]).decode()
    answer = ask(url, {"inputs": {"ct": cut, "mri": text(images / "mri0.png")}})
    assert (answer.status_code, "ct is a damaged image file" in answer.json()["message"]) == (400, True)


def test_a_large_body_is_refused_by_its_announced_length(url):
    address = url.split("/")[2].split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=60) as connection:
        connection.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99999999999\r\n\r\n"
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_a_large_body_is_refused_while_it_streams(url):
    address = url.split("/")[2].split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=60) as connection:
        connection.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        connection.sendall(b"100001\r\n" + b" " * 0x100001)
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")
    assert requests.get(url.replace("invocations", "ping"), timeout=60).status_code == 200


def test_what_cannot_be_served_is_one_line(folder, refused):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = refused("serve", "model", "--port", taken.getsockname()[1])
    assert "Address already in use" in said and "choose another with --port" in said
    assert "nowhere holds no model" in refused("serve", "nowhere", "--port", 0)
    assert "cannot listen at 127.0.0.1 port 99999" in refused("serve", "model", "--port", 99999)
    assert "cannot listen at no.such.host.invalid" in refused("serve", "model", "--host", "no.such.host.invalid")
    assert "--inputs is 'ct'" in refused("serve", "model", "--inputs", "ct", "--port", 0)
    assert "--max-body is 0" in refused("serve", "model", "--max-body", 0, "--port", 0)
    assert "device 'cuda:99' cannot be used" in refused("serve", "model", "--device", "cuda:99", "--port", 0)
    (folder / "model" / "weights.safetensors").write_bytes(b"\x80\x04pickle")
    assert "model holds a damaged model" in refused("serve", "model", "--port", 0)
