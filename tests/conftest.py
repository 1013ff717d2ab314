"""What several test files share: the real atlas if it is there, small packed datasets, and a real S3 server (moto)."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no reason to fail.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real atlas, published weights and golden values; tests that need it skip without it."""
    if not (SHARED / "vectors").is_dir():
        pytest.skip("needs the folder `shared` beside the project (real atlas and golden values)")
    return SHARED


def blobs(count: int, size: int, seed: int) -> np.ndarray:
    """Smooth, non-constant uint8 images (count, 2, size, size)."""
    generator = np.random.default_rng(seed)
    coarse = generator.random((count, 2, size // 8 + 1, size // 8 + 1))
    fine = np.kron(coarse, np.ones((8, 8)))[..., :size, :size] * 200 + generator.random((count, 2, size, size)) * 55
    return fine.astype(np.uint8)


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed dataset of 64x64 images: 6 training, 2 validation and 2 test pairs of five subjects."""
    folder = tmp_path_factory.mktemp("packed")
    subjects = {"train": ["1", "2", "3"], "validation": ["4"], "test": ["5"]}
    splits = {
        split: [{"name": f"{s}{n:03d}", "subject": s, "slice": n} for s in who for n in (1, 2)]
        for split, who in subjects.items()
    }
    for number, (split, entries) in enumerate(splits.items()):
        np.save(folder / f"{split}.npy", blobs(len(entries), 64, number))
    index = {
        "dataset_version": "0" * 32 + ".dir",
        "collection": "CT-MRI",
        "modalities": ["CT", "MRI"],
        "height": 64,
        "width": 64,
        "split": {"by": "subject", "seed": 0},
        "splits": splits,
    }
    (folder / "index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="session")
def s3_server():
    """The address of a real server that speaks S3, on a free port of this machine."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def no_aws(monkeypatch, tmp_path):
    """An environment free of the machine's own AWS settings."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return monkeypatch


@pytest.fixture
def aws(s3_server, no_aws):
    """The environment of a user of that server."""
    no_aws.setenv("AWS_ENDPOINT_URL_S3", s3_server)
    no_aws.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    no_aws.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    no_aws.setenv("AWS_MAX_ATTEMPTS", "2")
    return no_aws
