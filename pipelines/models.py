"""The `fusion models` commands: what is in the registry, what it was made of, and who is champion."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.errors import InputError, one_line
from pipelines.asking import ask
from pipelines.options import Runs
from pipelines.parameters import Parameters

if TYPE_CHECKING:
    from mlflow import MlflowClient

app = typer.Typer(
    help="See what is registered, choose the champion.\n\nA VERSION is a number, an alias (champion, previous, "
    "challenger), models:/NAME/3 or models:/NAME@ALIAS. The registry is that of MLFLOW_TRACKING_URI, or the local one "
    "of --runs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_VERSION = "Number, alias, models:/NAME/3 or models:/NAME@ALIAS."
Chosen = Annotated[str, typer.Argument(metavar="VERSION", help=_VERSION)]
ModelName = Annotated[
    str, typer.Option(help="Model that a VERSION without a name is of, as `fusion run` names it by default.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept with the version and in the model's history.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

NAME, RUNS = Parameters.model_name, Path("runs")


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(help="Only this model; default: all.", show_default=False)] = None,
    as_json: AsJson = False,
    runs: Runs = RUNS,
) -> None:
    """List the models and their versions. Says aliases, the gate's word, measures, data and date."""
    from components.register.catalogue import measures_of, models, versions
    from pipelines.models_display import print_list, told

    with _registry(runs) as client:
        found = {str(model.name): versions(client, model) for model in models(client, name)}
        values = measures_of(client, [version for each in found.values() for version in each])
    if as_json:
        _print_json({model: [told(version, values) for version in each] for model, each in found.items()})
    else:
        print_list(found, values)


@app.command()
def show(version: Chosen, model_name: ModelName = NAME, as_json: AsJson = False, runs: Runs = RUNS) -> None:
    """Show one version. Says its standing, the gate's word, its measures and who promoted it."""
    from components.register.catalogue import choose, measures_of
    from components.register.history import events
    from pipelines.models_display import print_version, told

    with _registry(runs) as client:
        chosen = choose(client, version, model_name)
        facts = told(chosen, measures_of(client, [chosen]))
        log = [vars(event) for event in events(client, chosen.model) if chosen.number in (event.version, event.over)]
    if as_json:
        _print_json(facts | {"history": log})
    else:
        print_version(facts, log)


@app.command()
def lineage(
    version: Annotated[
        str | None,
        typer.Argument(metavar="VERSION", help=_VERSION, show_default=False),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(help="Back, from an image: its pair's name, COLLECTION/MODALITY/NAME.png, its MD5, or a file."),
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Back, from a subject.")] = None,
    collection: Annotated[
        str | None, typer.Option(help="Of the image or subject: CT-MRI, PET-MRI or SPECT-MRI; default: all.")
    ] = None,
    model_name: Annotated[
        str | None,
        typer.Option(
            help=f"Model of a VERSION without a name [{NAME}]; back, only this model [all].", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
    runs: Runs = RUNS,
) -> None:
    """Trace a version to its origin, or an image to all that saw it.

    From a version to its data with every subject, code, configuration, parents, measures and runs. With --image or
    --subject the other way: every version of every model, retired ones too, whose training, validation or test saw it.
    Versions whose split nobody recorded are named as unknown, and the exit code is then 1.
    """
    from components.register.catalogue import choose
    from components.register.lineage import Wanted, trace, who_saw
    from pipelines.models_display import print_lineage, print_sightings, told_sightings

    if version is not None and (image or subject or collection):
        raise InputError("give a version, or --image or --subject, not both")
    if version is not None:
        with _registry(runs) as client:
            facts = trace(client, choose(client, version, model_name or NAME))
        _print_json(facts) if as_json else print_lineage(facts)
        return
    wanted = Wanted.of(subject, image, collection)
    with _registry(runs) as client:
        found = who_saw(client, wanted, model_name)
    _print_json(told_sightings(found)) if as_json else print_sightings(found, wanted)
    if any(sighting.unknown for sighting in found):
        sys.exit(1)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(help=_VERSION)],
    b: Annotated[str, typer.Argument(help=_VERSION)],
    model_name: ModelName = NAME,
    as_json: AsJson = False,
    runs: Runs = RUNS,
) -> None:
    """Compare two versions. Says what the second has otherwise: data, code, configuration, measures."""
    from components.register.catalogue import choose
    from components.register.difference import compare
    from pipelines.models_display import print_difference

    with _registry(runs) as client:
        difference = compare(client, choose(client, a, model_name), choose(client, b, model_name))
    _print_json(difference) if as_json else print_difference(difference)


@app.command()
def card(
    version: Chosen,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write, .md or .html; default: Markdown, printed.", readable=False),
    ] = None,
    model_name: ModelName = NAME,
    runs: Runs = RUNS,
) -> None:
    """Print a version's model card, or write it as a page.

    It says what the model learned from, its measures beside the baselines, the gate's table, its use and its limits.
    """
    from components.register.card import HTML_FILE, MARKDOWN_FILE
    from components.register.catalogue import choose
    from components.register.lineage import read_file
    from model.images import write_atomically

    if output is not None and output.suffix not in (".md", ".html"):
        raise InputError(f"a card is Markdown or HTML; end {output} in .md or .html")
    name = HTML_FILE if output is not None and output.suffix == ".html" else MARKDOWN_FILE
    with _registry(runs) as client:
        chosen = choose(client, version, model_name)
        text, why = read_file(client, chosen, name)
    if text is None:
        raise InputError(f"no card of {chosen.uri}: {why}; `fusion models lineage` tells what is known")
    if output is None:
        typer.echo(text, nl=False)
        return
    write_atomically(output, lambda partial: partial.write_text(text, encoding="utf-8"))
    typer.echo(one_line(f"wrote {output}"))


@app.command()
def promote(version: Chosen, reason: Reason, yes: Yes = False, model_name: ModelName = NAME, runs: Runs = RUNS) -> None:
    """Make a version the champion by hand.

    The champion before it becomes `previous`. Who did it, when and why is kept. It is refused if another version became
    champion meanwhile, or this one is retired.
    """
    from components.register import operations
    from components.register.aliases import champion
    from components.register.catalogue import choose
    from components.register.history import PROMOTED

    reason = _given(reason)
    with _registry(runs) as client:
        chosen = choose(client, version, model_name)
        over = champion(client, chosen.model)
        if over == chosen.number:
            operations.complete(client, chosen.model, PROMOTED)
            typer.echo(f"{chosen.model} version {over} is the champion already")
            return
        operations.check_promotable(chosen)
        gate = chosen.tags.get("gate", "not judged")
        place = f"in place of version {over}" if over else "which has none"
        ask(f"make version {chosen.number} (gate: {gate}) the champion of {chosen.model}, {place}?", yes)
        operations.promote(client, chosen, over=over, reason=reason, by=operations.user())
    before = f"; before it version {over} was" if over else ""
    typer.echo(f"{chosen.model} version {chosen.number} is the champion{before}")


@app.command()
def rollback(
    reason: Reason = "rolled back",
    yes: Yes = False,
    model_name: ModelName = NAME,
    runs: Runs = RUNS,
) -> None:
    """Go back to the champion before this one.

    Run again it goes back one further: versions that were rolled back from, and retired ones, are passed over, so it
    never returns to them; `fusion models promote` does. The alias `previous` always names where it would go next. After
    `retire --no-champion` it brings the last champion that is not retired back.
    """
    from components.register import operations
    from components.register.aliases import champion
    from components.register.catalogue import NAME_ANOTHER, models
    from components.register.history import ROLLED_BACK
    from components.register.succession import earlier_champions

    reason = _given(reason)
    with _registry(runs) as client:
        models(client, model_name, NAME_ANOTHER)
        done = operations.complete(client, model_name, ROLLED_BACK)
        over, earlier = champion(client, model_name), earlier_champions(client, model_name)
        if done:
            further = "; run it again to go back one further" if earlier else ""
            again = f"{model_name} version {over} is the champion again"
            typer.echo(f"{again}: what was cut short is complete now{further}")
            return
        if not earlier:
            which = f"came before version {over}" if over else "is there to go back to"
            raise InputError(f"no champion of {model_name} {which}; make a version one by `fusion models promote`")
        place = f"in place of version {over}" if over else "which has none"
        ask(f"make version {earlier[-1]} the champion of {model_name} again, {place}?", yes)
        by = operations.user()
        operations.rollback(client, model_name, over=over, to=earlier[-1], reason=reason, by=by)
    left = f"; one more rollback goes to version {earlier[-2]}" if len(earlier) > 1 else "; it is the first one"
    typer.echo(f"{model_name} version {earlier[-1]} is the champion again{left}")


@app.command()
def retire(
    version: Chosen,
    reason: Reason,
    undo: Annotated[bool, typer.Option("--undo", help="Bring a retired version back; without its aliases.")] = False,
    no_champion: Annotated[
        bool, typer.Option("--no-champion", help="Retire even the champion, and leave the model without one.")
    ] = False,
    yes: Yes = False,
    model_name: ModelName = NAME,
    runs: Runs = RUNS,
) -> None:
    """Take a version out of use. Its aliases go, its files and lineage stay.

    It is marked as retired, with who, when and why, and cannot be promoted until that is undone. The champion is
    refused: roll back or promote another first. Who loads it by its number still can.
    """
    from components.register import operations
    from components.register.catalogue import choose

    reason = _given(reason)
    with _registry(runs) as client:
        chosen = choose(client, version, model_name)
        label = f"{chosen.model} version {chosen.number}"
        if undo:
            operations.check_restorable(client, chosen)
            ask(f"bring {label} back?", yes)
            operations.restore(client, chosen, reason=reason, by=operations.user())
            typer.echo(f"{label} is no longer retired")
            return
        operations.check_retirable(client, chosen, no_champion)
        ask(f"retire {label}{f' ({chosen.standing})' if chosen.standing else ''}?", yes)
        operations.retire(client, chosen, without_champion=no_champion, reason=reason, by=operations.user())
    gone = f", no longer {' and '.join(chosen.aliases)}" if chosen.aliases else ""
    typer.echo(f"{label} is retired{gone}; its lineage stays")


@contextmanager
def _registry(runs: Path) -> "Iterator[MlflowClient]":
    """A client of the registry; InputError without one."""
    from components.tracking import connected
    from pipelines.local import registry_uri

    with connected(registry_uri(runs)) as client:
        yield client


def _given(reason: str) -> str:
    if not reason.strip():
        raise InputError("the reason is empty; say why with --reason")
    return reason.strip()


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))
