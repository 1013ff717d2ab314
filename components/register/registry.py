"""The MLflow registry: making a judged model a version of it, and fetching versions for those who fuse with them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.register.record import STATISTICS_FILE, Judged, Origin, card, log_run
from components.tracking import connected, experiment_id, find_run, noted_run, shown
from model.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ABOUT = (
    "Fuses the {0} and {1} images of the same slices.\n\n"
    "Inputs `{2}` and `{3}`: an image or a batch of any size, grey, or one of the two in colour, which is kept; numpy "
    "arrays (floats in [0, 1], uint8, uint16), or bytes or base64 of image files. Output: as the inputs. Parameters: "
    "`strategy`, another fusion strategy than the registered one; `input_bits`, of integers in JSON and of levels that "
    "do not fill their type; `output_bits`, 8, 16 or 32 (floats); `encoding`, array or png. Needs only the packages "
    "of its requirements.txt; `docs/consumers.md` in the repository has examples."
)


# The tag of a version that says its alias was set, by the gate's word.
GATE_TAG = "gate"


@dataclass(frozen=True)
class Registration:
    """A version in the registry: how to load it (`uri`), the aliases it has, and what the gate said of it.

    `promoted`, `reason` and `checks` are the gate's word when the version was made; `aliases` are today's, since
    another version may have taken its place. `already_registered` says that the same weights with the same evaluation
    were there before, so nothing was added.
    """

    model_name: str
    version: str
    uri: str
    run_id: str
    promoted: bool
    reason: str
    checks: list[dict[str, Any]]
    already_registered: bool
    tracking_uri: str
    aliases: list[str]

    @property
    def standing(self) -> str:
        """Its aliases in words."""
        return " and ".join(self.aliases) or "without an alias"


def register(
    folder: Path,
    evaluation: Path,
    packed: Path,
    origin: Origin,
    *,
    experiment: str,
    model_name: str,
    tracking_uri: str = "",
    artifact_folder: Path | None = None,
    validation: Path | None = None,
) -> Registration:
    """Log a trained and judged model as one MLflow run and one model version, and promote it if the gate lets it.

    The run is the training's own, with its live curves, where `folder` names it in `mlflow_run.json` and this MLflow
    has it; a new one otherwise. The version becomes `champion` (the one before it `previous`) or `challenger`. The same
    weights with the same evaluation give the version that is there already. An empty `tracking_uri` stands for
    MLFLOW_TRACKING_URI. With an sqlite one a new experiment keeps its files in `artifact_folder` (default: `artifacts`
    beside the database); a server decides for itself. The statistics in the report `validation` are logged with it, for
    later data to be compared with. Raises InputError if a folder is incomplete or MLflow cannot be used.
    """
    from model.fuser import weights_sha256

    check_names(model_name, experiment)
    judged = Judged.read(folder, evaluation, packed, validation)
    identity = {"weights_sha256": weights_sha256(folder), "table_md5": _md5(judged.table)}
    with connected(tracking_uri) as client:
        import mlflow

        if found := _find(client, model_name, identity):
            return _finish(client, found, already_registered=True)
        champion = _champion(client, model_name)
        verdict = judged.verdict({"version": champion.version, **champion.tags} if champion else None)
        tags, description = identity | judged.tags(origin), card(judged, verdict)
        taken_over = _training_run(client, folder)
        with mlflow.start_run(
            run_id=taken_over,
            experiment_id=None if taken_over else experiment_id(client, experiment, artifact_folder),
            run_name=None if taken_over else f"{origin.profile}-{tags['weights_sha256'][:8]}",
            tags=tags | {"mlflow.source.git.commit": origin.git_commit},
            description=description,
        ) as active:
            logged = log_run(client, active.info.run_id, judged, verdict)
            _ensure_model(client, model_name, judged.inputs)
            made = client.create_model_version(
                model_name,
                source=logged.model_uri,
                run_id=active.info.run_id,
                tags=tags,
                description=description,
                model_id=logged.model_id,
            )
            return _finish(client, made, already_registered=False)


def champion_statistics(model_name: str, tracking_uri: str = "") -> tuple[str, dict[str, Any] | None]:
    """The champion's version and the statistics of its training data: "" without champion, None if it has none."""
    with connected(tracking_uri) as client:
        import mlflow

        champion = _champion(client, model_name)
        if champion is None:
            return "", None
        if STATISTICS_FILE not in {logged.path for logged in client.list_artifacts(champion.run_id)}:
            return str(champion.version), None
        return str(champion.version), mlflow.artifacts.load_dict(f"runs:/{champion.run_id}/{STATISTICS_FILE}")


def check_names(model_name: str, experiment: str) -> None:
    """Raise InputError for a name that the registry would not take."""
    if not re.fullmatch(r"[\w.-]+", model_name):
        raise InputError(f"model name {model_name!r}: use letters, digits, '.', '-' and '_' only")
    if not experiment.strip():
        raise InputError("the experiment has no name; give one")


def summarise(made: Registration) -> str:
    """The outcome of a registration in Markdown: the version, the gate's reason, and its checks as a table."""
    lines = [
        f"# {made.model_name} version {made.version}: {made.standing}",
        "",
        f"{made.reason}.{' It was registered before; nothing was added.' if made.already_registered else ''}",
        "",
        f"Load it as `{made.uri}` from {made.tracking_uri} (run {made.run_id}).",
        "",
        "| Check | Candidate | Other | Passed |",
        "|---|---:|---:|---|",
    ]
    for check in made.checks:
        candidate, other = ("-" if check[key] is None else f"{check[key]:g}" for key in ("candidate", "other"))
        passed = ("yes" if check["passed"] else "no") + ("" if check["required"] else " (information only)")
        lines.append(f"| {check['name']} | {candidate} | {other} | {passed} |")
    return "\n".join(lines) + "\n"


def _md5(value: Any) -> str:
    return hashlib.md5(json.dumps(value, sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def _find(client: MlflowClient, name: str, tags: Mapping[str, str]) -> ModelVersion | None:
    conditions = [f"name = '{name}'"] + [f"tags.{key} = '{value}'" for key, value in tags.items()]
    found = client.search_model_versions(" AND ".join(conditions), max_results=1)
    return client.get_model_version(name, found[0].version) if found else None


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    models = client.search_registered_models(f"name = '{name}'")
    version = models[0].aliases.get("champion") if models else None
    return client.get_model_version(name, version) if version else None


def _finish(client: MlflowClient, version: ModelVersion, already_registered: bool) -> Registration:
    import mlflow

    verdict = mlflow.artifacts.load_dict(f"runs:/{version.run_id}/gate.json")
    # A registration cut short leaves a version without this tag; whoever comes next gives it its alias.
    if GATE_TAG not in version.tags:
        _set_aliases(client, version.name, version.version, verdict["promoted"])
        client.set_model_version_tag(version.name, version.version, GATE_TAG, _word(verdict["promoted"]))
        version = client.get_model_version(version.name, version.version)
    return Registration(
        model_name=version.name,
        version=str(version.version),
        uri=f"models:/{version.name}/{version.version}",
        run_id=version.run_id,
        already_registered=already_registered,
        tracking_uri=shown(client.tracking_uri),
        aliases=sorted(version.aliases),
        **verdict,
    )


def _word(promoted: bool) -> str:
    return "promoted" if promoted else "refused"


def _training_run(client: MlflowClient, folder: Path) -> str | None:
    """The run that the training logged to, None where there is none to go on with; what speaks against it is said."""
    noted = noted_run(folder)
    if noted is None:
        return None
    if find_run(client, noted) is None:
        why = f"MLflow {shown(client.tracking_uri)} has no run {noted}, or it is deleted"
    elif client.search_model_versions(f"run_id = '{noted}'", max_results=1):
        # Another verdict and table would replace those of the version that is there.
        why = f"run {noted} of the training has a model version already"
    else:
        return noted
    print(f"{why}: logging to a new run", flush=True)
    return None


def _ensure_model(client: MlflowClient, name: str, inputs: list[str]) -> None:
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, description=ABOUT.format(*map(str.upper, inputs), *inputs))


def _set_aliases(client: MlflowClient, name: str, version: str, promoted: bool) -> None:
    if not promoted:
        client.set_registered_model_alias(name, "challenger", version)
        return
    if champion := _champion(client, name):
        client.set_registered_model_alias(name, "previous", champion.version)
    client.set_registered_model_alias(name, "champion", version)
