"""A trained model as the folder that MLflow loads anywhere: weights, code, signature, example, requirements."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.tracking import RUN_FILE

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

LIBRARIES = ("mlflow-skinny", "numpy", "pandas", "pillow", "safetensors", "torch")
INPUTS_FILE = "inputs.json"
CHECKSUMS = "checksums.sha256"
PYFUNC = Path(__file__).with_name("pyfunc.py")


@contextmanager
def packaged(
    folder: Path, inputs: Sequence[str], config: Mapping[str, Any] | None = None, code: bool = True
) -> Iterator[dict[str, Any]]:
    """The arguments of `mlflow.pyfunc.log_model` or `save_model` for a model folder; its files are gone afterwards.

    `inputs` are the names of the two inputs, such as ct and mri; `config` stands in place of the folder's own. Without
    `code` it loads only where this program is. Raises InputError if the folder holds no model.
    """
    import model
    from model.fuser import CONFIG_FILE, Fuser
    from model.payload import MOST_ENCODED_PIXELS, MOST_PIXELS

    with tempfile.TemporaryDirectory() as aside:
        root = Path(aside)
        Fuser.load(folder, fast=False)
        ours = shutil.ignore_patterns(RUN_FILE, INPUTS_FILE)
        fuser = shutil.copytree(folder, root / "artifacts" / "fuser", ignore=ours)
        if config is not None:
            (fuser / CONFIG_FILE).write_text(json.dumps(dict(config), indent=2) + "\n")
        strategy = Fuser.load(fuser, fast=False).strategy
        if code:
            # The weights that ship with the package are other models' and megabytes.
            ignored = shutil.ignore_patterns("weights", "__pycache__")
            shutil.copytree(Path(model.__file__).parent, root / "code" / "model", ignore=ignored)
        shutil.copyfile(PYFUNC, root / PYFUNC.name)
        yield {
            "python_model": str(root / PYFUNC.name),
            "artifacts": {"fuser": str(fuser), "checksums": str(_write_checksums(root))},
            "code_paths": [str(root / "code" / "model")] if code else None,
            "signature": _signature(inputs, strategy),
            "input_example": _example(inputs),
            "model_config": {
                "inputs": list(inputs),
                "device": "auto",
                "max_pixels": MOST_PIXELS,
                "max_encoded_pixels": MOST_ENCODED_PIXELS,
            },
            "pip_requirements": [f"{name}=={version(name).partition('+')[0]}" for name in LIBRARIES],
        }


def _write_checksums(root: Path) -> Path:
    """List every file below the folder as `sha256sum` does."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(root).as_posix()}" for path in files]
    written = root / "artifacts" / CHECKSUMS
    written.write_text("\n".join(lines) + "\n")
    return written


def _signature(inputs: Sequence[str], strategy: str) -> ModelSignature:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    # The one tensor that MLflow hands on as it is, whatever its type and shape: columns would lose the type of arrays.
    anything = {"type": np.dtype(object), "shape": (-1,)}
    parameters = {"strategy": strategy, "input_bits": 0, "output_bits": 0, "encoding": "same"}
    return ModelSignature(
        inputs=Schema([TensorSpec(name=name, **anything) for name in inputs]),
        outputs=Schema([TensorSpec(**anything)]),
        params=ParamSchema(
            [
                ParamSpec(k, "string" if isinstance(default, str) else "long", default)
                for k, default in parameters.items()
            ]
        ),
    )


def _example(inputs: Sequence[str]) -> dict[str, Any]:
    """Two small images as base64 of PNG files, as a REST client would send them."""
    import numpy as np
    import torch

    from model.images import Picture, encode_png

    ramp = torch.linspace(0, 1, 32).expand(1, 32, 32)
    files = [base64.b64encode(encode_png(Picture(image))).decode() for image in (ramp, ramp.mT)]
    return {name: np.array([file], dtype=object) for name, file in zip(inputs, files, strict=True)}
