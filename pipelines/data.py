"""The `fusion data` commands: bring the dataset in, compare it with its pin, share it, look at it, make a phantom."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.errors import one_line

if TYPE_CHECKING:
    from components.ingest.compare import FileDifference, SubjectDifference
    from components.ingest.dvc_config import Remote as DvcRemote
    from components.ingest.here import Status

SHOWN = 10
_DIFFERS = 1

app = typer.Typer(
    help="Bring the dataset in, verify and share it.\n\nOn a fresh clone: status, then import (from the public git "
    "repository), then status again. data.dvc pins one exact version; data/ holds all of it or is not there.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Remote = Annotated[
    str | None,
    typer.Option(
        help="DVC remote by name; default: the address in ATLAS_FUSION_REMOTE, or DVC's default remote.",
        show_default=False,
    ),
]


@app.command()
def status(
    cloud: Annotated[bool, typer.Option("--cloud", help="Ask the remote, too, what it lacks.")] = False,
    remote: Remote = None,
    as_json: AsJson = False,
) -> None:
    """Say what is pinned, and whether it is here.

    Tells of data/, of the DVC cache, and of the remote that pull and push use.
    """
    from components.ingest.dvc_config import configured_remote
    from components.ingest.dvc_push import missing_on_remote
    from components.ingest.here import look
    from components.ingest.pin import find_root

    root = find_root(Path())
    found, place = look(root), configured_remote(root, remote)
    lacks = len(missing_on_remote(root, place, found.pin)) if cloud else None
    if as_json:
        _print_json(_status_facts(found, place, lacks))
        return
    _say("pinned", f"{found.pin.version}: {found.pin.pairs()}, {found.pin.size / 1e6:.1f} MB")
    _say_what_is_here(found)
    held = "holds this version, by the names of its files" if found.cached else "does not hold this version"
    _say("DVC cache", held)
    asked = "; not asked, --cloud does"
    if lacks is not None:
        lacking = (
            f"lacks {lacks} files or holds them damaged, `fusion data push` mends it" if lacks else "lacks nothing"
        )
        asked = f"; {lacking} (asked for each file's name, and on S3 its size and checksum)"
    told = f"{place}, by {place.origin}{asked}" if place.url else "none; set ATLAS_FUSION_REMOTE=s3://BUCKET/PREFIX"
    _say("remote", told)


@app.command("import")
def import_(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            help="git (the public repository, at the pinned commit), git+URL@COMMIT, a folder, an archive (.zip, .tar, "
            ".tar.gz, .tar.bz2, .tar.xz), remote (DVC's), or s3://BUCKET/PREFIX (a DVC remote); default: git, or "
            "remote for a version that did not come from git.",
            show_default=False,
        ),
    ] = None,
    new_version: Annotated[
        bool, typer.Option("--new-version", help="Pin what comes as a new version: rewrites data.dvc, data.pairs.csv.")
    ] = False,
    add: Annotated[
        bool, typer.Option("--add", help="Pin a new version of what data/ holds and these images beside it.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Drop files in data/ that no version has.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fill data/ with the pinned version, verified.

    Nothing appears in data/ before all of it is verified; an interrupted import continues when it is run again. If the
    source differs from the pin, the files that do are listed, and nothing changes.
    """
    _bring(source, new_version, add, force, as_json)


@app.command()
def pull(remote: Remote = None) -> None:
    """Fetch the pinned version from the DVC remote."""
    from components.ingest.importing import REMOTE

    _bring(REMOTE, remote=remote)


@app.command()
def push(remote: Remote = None) -> None:
    """Store the pinned version on the DVC remote."""
    from components.ingest.dvc_config import configured_remote
    from components.ingest.dvc_push import push as push_to
    from components.ingest.importing import ensure_cached
    from components.ingest.pin import find_root
    from pipelines.display import progress_bar

    root = find_root(Path())
    place = configured_remote(root, remote)
    with progress_bar("push"):
        pin = ensure_cached(root)
        push_to(root, place)
    typer.echo(f"{place} holds version {pin.version}: {pin.pairs()}")


@app.command()
def verify(
    folder: Annotated[
        Path | None, typer.Argument(help="Data folder; default: data/ of this checkout.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hash every file; name those not as pinned.

    Exits with 1 if any is missing, extra or changed.
    """
    from components.ingest.compare import compare_files
    from components.ingest.pin import DATA, find_root, read_pin, require_listing
    from components.ingest.staging import listing, recover
    from pipelines.display import progress_bar

    root = find_root(Path())
    recover(root)
    pin = require_listing(read_pin(root), root)
    folder = folder or root / DATA
    with progress_bar("verify") as advance:
        difference = compare_files(pin.files, listing(folder, advance))
    if as_json:
        _print_json({"version": pin.version, "equal": not difference, "difference": difference.by_kind()})
    elif difference:
        typer.echo(one_line(f"{folder} is not version {pin.version}: {difference.counts()}"))
        _print_files(difference, {})
    else:
        typer.echo(one_line(f"{folder} is version {pin.version}: all {pin.nfiles} files are as pinned"))
    if difference:
        sys.exit(_DIFFERS)


@app.command()
def describe(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write the description to.")],
    folder: Annotated[
        Path | None, typer.Argument(help="Data folder; default: data/ of this checkout.", show_default=False)
    ] = None,
) -> None:
    """Draw what it holds: pairs, histograms, pictures.

    Writes description.html with everything in one page, contact-sheet.png, pairs.csv and description.json.
    """
    from components.ingest.describe import describe_folder
    from components.ingest.pin import DATA, find_root
    from pipelines.display import progress_bar

    folder = folder or find_root(Path()) / DATA
    with progress_bar("describe") as advance:
        description = describe_folder(folder, output, advance)
    for collection in description["collections"]:
        typer.echo(f"{collection['name']:<10} {collection['pairs']} pairs of {len(collection['subjects'])} subjects")
    typer.echo(one_line(f"wrote {output / 'description.html'}, contact-sheet.png, pairs.csv, description.json"))


@app.command()
def phantom(
    folder: Annotated[Path, typer.Argument(help="Folder to write; it must be new or empty.", readable=False)],
    subjects: Annotated[int, typer.Option(help="How many subjects.")] = 8,
    slices: Annotated[int, typer.Option(help="How many slices each.")] = 8,
    size: Annotated[int, typer.Option(help="Side of a slice in pixels, a multiple of 32.")] = 256,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 3407,
) -> None:
    """Write the phantom dataset. It holds CT-MR pairs: slices of synthetic heads, with ground truth."""
    from components.ingest.phantom import PhantomConfig, write_phantom
    from pipelines.display import progress_bar

    config = PhantomConfig(subjects=subjects, slices=slices, size=size, seed=seed)
    with progress_bar("phantom") as advance:
        write_phantom(folder, config, advance)
    typer.echo(one_line(f"wrote {subjects * slices} pairs of {subjects} subjects to {folder}"))


@app.command()
def volumes(
    first: Annotated[Path, typer.Argument(help="First volume: CT, PET or SPECT.", readable=False)],
    second: Annotated[Path, typer.Argument(help="Second volume, of the same head: MR.", readable=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Data folder to add to, or new.", readable=False)],
    subject: Annotated[str, typer.Option(help="Name for the subject, not the patient's: letters, digits, underscore.")],
    collection: Annotated[str, typer.Option(help="What the pair is: CT-MRI, PET-MRI or SPECT-MRI.")] = "CT-MRI",
    window: Annotated[str, typer.Option(help="What is shown of CT, CENTRE/WIDTH in Hounsfield units.")] = "40/80",
) -> None:
    """Add two volumes of one head to a dataset as slice pairs.

    Volumes are folders of DICOM files, single DICOM files, .nii or .nii.gz. The second is resampled onto the grid of
    the first where it has another, not registered. Run it once a subject; a pipeline needs three.
    """
    from components.ingest.volumes import import_volumes
    from model.volumes import Window
    from pipelines.display import progress_bar

    with progress_bar("volumes") as advance:
        made = import_volumes(first, second, output, subject, collection, Window.parse(window), advance)
    typer.echo(one_line(f"wrote {made.pairs} pairs to {output} (empty slices left out: {made.empty}; {made.how})"))


def _bring(
    source: str | None,
    new_version: bool = False,
    add: bool = False,
    force: bool = False,
    as_json: bool = False,
    remote: str | None = None,
) -> None:
    from components.ingest.address import shown_address
    from components.ingest.importing import DatasetMismatch, import_dataset
    from components.ingest.pin import find_root
    from pipelines.display import progress_bar

    root = find_root(Path())
    try:
        with progress_bar("import") as advance:
            done = import_dataset(root, source, new_version, add, force, advance, remote)
    except DatasetMismatch as error:
        if as_json:
            _print_json({"difference": error.difference.by_kind(), "faults": error.faults})
        else:
            _print_files(error.difference, error.faults)
        raise
    if as_json:
        pairs = [vars(each) for each in done.pairs]
        _print_json({"version": done.pin.version, "source": done.source, "earlier": done.earlier, "pairs": pairs})
        return
    if done.earlier:
        typer.echo(f"new version {done.pin.version}, after {done.earlier}:")
        _print_pairs(done.pairs)
        typer.echo("commit data.dvc and data.pairs.csv; `fusion data push` stores the images on the remote")
    unread = f" ({shown_address(source)} was not read)" if source else ""
    came = f"from {done.source}" if done.source else f"nothing to do{unread}"
    typer.echo(one_line(f"data/ is complete, {came}: {done.pin.pairs()}, version {done.pin.version}"))
    if done.uncached:
        typer.echo(f"note: not in the DVC cache, so `dvc status` does not know it: {done.uncached}", err=True)


def _status_facts(found: "Status", place: "DvcRemote", lacks: int | None) -> dict[str, Any]:
    """The status for programs; `lacks` is how many files the remote lacks, None if it was not asked."""
    return {
        "version": found.pin.version,
        "pairs": found.pin.meta.get("pairs"),
        "present": found.difference is not None,
        "complete": found.difference is not None and not found.difference,
        "difference": found.difference.by_kind() if found.difference else None,
        "link": found.linked,
        "running_import": found.importing,
        "interrupted_import": found.interrupted,
        "finished_import": found.finished,
        "cached": found.cached,
        "remote": str(place) or None,
        "missing_on_remote": lacks,
        "asked_of_remote": None if lacks is None else "each file's name, and on S3 its size and checksum",
    }


def _say_what_is_here(found: "Status") -> None:
    """How data/ compares with its pin, and what an import does to it or has left."""
    if found.finished:
        _say("", "an import that was cut off with its images in place is now finished: commit data.dvc, data.pairs.csv")
    if found.linked:
        _say("data/", "is a link, which neither DVC nor an import takes; make it a plain folder")
    elif found.difference is None and found.importing:
        _say("data/", "not here yet")
    elif found.difference is None:
        _say("data/", "not here; `fusion data import` brings it in, or `fusion data pull` from the remote")
    elif found.difference:
        _say("data/", f"differs from the pin: {found.difference.counts()}")
        _print_files(found.difference, {})
        _print_pairs(found.pairs)
        _say(
            "",
            "`fusion data import` restores it; `fusion data import data --new-version` pins its images; "
            "move other files elsewhere first",
        )
    else:
        _say("data/", "complete, as pinned")
    if found.importing:
        _say("", "an import is at work in data.partial/ now; wait for it to end")
    if found.interrupted:
        _say("", "an interrupted import waits in data.partial/; the same import continues it")


def _say(head: str, text: str) -> None:
    typer.echo(f"{head:<10} {text}")


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def _print_files(difference: "FileDifference", faults: dict[str, str]) -> None:
    """Name the first files of each kind, with what is wrong with them where that is known."""
    kinds = difference.by_kind()
    if not difference:
        kinds = {"unfit": tuple(faults)}
    for kind, paths in kinds.items():
        for path in paths[:SHOWN]:
            why = f" ({faults[path]})" if path in faults else ""
            typer.echo(one_line(f"  {kind:<8} {path}{why}"))
        if len(paths) > SHOWN:
            typer.echo(f"  {kind:<8} and {len(paths) - SHOWN} more (--json lists all)")


def _print_pairs(pairs: "list[SubjectDifference]") -> None:
    """What changed, a line for each collection and subject."""
    for each in pairs:
        kinds = {"added": each.added, "removed": each.removed, "changed": each.changed}
        for kind, names in kinds.items():
            if names:
                shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
                sign = {"added": "+", "removed": "-", "changed": "~"}[kind]
                typer.echo(f"  {sign}{len(names):<3} {each.collection} subject {each.subject}: {kind} {shown}")
