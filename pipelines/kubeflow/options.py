"""What the commands that talk to Kubeflow have in common: their options, the connection, JSON for programs."""

import inspect
import json
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipelines.kubeflow.client import Kubeflow

Host = Annotated[
    str | None,
    typer.Option(
        envvar="FUSION_KFP_HOST",
        show_default=False,
        help="Address of Kubeflow Pipelines, such as http://localhost:8080.",
    ),
]
Namespace = Annotated[
    str | None,
    typer.Option(envvar="FUSION_KFP_NAMESPACE", show_default=False, help="Your namespace, where there are users."),
]
Ca = Annotated[
    Path | None,
    typer.Option(
        envvar="FUSION_KFP_CA",
        show_default=False,
        readable=False,
        help="PEM file of the CA that its certificate is from.",
    ),
]
Timeout = Annotated[float, typer.Option(envvar="FUSION_KFP_TIMEOUT", help="Seconds to wait for each answer.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
KfpExperiment = Annotated[
    str,
    typer.Option(
        "--kfp-experiment", envvar="FUSION_KFP_EXPERIMENT", help="Kubeflow's experiment; made if it is not there."
    ),
]
ServiceAccount = Annotated[
    str,
    typer.Option(
        envvar="FUSION_KFP_SERVICE_ACCOUNT",
        show_default=False,
        help="Account that the steps run as, such as pipeline-runner; default: Kubeflow's own.",
    ),
]
Pipeline = Annotated[str, typer.Option(help="Which pipeline; `fusion compile` lists them.")]
Profile = Annotated[str, typer.Option(help="Set of defaults to start from: quick or atlas.")]
Image = Annotated[
    str, typer.Option(envvar="FUSION_IMAGE", show_default=False, help="Image of the steps, as your cluster pulls it.")
]
VersionName = Annotated[str, typer.Option(show_default=False, help="Name of the version; default: the git commit.")]
AllowDirty = Annotated[
    bool, typer.Option("--allow-dirty", help="Take a checkout with changes; its version is named COMMIT-dirty-HASH.")
]
PASSES_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""The settings of a command that takes the pipeline's parameters as options, whatever they are called."""


def own_options(context: typer.Context) -> list[str]:
    """The names of the options that the command itself has."""
    return [parameter.name for parameter in context.command.params if parameter.name]


def connect(host: Host = None, namespace: Namespace = None, ca: Ca = None, timeout: Timeout = 30.0) -> "Kubeflow":
    """The cluster that the options and the environment describe; raises InputError where none answers."""
    from pipelines.kubeflow.access import Access
    from pipelines.kubeflow.client import Kubeflow

    return Kubeflow(Access.find(host, namespace, ca, timeout))


def check_access(context: typer.Context) -> None:
    """Raise InputError for a way in that leads nowhere, before seconds are spent on compiling a pipeline."""
    from pipelines.kubeflow.access import Access

    Access.find(*(context.params[name] for name in inspect.signature(connect).parameters))


Connect = Callable[[], "Kubeflow"]


def connecting(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `connect`; its argument of that name is `connect` with what they say."""
    options = inspect.signature(connect).parameters

    @wraps(command)
    def call(**given: Any) -> None:
        access = {name: given.pop(name) for name in options}
        command(**given, connect=partial(connect, **access))

    own = [each for each in inspect.signature(command).parameters.values() if each.name != "connect"]
    call.__signature__ = inspect.Signature([*own, *options.values()])  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in own}
    return call


def print_json(value: object) -> None:
    """Print a value for programs."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))
