"""Serve a model over HTTP: MLflow's scoring server, with limits and errors in one line."""

import json
import logging
import os
import signal
import socket
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.register.packaging import INPUTS_FILE, packaged
from components.tracking import ENVIRONMENT
from model.errors import InputError
from pipelines.fuse import model_path
from pipelines.guard import App, Guard

if TYPE_CHECKING:
    from fastapi import Request
    from fastapi.responses import Response
    from mlflow.pyfunc import PyFuncModel

INPUTS = ("ct", "mri")
GRACE = 50  # seconds that requests under way get once the server is asked to stop
MEBIBYTE = 2**20


def serve(
    model: str | None,
    host: str,
    port: int,
    device: str,
    inputs: str | None,
    max_body: int,
    runs: Path,
    say: Callable[[str], object],
) -> None:
    """Serve the model that `model` names, as `fusion fuse --model` does, until SIGTERM or Ctrl-C.

    `inputs` names both of its inputs, "ct,mri" unless the registry tells. No request's body may have more than
    `max_body` MiB. `say` hears where it listens. Raises InputError if the model or the port cannot be had.
    """
    import uvicorn

    names = _names(inputs) if inputs is not None else None
    if max_body < 1:
        raise InputError(f"--max-body is {max_body}; give at least 1 MiB")
    with _listen(host, port) as listening:
        folder = model_path(model, runs)
        app = make_app(load_served(folder, names or registered_inputs(folder) or list(INPUTS), device), max_body)
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE)
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, lambda *_: None)  # uvicorn raises it again once it has ended everything
        where = f"[{host}]" if ":" in host else host
        say(f"serving {model or folder} at http://{where}:{listening.getsockname()[1]}/invocations (Ctrl-C ends it)")
        uvicorn.Server(config).run(sockets=[listening])


def make_app(served: "PyFuncModel", max_body: int) -> App:
    """MLflow's scoring server of a loaded model, with a limit of so many MiB on bodies and errors in one line."""
    from fastapi.responses import JSONResponse
    from mlflow.pyfunc import scoring_server

    app = scoring_server.init(served)

    async def unreadable(_: "Request", error: Exception) -> "Response":
        said = f"the body cannot be read ({type(error).__name__}: {str(error)[:100]}); send MLflow's JSON"
        return JSONResponse({"error_code": "BAD_REQUEST", "message": said}, 400)

    # What MLflow's parser lets through: nesting without end, numbers of thousands of digits.
    for kind in (ValueError, RecursionError):
        app.add_exception_handler(kind, unreadable)
    return Guard(app, max_body * MEBIBYTE)


def load_served(folder: Path, inputs: list[str], device: str = "auto") -> "PyFuncModel":
    """The model of a folder as MLflow would load it from the registry, but with this program's own code.

    So nothing that lies in a registry is executed. Raises InputError if the folder holds no model, or the device is
    not there.
    """
    os.environ.update(ENVIRONMENT | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"})
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as aside:
        warnings.simplefilter("ignore")
        path = str(Path(aside) / "model")
        # In a thread that ends: OpenMP would count this one's cores beside those of the thread that fuses.
        with ThreadPoolExecutor(1) as once:
            once.submit(_save, folder, inputs, path).result()
        try:
            return mlflow.pyfunc.load_model(path, model_config={"device": device})
        except mlflow.MlflowException as error:
            raise InputError(error.message) from None


def _save(folder: Path, inputs: list[str], path: str) -> None:
    import mlflow

    with packaged(folder, inputs, code=False) as parts:
        mlflow.pyfunc.save_model(path, **parts)


def registered_inputs(folder: Path) -> list[str] | None:
    """The names of the inputs of a model that was fetched from the registry; None for any other folder."""
    try:
        names: Any = json.loads((folder / INPUTS_FILE).read_text())
    except (OSError, ValueError):
        return None
    return list(map(str, names))


def _names(inputs: str) -> list[str]:
    names = [name.strip() for name in inputs.split(",")]
    if len(set(names)) != 2 or not all(names):
        raise InputError(f"--inputs is {inputs!r}; give two names such as pet,mri")
    return names


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno and error.errno > 0 else error
        raise InputError(
            f"cannot listen at {host} port {port} ({reason}); choose another with --port or --host"
        ) from None
