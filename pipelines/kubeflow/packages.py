"""A compiled pipeline as Kubeflow takes it, made from this checkout: its version's name, its parameters, its digest."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from components.code import code_version, git_commit
from components.image import IMAGE
from model.errors import InputError
from pipelines.compile import compile_pipeline

KINDS = {
    "NUMBER_INTEGER": "a whole number",
    "NUMBER_DOUBLE": "a number",
    "BOOLEAN": "true or false",
    "STRING": "text",
    "LIST": "a JSON list",
    "STRUCT": "a JSON object",
}
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_SHORT = 12  # signs of a commit, as many as git shows of a large repository
_VERSION = re.compile(r"[\w.-]{1,100}", re.ASCII)
# What the program fills in itself.
OWN_PARAMETERS = ("git_commit", "code_version")


@dataclass(frozen=True)
class Package:
    """One pipeline, compiled; `inputs` are its parameters as the compiler wrote them."""

    path: Path
    name: str
    description: str
    version: str
    digest: str
    image: str
    inputs: Mapping[str, Mapping[str, Any]]

    @property
    def commit(self) -> str:
        """The commit that it was compiled from, with "-dirty" if the checkout had changes."""
        return str(self.inputs["git_commit"]["defaultValue"])

    @property
    def note(self) -> str:
        """The version's description, which tells its content from another's of the same name."""
        return f"image {self.image}; sha256 {self.digest}"


@contextmanager
def packaged(pipeline: str, image: str, version: str, allow_dirty: bool) -> Iterator[Package]:
    """Compile a pipeline of `PIPELINES` with this checkout's commit and code version as its defaults.

    So a run that is started in the UI, or by a schedule, has the right ones too. Raises InputError for a pipeline that
    is not known and, unless allowed, for a checkout with changes that no commit holds.
    """
    if version and not _VERSION.fullmatch(version):
        raise InputError(f"--version-name is {version!r}; give at most 100 letters, digits, dots and dashes")
    commit = git_commit()
    if not allow_dirty:
        check_clean(commit)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{pipeline}.yaml"
        compile_pipeline(path, pipeline, image)
        yield _finish(path, image or IMAGE, version, {"git_commit": commit, "code_version": code_version()})


def _finish(path: Path, image: str, version: str, defaults: Mapping[str, str]) -> Package:
    """Write the defaults into the compiled file, and tell what it is."""
    import yaml

    # libyaml, where it is there, is much the faster one.
    loader, dumper = getattr(yaml, "CSafeLoader", yaml.SafeLoader), getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    documents = list(yaml.load_all(path.read_text(encoding="utf-8"), loader))
    root = documents[0]["root"]["inputDefinitions"]["parameters"]
    for name, value in defaults.items():
        if name in root:
            root[name]["defaultValue"] = value
    path.write_text(yaml.dump_all(documents, Dumper=dumper, allow_unicode=True), encoding="utf-8")
    digest = hashlib.sha256(json.dumps(documents, sort_keys=True).encode()).hexdigest()
    info = documents[0]["pipelineInfo"]
    named = version or _version_name(defaults["git_commit"], defaults["code_version"], digest)
    return Package(path, info["name"], info.get("description", ""), named, digest, image, root)


def _version_name(commit: str, code: str, digest: str) -> str:
    """The commit; of a checkout with changes, what tells it from other such states, too."""
    if commit == "unknown":
        return f"code-{code}"
    clean = commit.removesuffix("-dirty")[:_SHORT]
    return f"{clean}-dirty-{digest[:8]}" if commit.endswith("-dirty") else clean


def check_clean(commit: str) -> None:
    """Raise InputError for the commit of a checkout with changes."""
    if commit.endswith("-dirty"):
        raise InputError(
            "the checkout has changes that no commit holds, so its name would say too little; commit them, or give "
            "--allow-dirty"
        )


def read_options(arguments: list[str]) -> dict[str, str]:
    """Options such as `--epochs 3`, `--epochs=3`, `--register-pairs` and `--no-register-pairs`, by parameter.

    Raises InputError for what is none, and for one that is given twice.
    """
    given: dict[str, str] = {}
    left = list(arguments)
    while left:
        option, equals, value = left.pop(0).partition("=")
        if not option.startswith("--") or len(option) < 3:
            raise InputError(f"{option!r} is no option; give the pipeline's parameters as --NAME VALUE")
        name = option[2:].replace("-", "_")
        if not equals:
            value = left.pop(0) if left and not left[0].startswith("--") else ""
            if not value and name.startswith("no_"):
                name, value = name[3:], "false"
            value = value or "true"
        if name in given:
            raise InputError(f"--{name.replace('_', '-')} is given twice; give it once")
        given[name] = value
    return given


def typed(
    given: Mapping[str, str], inputs: Mapping[str, Mapping[str, Any]], pipeline: str, options: Iterable[str] = ()
) -> dict[str, Any]:
    """The values of parameters as their types say; raises InputError for a name or a value that does not fit.

    The command's own `options` are what a name may have been meant for, too.
    """
    values = {}
    for name, text in given.items():
        option = f"--{name.replace('_', '-')}"
        if name in OWN_PARAMETERS:
            raise InputError(f"{option} is filled in from the code itself; leave it out")
        if name not in inputs:
            close = get_close_matches(name, [*inputs, *options], 1)
            hint = f"did you mean --{close[0].replace('_', '-')}?" if close else "--parameters lists them"
            raise InputError(f"the pipeline {pipeline} has no parameter {option}; {hint}")
        values[name] = _value(text, inputs[name]["parameterType"], option)
    return values


def _value(text: str, kind: str, option: str) -> Any:
    try:
        if kind == "STRING":
            return text
        if kind == "BOOLEAN":
            return _TRUTH[text.lower()]
        if kind == "NUMBER_INTEGER":
            return int(text)
        value = float(text) if kind == "NUMBER_DOUBLE" else json.loads(text)
        wanted = {"NUMBER_DOUBLE": float, "LIST": list, "STRUCT": dict}[kind]
        if not isinstance(value, wanted) or value != value or value in (float("inf"), float("-inf")):
            raise ValueError
        return value
    except (ValueError, KeyError):
        raise InputError(f"{option} is {text!r}; give {KINDS[kind]}") from None
