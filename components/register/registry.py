"""The MLflow registry: making a judged model a version of it, and fetching versions for those who fuse with them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.register.aliases import GATE_TAG, LAST_RUN_TAG, champion, named
from components.register.gate import Rules, Verdict, markdown, without_champion
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


@dataclass(frozen=True)
class Registration:
    """A version in the registry: how to load it (`uri`), the aliases it has, and what the gate said of it.

    `promoted`, `reason`, `checks` and `over` (the champion it was judged against) are the gate's word when the version
    was made; `aliases` are today's, since another version may have taken its place. `already_registered` says that the
    same weights with the same evaluation were there before, so nothing was added.
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
    over: str = ""

    def to_json(self) -> str:
        """As the step leaves it for those that follow."""
        return json.dumps(asdict(self), indent=2) + "\n"

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
    rules: Rules | None = None,
) -> Registration:
    """Log a trained and judged model as one MLflow run and one model version, and promote it if the gate lets it.

    The gate judges by `rules` (default: Rules()) and beside the champion of that moment, which is measured on the same
    pairs if the evaluation does not hold it.

    The run is the training's own, with its live curves, where `folder` names it in `mlflow_run.json` and this MLflow
    has it; a new one otherwise. The version becomes `champion` (the one before it `previous`) or `challenger`. The same
    weights with the same evaluation give the version that is there already, which is judged again if other rules
    refused it, or if it was cut short. An empty `tracking_uri` stands for MLFLOW_TRACKING_URI. With an sqlite one a new
    experiment keeps its files in `artifact_folder` (default: `artifacts` beside the database); a server decides for
    itself. The statistics in the report `validation` are logged with it, for later data to be compared with. Raises
    InputError if a folder is incomplete or MLflow cannot be used.
    """
    from components.register.promotion import RULES_TAG, judge_beside, log_verdict, rules_text
    from model.fuser import weights_sha256

    check_names(model_name, experiment)
    judged = Judged.read(folder, evaluation, packed, validation)
    # Of one model there is one version, whoever is champion when it is judged again.
    identity = {"weights_sha256": weights_sha256(folder), "table_md5": _md5(without_champion(judged.table))}
    with connected(tracking_uri) as client:
        import mlflow

        rules = rules or Rules()
        if found := _find(client, model_name, identity):
            for key, value in ((judged.recipe(origin), origin.git_commit), (LAST_RUN_TAG, origin.pipeline_run)):
                client.set_model_version_tag(model_name, found.version, key, value)
            return _finish(client, found, judged, rules, already_registered=True)
        verdict = judge_beside(client, model_name, judged, rules)
        tags, description = identity | judged.tags(origin) | {"parent": verdict.over}, card(judged, verdict)
        taken_over = _training_run(client, folder) or _run_cut_short(client, experiment, identity)
        with mlflow.start_run(
            run_id=taken_over,
            experiment_id=None if taken_over else experiment_id(client, experiment, artifact_folder),
            run_name=None if taken_over else f"{origin.profile}-{tags['weights_sha256'][:8]}",
            tags=tags | {"mlflow.source.git.commit": origin.git_commit},
            description=description,
        ) as active:
            logged = log_run(client, active.info.run_id, judged)
            log_verdict(client, active.info.run_id, verdict)
            _ensure_model(client, model_name, judged.inputs)
            made = client.create_model_version(
                model_name,
                source=logged.model_uri,
                run_id=active.info.run_id,
                tags=tags | {RULES_TAG: rules_text(rules)},
                description=description,
                model_id=logged.model_id,
            )
            return _finish(client, made, judged, rules, already_registered=False)


def champion_version(model_name: str, tracking_uri: str = "") -> ModelVersion | None:
    """The version that is champion, None if there is none."""
    with connected(tracking_uri) as client:
        number = champion(client, model_name)
        return client.get_model_version(model_name, number) if number else None


def champion_statistics(model_name: str, tracking_uri: str = "") -> tuple[str, dict[str, Any] | None]:
    """The champion's version and the statistics of its training data: "" without champion, None if it has none."""
    with connected(tracking_uri) as client:
        import mlflow

        number = champion(client, model_name)
        if number is None:
            return "", None
        run = client.get_model_version(model_name, number).run_id
        if STATISTICS_FILE not in {logged.path for logged in client.list_artifacts(run)}:
            return number, None
        return number, mlflow.artifacts.load_dict(f"runs:/{run}/{STATISTICS_FILE}")


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
        *markdown(made.checks),
    ]
    return "\n".join(lines) + "\n"


def _md5(value: Any) -> str:
    return hashlib.md5(json.dumps(value, sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def _find(client: MlflowClient, name: str, tags: Mapping[str, str]) -> ModelVersion | None:
    conditions = [named(name)] + [f"tags.{key} = '{value}'" for key, value in tags.items()]
    found = client.search_model_versions(" AND ".join(conditions), max_results=1)
    return client.get_model_version(name, found[0].version) if found else None


def _finish(
    client: MlflowClient, version: ModelVersion, judged: Judged, rules: Rules, already_registered: bool
) -> Registration:
    import mlflow

    from components.register.card import log_card
    from components.register.promotion import conclude, judge_again, refused_by_others, settle, was_promoted

    def judge_now() -> Verdict:
        return judge_again(client, version, judged, rules)

    unsettled = GATE_TAG not in version.tags
    if refused_by_others(client, version, rules):
        # From here on it is as one that was cut short.
        client.delete_model_version_tag(version.name, version.version, GATE_TAG)
        unsettled = True
    verdict = Verdict(**mlflow.artifacts.load_dict(f"runs:/{version.run_id}/gate.json"))
    # A registration cut short leaves a version without this tag; whoever comes next gives it its alias.
    if unsettled:
        if already_registered and not was_promoted(client, version):
            verdict = judge_now()  # By these rules, and beside the champion of now.
        verdict = settle(client, version, verdict, judge_now)
        log_card(client, version, judged, verdict)
        conclude(client, version, verdict, card(judged, verdict))
        version = client.get_model_version(version.name, version.version)
    if already_registered and client.get_run(version.run_id).info.status != "FINISHED":
        client.set_terminated(version.run_id)
    return Registration(
        model_name=version.name,
        version=str(version.version),
        uri=f"models:/{version.name}/{version.version}",
        run_id=version.run_id,
        already_registered=already_registered,
        tracking_uri=shown(client.tracking_uri),
        aliases=sorted(version.aliases),
        **asdict(verdict),
    )


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


def _run_cut_short(client: MlflowClient, experiment: str, identity: Mapping[str, str]) -> str | None:
    """The run of an earlier registration of the same that ended before it made its version, to go on with."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return None
    condition = " AND ".join(f"tags.{key} = '{value}'" for key, value in identity.items())
    runs = [run.info.run_id for run in client.search_runs([found.experiment_id], condition)]
    return next((run for run in runs if not client.search_model_versions(f"run_id = '{run}'", max_results=1)), None)


def _ensure_model(client: MlflowClient, name: str, inputs: list[str]) -> None:
    if not client.search_registered_models(named(name)):
        client.create_registered_model(name, description=ABOUT.format(*map(str.upper, inputs), *inputs))
