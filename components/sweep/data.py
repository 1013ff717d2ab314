"""The data of a search, prepared once for all its trials: ingested, validated, split and packed.

python -m components.sweep.data request.json
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from components.ingest.dataset import ingest
from components.ingest.phantom import PhantomConfig
from components.preprocess.packing import pack
from components.preprocess.preparation import Preparation
from components.validate.measurements import read_facts
from components.validate.reference import find_reference
from components.validate.report import ValidationReport
from components.validate.suite import validate_dataset
from model.errors import InputError


@dataclass(frozen=True)
class DataRequest:
    """Which data, by the pipeline's parameters of the same names, and the `folder` that gets it."""

    folder: Path
    data: str
    data_version: str
    collection: str
    phantom_subjects: int
    phantom_slices: int
    seed: int
    min_pairs: int
    split: str
    split_seed: int
    size: int
    normalise: str
    register_pairs: bool
    model_name: str

    @property
    def packed(self) -> Path:
        """The packed pairs, there whole or not at all."""
        return self.folder / "packed"

    @property
    def report(self) -> Path:
        """The validation's report."""
        return self.folder / "validation.json"

    def write(self, path: Path) -> None:
        """Write the request as JSON."""
        path.write_text(json.dumps(asdict(self), default=str))

    @classmethod
    def read(cls, path: Path) -> "DataRequest":
        """Read what `write` wrote."""
        raw = json.loads(path.read_text())
        return cls(**raw | {"folder": Path(raw["folder"])})


def prepare_data(request: DataRequest) -> None:
    """Do what of the data's preparation is not done yet; raises InputError for data that no search can use."""
    dataset = request.folder / "dataset"
    if request.packed.is_dir():
        return
    if not dataset.is_dir():
        phantom = PhantomConfig(subjects=request.phantom_subjects, slices=request.phantom_slices, seed=request.seed)
        ingest(request.data, request.data_version, phantom, dataset, request.collection)
    reference = find_reference(request.model_name, read_facts(dataset).get("collection", ""))
    docs = request.folder / "data-docs.html"
    validate_dataset(dataset, docs, request.report, request.min_pairs, reference, request.size)
    ValidationReport.read(request.report).require_passed()
    preparation = Preparation(request.size, request.normalise, request.register_pairs)
    pack(dataset, request.split, request.split_seed, request.packed, preparation)


if __name__ == "__main__":
    try:
        prepare_data(DataRequest.read(Path(sys.argv[1])))
    except InputError as refusal:
        print(f"InputError: {refusal}", file=sys.stderr, flush=True)
        sys.exit(2)
