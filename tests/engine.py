"""A Docker engine for the tests: the image as `infra/image.sh` builds it, and the training pipeline in containers."""

import fcntl
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
IMAGE = "atlas-fusion:test"
LOCKED_DOWN = (
    *("--read-only", "--tmpfs", "/tmp", "--network", "none", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges"),
)
PLANTED = {
    name: f"{prefix}{secrets.token_hex(12)}"
    for name, prefix in (
        ("AWS_SECRET_ACCESS_KEY", ""),
        ("AWS_SESSION_TOKEN", ""),
        ("MLFLOW_TRACKING_PASSWORD", ""),
        ("MLFLOW_TRACKING_TOKEN", ""),
        ("ATLAS_FUSION_WEBHOOK", "http://127.0.0.1:9/"),
    )
}
RUN = """
import json, sys
import components.image
components.image.IMAGE = sys.argv[1]
from kfp import local
from pipelines.training import training_pipeline
local.init(local.DockerRunner(**json.loads(sys.argv[3])), pipeline_root=sys.argv[2])
training_pipeline(**json.loads(sys.argv[4]))
"""


_COLOUR = re.compile(r"\x1b\[\d+m")


@dataclass(frozen=True)
class Build:
    """What building the image said, the list of its packages, and the commit it is of."""

    said: str
    bill: Path
    revision: str


def docker(*arguments: str | Path, errors: bool = False) -> str:
    """What `docker` prints, with what it prints to standard error if asked for; AssertionError if it fails."""
    done = subprocess.run(["docker", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr if errors else done.stdout


def need_engine() -> None:
    """Skip the test where no engine answers."""
    if not shutil.which("docker") or subprocess.run(["docker", "version"], capture_output=True).returncode:
        pytest.skip("needs a Docker engine; .ci/engine.sh starts one on Debian, as root")


def built() -> Build:
    """The image of this checkout, built with secrets in the environment."""
    need_engine()
    command = [ROOT / "infra" / "image.sh", "--tag", IMAGE]
    if base := os.environ.get("FUSION_BASE"):
        command += ["--base", base]
    if network := os.environ.get("FUSION_BUILD_NETWORK"):
        command += ["--", "--network", network]
    with (ROOT / "infra" / "image.sh").open() as held:  # another test may be building it at the same time
        fcntl.flock(held, fcntl.LOCK_EX)
        done = subprocess.run(command, env=os.environ | PLANTED, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    said = done.stdout.splitlines()[-1]
    found = re.search(r"revision (\S+); (\S+) lists", said)
    assert found, said
    return Build(said, ROOT / found[2], found[1])


def unlocked(folder: Path) -> Path:
    """The folder, made if need be, in which the user of a container may write."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    return folder


@dataclass(frozen=True)
class Ended:
    """A run of the pipeline in containers: everything it printed and left, and the exit code of every container."""

    store: Path
    log: str
    exit_codes: list[str]
    tracking_uri: str

    def output(self, step: str, name: str) -> Path:
        """What a step left under that name."""
        (found,) = self.store.glob(f"atlas-fusion-training-*/{step}/{name}")
        return found


def run_pipeline(folder: Path, parameters: dict[str, Any]) -> Ended:
    """The training pipeline by KFP's Docker runner, every container locked down, its environment full of secrets.

    MLflow is a file in the folder that the containers share.
    """
    store, tracking_uri = unlocked(folder / "store"), f"sqlite:///{folder}/store/mlflow.db"
    environment = PLANTED | {
        "AWS_ACCESS_KEY_ID": "reader",
        "MLFLOW_TRACKING_URI": tracking_uri,
        "ATLAS_FUSION_IMAGE": IMAGE,
        "OMP_NUM_THREADS": "1",
    }
    runner = {
        "environment": environment,
        "user": "1000:1000",
        "network_mode": "none",
        "read_only": True,
        "tmpfs": {"/tmp": ""},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "shm_size": "1g",
    }
    begun = time.time()
    command = [sys.executable, "-c", RUN, IMAGE, str(store), json.dumps(runner), json.dumps(parameters)]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    (folder / "run.log").write_text(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]
    return Ended(store, _COLOUR.sub("", done.stdout), _exit_codes(begun), tracking_uri)


def _exit_codes(since: float) -> list[str]:
    """Those of the image's containers that ended since then; KFP takes one that vanishes for a success."""
    chosen = ["--filter", "event=die", "--filter", f"image={IMAGE}", "--format", "{{.Actor.Attributes.exitCode}}"]
    told = docker("events", "--since", f"{since:.3f}", "--until", f"{time.time():.3f}", *chosen)
    return told.split()
