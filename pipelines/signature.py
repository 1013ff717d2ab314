"""A pipeline function that takes a dataclass: its fields are the pipeline's parameters, typed and described."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any


def with_parameters(kind: type[Any]) -> Callable[[Callable[[Any], None]], Callable[..., None]]:
    """Let KFP see the fields of the dataclass `kind`, each with "help" in its metadata, as a pipeline's parameters.

    The function is handed one `kind` whose fields hold KFP's channels, to be passed on to steps.
    """

    def decorate(function: Callable[[Any], None]) -> Callable[..., None]:
        def pipeline(*channels: Any) -> None:
            function(kind(*channels))

        parameter, named = inspect.Parameter.POSITIONAL_OR_KEYWORD, fields(kind)
        pipeline.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(f.name, parameter, default=f.default, annotation=f.type) for f in named]
        )
        lines = [f"    {f.name}: {f.metadata['help']}" for f in named]
        pipeline.__doc__ = "\n".join([(function.__doc__ or "").strip(), "", "Args:", *lines])
        pipeline.__name__ = function.__name__
        return pipeline

    return decorate
