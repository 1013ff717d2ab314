"""What each node of a training on several nodes runs: fetch the packed data, train by torchrun, hand the model over.

PET_NNODES=2 PET_NODE_RANK=0 PET_NPROC_PER_NODE=1 PET_MASTER_ADDR=... PET_MASTER_PORT=29500 \
python -m components.train.node '{"workspace": "s3://bucket/prefix", "job": "train-1", "packed": "...", "settings": {}}'

The variables are torchrun's own; Kubeflow Trainer sets them. Exit codes: 0, that of the first process that failed, 2
for what a user can mend, and 75 where SIGTERM ended the training, which then goes on from its last checkpoint.
"""

import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from components.ingest.remote import fetch_version
from components.progress import Progress
from components.train.settings import Settings
from components.train.workspace import Workspace
from model.errors import RESUMABLE, InputError


@dataclass(frozen=True)
class Work:
    """What the nodes of one job share: where it lies, the version of its packed data, the worker's other settings."""

    workspace: str
    job: str
    packed: str
    settings: dict[str, Any]

    def to_json(self) -> str:
        """As `from_json` reads it; the same work gives the same text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Work":
        """Raises InputError for anything but what `to_json` writes."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise InputError(f"no work of a training node: {error}; the train step writes it, start that") from None


def run_node(work: Work) -> int:
    """Do this node's part of the work; the exit code."""
    workspace = Workspace(work.workspace)
    with TemporaryDirectory(prefix="atlas-fusion-") as folder:
        packed, model, settings = (Path(folder) / name for name in ("packed", "model", "settings.json"))
        fetch_version(workspace.data, work.packed, packed, progress=Progress("fetch"))
        places = {"packed": str(packed), "model": str(model), "checkpoints": workspace.checkpoints(work.job)}
        settings.write_text(json.dumps(work.settings | places))
        _fetch_features(settings)
        if code := _torchrun(settings):
            return code
        _end_by_sigterm()
        # Node and process ranks agree in torchrun's static rendezvous, so process 0 has written its model here.
        if os.environ.get("PET_NODE_RANK", "0") == "0":
            workspace.put_model(work.job, model)
    return 0


def _fetch_features(settings: Path) -> None:
    """Bring the feature stack's weights to this node before its processes race for them."""
    from model.vgg import feature_stack

    read = Settings.read(settings)
    if read.training.loss.perceptual:
        feature_stack(read.perceptual)


def _torchrun(settings: Path) -> int:
    """Train by as many processes as the environment says, within this process so that their exit codes are known."""
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        launch: Any = torchrun
        launch.run(launch.parse_args(["--module", "components.train.worker", str(settings)]))
    except ChildFailedError as error:
        print(error, file=sys.stderr)
        code: int = error.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code
    except SignalException:
        return RESUMABLE
    return 0


def _end_by_sigterm() -> None:
    """The first process of a container is deaf to SIGTERM unless it says otherwise."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(RESUMABLE))


if __name__ == "__main__":
    _end_by_sigterm()
    try:
        sys.exit(run_node(Work.from_json(sys.argv[1])))
    except InputError as error:
        print(f"InputError: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
