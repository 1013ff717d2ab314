"""The registered model as MLflow runs it: two named stacks of images in, the fused stack out.

MLflow copies this file beside the weights and the `model` package and executes it on load, so it imports nothing else
of this program.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.pyfunc import PythonModel, PythonModelContext

from model.errors import InputError
from model.fuser import Fuser, check_pair


class FusionModel(PythonModel):  # type: ignore[misc]  # MLflow gives it no types
    """Fuses the slices of one modality with those of another; the inputs bear their names, such as `ct` and `mri`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the weights that were registered."""
        self.fuser = Fuser.load(Path(context.artifacts["fuser"]))
        self.inputs: list[str] = context.model_config["inputs"]

    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """Fuse two stacks (N, H, W), float32 in [0, 1], to one of the same shape and range.

        `params["strategy"]` chooses another fusion strategy than the registered one. Raises MlflowException, whose
        words reach a REST client too, if the stacks differ in shape, leave [0, 1] or the strategy is unknown.
        """
        # It is a dict of arrays: MLflow warns at every load of any type it makes no schema of, but for a plain array.
        try:
            return self._fuse([model_input[name] for name in self.inputs], (params or {}).get("strategy"))
        except InputError as error:
            raise mlflow.MlflowException.invalid_parameter_value(str(error)) from None

    def _fuse(self, stacks: list[np.ndarray], strategy: str | None) -> np.ndarray:
        a, b = (torch.from_numpy(np.array(stack, np.float32))[:, None] for stack in stacks)
        check_pair(a, b)
        for name, stack in zip(self.inputs, (a, b), strict=True):
            if stack.min() < 0 or stack.max() > 1:
                raise InputError(f"{name} has values outside [0, 1]; divide 8-bit images by 255")
        fuser = Fuser(self.fuser.network, replace(self.fuser.config, strategy=strategy or self.fuser.strategy))
        # One pair at a time: a volume of slices at once would need gigabytes of feature maps.
        fused = [fuser.fuse(*pair) for pair in zip(a[:, None], b[:, None], strict=True)]
        return torch.cat(fused)[:, 0].numpy()


mlflow.models.set_model(FusionModel())
