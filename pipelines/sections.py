"""`fusion --help`: the commands by what they are for, in the order in which a user meets them."""

from typing import Any

from typer.core import TyperGroup

SECTIONS = {
    "Train": ("data", "run", "train", "sweep", "models", "weights", "ui"),
    "Run on a cluster": ("compile", "submit", "schedule", "runs"),
    "Fuse": ("fuse", "batch", "view", "serve"),
    "Compare": ("measure", "methods", "table"),
}


class Sections(TyperGroup):
    """A group whose help lists its commands in `SECTIONS`; one that stands in none of them is an error."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands in the order of the sections."""
        order = [name for names in SECTIONS.values() for name in names]
        return sorted(self.commands, key=order.index)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each section with a line for each command."""
        widest = max(map(len, self.list_commands(ctx)))
        for section, names in SECTIONS.items():
            with formatter.section(section):
                limit = formatter.width - 6 - widest
                formatter.write_dl([(f"{n:<{widest}}", self.commands[n].get_short_help_str(limit)) for n in names])
