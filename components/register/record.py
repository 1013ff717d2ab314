"""What MLflow keeps of a judged model: one run with settings, curves, measures and reports, and the model itself."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.register.gate import HEADLINE, Verdict, image_set, judge, method
from components.register.packaging import packaged
from components.tracking import latest_steps
from model.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric
    from mlflow.models.model import ModelInfo

SPEEDS = ("seconds", "images_per_second")
BRIEF = ("epochs", "batch", "crop", "perceptual", "processes")
METRICS_A_REQUEST = 1000
STATISTICS_FILE = "data_statistics.json"


@dataclass(frozen=True)
class Origin:
    """Where a model comes from beyond what its own folder tells: the profile and the code that ran."""

    profile: str
    git_commit: str
    code_version: str


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
        return cls(folder, evaluation, config, training, curves, table, index, statistics)

    @property
    def inputs(self) -> list[str]:
        """The names of the model's two inputs: its modalities, such as ct and mri."""
        return [str(modality).lower() for modality in self.index["modalities"]]

    def verdict(self, champion: Mapping[str, Any] | None) -> Verdict:
        """The gate's verdict on the candidate beside the current champion."""
        return judge(self.table, champion, {entry["subject"] for entry in self.index["splits"]["train"]})

    def tags(self, origin: Origin) -> dict[str, str]:
        """The lineage of the model version, for its tags."""
        chosen = {key: self.training[key] for key in BRIEF if key in self.training}
        own = method(self.table, self.table["candidate"])
        return asdict(origin) | {
            "collection": self.index["collection"],
            "dataset_version": self.table["dataset_version"],
            "configuration": json.dumps(self.config | chosen),
            "seed": str(self.training.get("seed", "")),
            "test_set": image_set(self.table),
            HEADLINE: str(own["means"].get(HEADLINE) if own else None),
        }


def log_run(client: MlflowClient, run_id: str, judged: Judged, verdict: Verdict) -> ModelInfo:
    """Log everything into the active run, the model last but for the metrics that belong to it.

    The run may be the training's own: parameters and points of curves that it has already stay as they are.
    """
    import mlflow

    there = client.get_run(run_id).data
    parameters = _flat(judged.config | {k: v for k, v in judged.training.items() if k not in SPEEDS})
    mlflow.log_params({name: value for name, value in parameters.items() if name not in there.params})
    mlflow.log_artifacts(str(judged.evaluation))
    mlflow.log_artifact(str(judged.folder / "curves.json"))
    mlflow.log_dict(asdict(verdict), "gate.json")
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
