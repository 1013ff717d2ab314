"""What the steps of a batch do, with files between them: check and choose, fuse and measure, sum up."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from components.batch.chosen import Chosen, choose_model
from components.batch.fusing import ON_ERROR, Done, fuse_pairs, parse_measures
from components.batch.journal import Journal
from components.batch.pairs import Fault, Pair, UnfitPair, find_pairs
from components.batch.places import FolderPlace, Place, open_place
from components.batch.summary import Batch, write_summary
from components.ingest.dataset import PHANTOM, check_collection
from components.ingest.layout import COLLECTIONS
from components.ingest.phantom import PhantomConfig, write_phantom
from components.progress import Progress
from model.errors import InputError, unknown_choice
from model.fuser import Fuser

# The phantom's images, where a batch is asked to make them.
_IMAGES = "images"
_PLAN = "plan.json"
_ROWS = "rows.jsonl"
_RESULTS = "results"


def check_step(
    source: str,
    destination: str,
    collection: str,
    model: str,
    strategy: str,
    measures: str,
    on_error: str,
    phantom: PhantomConfig,
    plan: Path,
    chosen: Path,
    tracking_uri: str = "",
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Find the pairs and the model, and refuse what cannot be done; the pairs go to `plan`, the model to `chosen`.

    Returns what a reader of the step's metadata wants to know. Raises InputError for whatever the user can mend.
    """
    check_collection(collection, source)
    parse_measures(measures)
    if on_error not in ON_ERROR:
        raise unknown_choice("on_error", on_error, ON_ERROR)
    plan.mkdir(parents=True, exist_ok=True)
    if source == PHANTOM:
        write_phantom(plan / _IMAGES, phantom, progress or Progress("check"))
    place = _source(source, plan)
    if destination:
        open_place(destination)
    if not (names := place.names()):
        raise InputError(f"there are no files in {place.name}; check the address")
    pairs, faults = find_pairs(names, collection, place.name)
    if not pairs:
        raise InputError(f"{place.name} holds no {collection} pair: {faults[0].pair}: {faults[0].problem}")
    if faults and on_error == "stop":
        raise UnfitPair(faults[0])
    found = choose_model(model, strategy, collection, chosen, tracking_uri)
    if destination:
        Journal(open_place(destination), collection, found.identity(collection)).check()
    told = {"source": source, "collection": collection, "measures": measures, "on_error": on_error}
    lists = {"pairs": [pair.to_dict() for pair in pairs], "faults": [asdict(fault) for fault in faults]}
    (plan / _PLAN).write_text(json.dumps(told | lists) + "\n")
    return {"pairs": len(pairs), "without_partner": len(faults), "model": found.title, "asked": found.asked}


def fuse_step(
    plan: Path,
    chosen: Path,
    destination: str,
    fused: Path,
    device: str = "auto",
    progress: Callable[[int, int, str], object] | None = None,
) -> dict[str, Any]:
    """Fuse and measure the planned pairs into the destination, or where that is empty into the folder `fused`.

    What became of them goes to `fused` in any case. Returns the counts; raises InputError if no pair could be fused.
    """
    told = json.loads((plan / _PLAN).read_text())
    fused.mkdir(parents=True, exist_ok=True)
    pairs = [Pair(**pair) for pair in told["pairs"]]
    names, on_error = parse_measures(told["measures"]), told["on_error"]
    journal = _journal(told, chosen, destination, fused)
    fuser = Fuser.load(chosen, device=_device(device))
    with journal.place.alone(told["collection"]):
        done = fuse_pairs(
            pairs, _source(told["source"], plan), journal, fuser, names, on_error, progress or Progress("fuse")
        )
    done = Done(done.rows, done.kept, [*(Fault(**fault) for fault in told["faults"]), *done.faults])
    if not done.rows:
        raise InputError(f"none of {len(pairs)} pairs could be fused: {done.faults[0].pair}: {done.faults[0].problem}")
    lines = ({"kept": done.kept, "faults": [asdict(fault) for fault in done.faults]}, *done.rows)
    (fused / _ROWS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"fused": len(done.rows), "kept": done.kept, "skipped": len(done.faults)}


def report_step(
    plan: Path, chosen: Path, fused: Path, destination: str, summary: Path, git_commit: str, code_version: str
) -> dict[str, Any]:
    """Write the tables, the page and the manifest into the folder `summary` and the destination; the manifest."""
    told = json.loads((plan / _PLAN).read_text())
    first, *rows = (json.loads(line) for line in (fused / _ROWS).read_text().splitlines())
    place, collection = _source(told["source"], plan), told["collection"]
    batch = Batch(
        source=told["source"] if told["source"] == PHANTOM else place.recorded,
        collection=collection,
        modalities=COLLECTIONS[collection],
        model=Chosen.read(chosen),
        measures=parse_measures(told["measures"]),
        rows=rows,
        kept=first["kept"],
        faults=[Fault(**fault) for fault in first["faults"]],
        git_commit=git_commit,
        code_version=code_version,
    )
    return write_summary(batch, place, _journal(told, chosen, destination, fused), summary)


def _source(source: str, plan: Path) -> Place:
    place = FolderPlace(plan / _IMAGES) if source == PHANTOM else open_place(source)
    if isinstance(place, FolderPlace) and not place.folder.exists():
        raise InputError(f"no such folder: {place.name}")
    return place


def _journal(told: dict[str, Any], chosen: Path, destination: str, fused: Path) -> Journal:
    place = open_place(destination) if destination else FolderPlace(fused / _RESULTS)
    return Journal(place, told["collection"], Chosen.read(chosen).identity(told["collection"]))


def _device(name: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
