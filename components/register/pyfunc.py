"""The registered model as MLflow runs it: the images of two named inputs in, the fused ones out.

MLflow copies this file beside the weights and the `model` package and executes it on load, so it imports nothing else
of this program.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.pyfunc import PythonModel, PythonModelContext

from model.errors import InputError
from model.fuser import Fuser
from model.payload import Limits, fuse_batches, read_batch, write_batch

DEVICE = "ATLAS_FUSION_DEVICE"


class FusionModel(PythonModel):  # type: ignore[misc]  # MLflow gives it no types
    """Fuses the images of one modality with those of another; the inputs bear their names, such as `ct` and `mri`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights that were registered, after a look at every file that came with them.

        They go to the `device` of the model's configuration, else that of ATLAS_FUSION_DEVICE, else a GPU if there is
        one. Raises MlflowException if a file is not what was registered, or the device is not there.
        """
        config = context.model_config
        wanted = config["device"] if config["device"] != "auto" else os.environ.get(DEVICE, "auto")
        device = wanted if wanted != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        # A pair keeps every core busy and takes much memory, so requests take turns; in one thread for all that torch
        # does, since where a second one has cores of its own OpenMP lets each wait asleep, which halves the rate.
        self.worker = ThreadPoolExecutor(1)
        try:
            _check_files(Path(context.artifacts["checksums"]))
            self.fuser = self.worker.submit(Fuser.load, Path(context.artifacts["fuser"]), device=device).result()
        except InputError as error:
            raise mlflow.MlflowException.invalid_parameter_value(str(error)) from None
        self.inputs: list[str] = config["inputs"]
        self.limits = Limits(config["max_pixels"], config["max_encoded_pixels"])

    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> Any:
        """Fuse the images of both inputs: arrays to arrays, base64 of image files to base64 of PNG files.

        What an input may hold stands in `model.payload.read_batch`, what comes back in `write_batch`. `params` may
        have `strategy`, another than the registered one, `input_bits`, `output_bits` and `encoding`. Raises
        MlflowException, whose words reach a REST client too, for whatever the caller can mend.
        """
        # It is a dict of arrays: MLflow warns at every load of any type it makes no schema of, but for a plain array.
        try:
            return self.worker.submit(self._fuse, model_input, **params or {}).result()
        except InputError as error:
            raise mlflow.MlflowException.invalid_parameter_value(str(error)) from None

    def _fuse(
        self, images: Any, strategy: str = "", input_bits: int = 0, output_bits: int = 0, encoding: str = "same"
    ) -> Any:
        chosen = replace(self.fuser.config, strategy=strategy or self.fuser.strategy).strategy
        a, b = (read_batch(images[name], name, input_bits, self.limits) for name in self.inputs)
        fused = fuse_batches(a, b, lambda one, other: self.fuser.fuse_each(one, other, [chosen])[chosen])
        return write_batch(fused, a, b, encoding, output_bits)


def _check_files(checksums: Path) -> None:
    """Raise InputError unless the model's folder holds the files listed in `artifacts/checksums.sha256`, no others."""
    root = checksums.parents[1]
    listed = {}
    for line in checksums.read_text().splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    found = {path for folder in ("artifacts", "code") for path in (root / folder).rglob("*") if path.is_file()}
    names = {path.relative_to(root).as_posix() for path in found - {checksums} if "__pycache__" not in path.parts}
    for name in sorted(names | set(listed)):
        if name not in listed:
            raise InputError(f"{name} was not registered with this model; fetch the model again")
        if name not in names | {"pyfunc.py"} or not (root / name).is_file():
            raise InputError(f"{name} is missing from this model; fetch the model again")
        if hashlib.sha256((root / name).read_bytes()).hexdigest() != listed[name]:
            raise InputError(f"{name} is not the file that was registered; fetch the model again")


mlflow.models.set_model(FusionModel())
