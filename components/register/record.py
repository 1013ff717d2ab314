"""What MLflow keeps of a judged model: one run with settings, curves, measures and reports, and the model itself."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import code
from components.image import own_image
from components.register.gate import HEADLINE, Rules, Verdict, image_set, judge, method
from components.register.packaging import packaged
from components.register.recipe import recipe_tag
from components.tracking import latest_steps
from model.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric
    from mlflow.models.model import ModelInfo

SPEEDS = ("seconds", "images_per_second")
PAIR = ("name", "subject", "slice", "md5")
BRIEF = ("epochs", "batch", "crop", "perceptual", "processes")
METRICS_A_REQUEST = 1000
STATISTICS_FILE = "data_statistics.json"
SPLIT_FILE = "split.json"
RUN_VARIABLE = "FUSION_PIPELINE_RUN"


@dataclass(frozen=True)
class Origin:
    """Where a model comes from beyond what its own folder tells: the profile and the code that ran.

    `pipeline_run` is the id of the run in Kubeflow, or the name of its folder here; `image` is the container image by
    its digest; `settings` what decided, beside data and code, which model came out. Each is "" where it is not known.
    """

    profile: str
    git_commit: str
    code_version: str
    pipeline_run: str = ""
    image: str = ""
    settings: str = ""

    @classmethod
    def here(cls, profile: str, git_commit: str, code_version: str, pipeline_run: str, settings: str = "") -> Origin:
        """The origin of what runs in this environment, which names the image, and the run's folder if it has one.

        A pipeline that was compiled without a commit and a version of the code was run by the code that runs here.
        """
        run = os.environ.get(RUN_VARIABLE) or pipeline_run
        commit = git_commit if git_commit not in ("", "unknown") else code.git_commit()
        return cls(profile, commit, code_version or code.code_version(), run, own_image(), settings)


@dataclass(frozen=True)
class Judged:
    """A trained model with its evaluation, as the steps before left them in folders.

    `config` names the strategy that was judged, which need not be the one that training saved. `statistics` are those
    of the whole dataset, from its validation.
    """

    folder: Path
    evaluation: Path
    config: dict[str, Any]
    training: dict[str, Any]
    curves: list[dict[str, Any]]
    table: dict[str, Any]
    index: dict[str, Any]
    statistics: dict[str, Any] | None
    floors: dict[str, Any] | None
    packed: Path

    @classmethod
    def read(cls, folder: Path, evaluation: Path, packed: Path, validation: Path | None = None) -> Judged:
        """Read the folders of model, evaluation and packed dataset, and the validation's report.

        Raises InputError if a file is missing or damaged, or the evaluation is of another dataset version.
        """
        table, index = _read(evaluation / "table.json"), _read(packed / "index.json")
        here, there = index["dataset_version"], table["dataset_version"]
        if here != there:
            raise InputError(f"{evaluation} judges dataset {there}, but {packed} holds {here}; evaluate again")
        config, training, curves = (_read(folder / f"{name}.json") for name in ("config", "training", "curves"))
        config["strategy"] = table["candidate"].removeprefix("network-")
        statistics = _read(validation).get("statistics") if validation else None
        # An evaluation from before there were floors has none.
        floors = _read(evaluation / "floors.json") if (evaluation / "floors.json").exists() else None
        return cls(folder, evaluation, config, training, curves, table, index, statistics, floors, packed)

    @property
    def inputs(self) -> list[str]:
        """The names of the model's two inputs: its modalities, such as ct and mri."""
        return [str(modality).lower() for modality in self.index["modalities"]]

    def verdict(self, rules: Rules, champion: str | None) -> Verdict:
        """The gate's verdict on the candidate beside the current champion, a version."""
        trained_on = {entry["subject"] for entry in self.index["splits"]["train"]}
        return judge(self.table, self.floors, rules, champion, trained_on)

    def split(self) -> dict[str, Any]:
        """Every pair that training, validation and test saw, with its subject and the MD5 of its two images' files.

        A split that the packed dataset cannot tell, since the training saw another one, is None, and `unknown` says so.
        """
        facts = {key: self.index.get(key) for key in ("dataset_version", "collection", "modalities", "source")}
        splits: dict[str, list[dict[str, Any]] | None] = {
            name: [{key: entry[key] for key in PAIR if key in entry} for entry in entries]
            for name, entries in self.index["splits"].items()
        }
        if why := self._trained_elsewhere():
            splits |= {"train": None, "validation": None}
        return facts | {"split": self.index.get("split", {}), "splits": splits, "unknown": why}

    def _trained_elsewhere(self) -> str:
        """What tells that the model was trained on other pairs than those of the packed dataset; "" for nothing."""
        subjects = {
            name: sorted({entry["subject"] for entry in entries}) for name, entries in self.index["splits"].items()
        }
        here = {key: self.index.get(key) for key in ("dataset_version", "collection", "split")} | {"subjects": subjects}
        for key, value in here.items():
            if key in self.training and value is not None and self.training[key] != value:
                return f"it was trained on another {key.replace('_', ' ').replace('subjects', 'set of subjects')}"
        return ""

    def recipe(self, origin: Origin) -> str:
        """The key of the tag that tells what the model was made of."""
        return recipe_tag(self.table["dataset_version"], origin.code_version, origin.settings)

    def tags(self, origin: Origin) -> dict[str, str]:
        """The lineage of the model version, for its tags."""
        chosen = {key: self.training[key] for key in BRIEF if key in self.training}
        own = method(self.table, self.table["candidate"])
        return asdict(origin) | {
            "collection": self.index["collection"],
            "dataset_version": self.table["dataset_version"],
            "configuration": json.dumps(self.config | chosen),
            "seed": str(self.training.get("seed", "")),
            self.recipe(origin): origin.git_commit,
            "test_set": image_set(self.table),
            HEADLINE: str(own["means"].get(HEADLINE) if own else None),
        }


def log_run(client: MlflowClient, run_id: str, judged: Judged) -> ModelInfo:
    """Log everything but the verdict into the active run, the model last but for the metrics that belong to it.

    The run may be the training's own: parameters and points of curves that it has already stay as they are.
    """
    import mlflow

    there = client.get_run(run_id).data
    parameters = _flat(judged.config | {k: v for k, v in judged.training.items() if k not in SPEEDS})
    mlflow.log_params({name: value for name, value in parameters.items() if name not in there.params})
    mlflow.log_artifacts(str(judged.evaluation))
    mlflow.log_artifact(str(judged.folder / "curves.json"))
    mlflow.log_dict(judged.split(), SPLIT_FILE)
    if judged.statistics:
        mlflow.log_dict(judged.statistics, STATISTICS_FILE)
    client.log_inputs(run_id, [_dataset(judged)])
    logged = _log_model(judged)
    # After the model: MLflow would fetch the history of every earlier metric, one request each, to copy it.
    metrics = _metrics(judged, str(logged.model_id)) + _curves(judged, latest_steps(there))
    for start in range(0, len(metrics), METRICS_A_REQUEST):
        client.log_batch(run_id, metrics[start : start + METRICS_A_REQUEST])
    return logged


def card(judged: Judged, verdict: Verdict) -> str:
    """The model version's description in Markdown: the verdict, what it learned from, and its measures."""
    table, training, splits = judged.table, judged.training, judged.index["splits"]
    own, rows = method(table, table["candidate"]), [method(table, name) for name in ("average", "maximum")]
    shown = [row for row in (own, *rows) if row]
    subjects = {name: len({entry["subject"] for entry in entries}) for name, entries in splits.items()}
    lines = [
        f"**{'Champion' if verdict.promoted else 'Challenger'}**: {verdict.reason}.",
        "",
        f"- Data: {judged.index['collection']} `{table['dataset_version']}`, trained on {len(splits['train'])} pairs of"
        f" {subjects['train']} subjects, judged on {len(table['pairs'])} pairs of {subjects['test']}",
        f"- Training: {training.get('epochs')} epochs, seed {training.get('seed')},"
        f" perceptual features `{training.get('perceptual')}`",
        f"- Fusion: `{judged.config.get('strategy')}`, BatchNorm statistics `{judged.config.get('batchnorm')}`",
        "",
        "| Measure | " + " | ".join(row["title"] for row in shown) + " |",
        "|---|" + "---:|" * len(shown),
    ]
    for column in table["measures"]:
        values = [row["means"].get(column["name"]) for row in shown]
        cells = ["-" if value is None else f"{value:.4f}" for value in values]
        lines.append(f"| {column['title']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _log_model(judged: Judged) -> ModelInfo:
    import mlflow

    with packaged(judged.folder, judged.inputs, judged.config) as parts:
        return mlflow.pyfunc.log_model(name="fuser", **parts)


def _dataset(judged: Judged) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    pinned, counts = judged.table["dataset_version"], {k: len(v) for k, v in judged.index["splits"].items()}
    dataset = Dataset(
        name=judged.index["collection"],
        digest=pinned[:36],
        source_type="dvc",
        source=json.dumps({"version": pinned}),
        profile=json.dumps({"pairs": counts}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _metrics(judged: Judged, model_id: str) -> list[Metric]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = []
    for row in judged.table["methods"]:
        for name, value in row["means"].items():
            value = float("nan") if value is None else value
            metrics.append(Metric(f"{row['name']}/{name}", value, now, 0))
            if row["name"] == judged.table["candidate"]:
                metrics.append(Metric(name, value, now, 0, model_id=model_id))
    metrics += [Metric(f"training/{k}", judged.training[k], now, 0) for k in SPEEDS if k in judged.training]
    return metrics


def _curves(judged: Judged, steps: Mapping[str, int]) -> list[Metric]:
    """The losses of every epoch after the last of `steps`, what training has logged of them live."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [
        Metric(f"loss/{split}/{name}", value, now, entry["step"])
        for entry in judged.curves
        for split in ("train", "validation")
        for name, value in (entry.get(split) or {}).items()
        if entry["step"] > steps.get(f"loss/{split}/{name}", -1)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); run the step that writes it again") from None
