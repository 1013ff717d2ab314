"""What every form of a comparison's table says: its title, origin and notes, and which figures stand out."""

from components.evaluate import poster
from components.evaluate.comparison import LEAST_SUBJECTS, Comparison, Row, Summary
from components.evaluate.evaluation import Column
from components.evaluate.page import counted, number
from model.statistics import EXACT_UP_TO

BETTER = ("\N{SUPERSCRIPT PLUS SIGN}", "significantly better")
WORSE = ("\N{SUPERSCRIPT MINUS}", "significantly worse")
SPLITS = {"subject": "split by subject", "paper": "the paper's split"}
COLUMNS_A_TABLE = 8


def title(comparison: Comparison) -> str:
    """What the figures are of: protocol, split, pairs and subjects."""
    counts = f"{counted(len(comparison.pairs), 'pair')} of {counted(len(comparison.subjects), 'subject')}"
    return f"{comparison.protocol.capitalize()} protocol, {SPLITS[comparison.split]}, {counts}"


def origin(comparison: Comparison) -> list[tuple[str, str]]:
    """What the figures were made from, as labelled facts: data, weights, code, machine and date."""
    weights = {row.contender.weights: row.contender.name for row in reversed(comparison.ran) if row.contender.weights}
    return [
        ("Subjects", ", ".join(comparison.subjects)),
        ("Data", f"{comparison.data_version} ({comparison.data})"),
        ("Weights", ", ".join(f"{name} {digest}" for digest, name in reversed(weights.items())) or "none"),
        *comparison.facts.items(),
    ]


def notes(comparison: Comparison) -> list[str]:
    """What a reader must know to read the table rightly."""
    rows, pairs, subjects = comparison.ran, len(comparison.pairs), len(comparison.subjects)
    said = ["Means over the pairs; measures against a source are means over CT and MRI. The best of a column is bold."]
    if comparison.reference and len(rows) > 1:
        kind = "exact" if pairs <= EXACT_UP_TO else "Monte Carlo"
        said.append(
            f"{BETTER[0]} and {WORSE[0]} mark what is significantly better and worse than "
            f'"{comparison.reference.contender.title}": p < 0.05 in a two-sided sign-flip permutation test '
            f"over the pairs ({kind}), Holm-corrected over the methods of a column."
        )
    elif len(rows) > 1:
        said.append("The method to test against did not run, so no difference is tested.")
    if pairs > subjects:
        said.append(
            f"Slices of one subject resemble each other, so the {pairs} pairs are fewer than {pairs} independent ones: "
            f"intervals by pairs are too narrow and p-values too small for what they would say of new subjects."
        )
    if subjects >= LEAST_SUBJECTS:
        said.append(
            "Intervals by resampling subjects are in table.html and table.json; by so few subjects they still cover "
            "the mean less often than 95 % (81 % with three subjects, 90 % with seven)."
        )
    elif subjects > 1:
        said.append("Two subjects are too few for intervals by subject.")
    if comparison.split == "paper":
        said.append("Other slices of these subjects were trained on: the paper's split leaks, here as in the poster.")
    if comparison.protocol == "poster":
        said += poster.MEASURE_NOTES
        if not comparison.printed:
            said.append("The poster's printed figures are of the paper's split and stand beside no other.")
    if len(comparison.pairs) < comparison.expected:
        said.append(f"The data holds {pairs} of the {comparison.expected} test pairs; printed figures are of all.")
    if comparison.synthetic:
        said.append("These are artificial heads drawn by the phantom: no image shows a patient.")
    return said + comparison.notes


def chunks(comparison: Comparison) -> list[list[Column]]:
    """The measures in equal parts, each of a table narrow enough to be seen whole."""
    parts = -(-len(comparison.measures) // COLUMNS_A_TABLE)
    size = -(-len(comparison.measures) // parts)
    return [comparison.measures[start : start + size] for start in range(0, len(comparison.measures), size)]


def cells_of(comparison: Comparison, row: Row) -> dict[str, Summary]:
    """The cells of a row by measure; none where it did not run."""
    return comparison.summaries.get(row.contender.name, {})


def best(comparison: Comparison, name: str) -> float:
    """The best mean of a measure."""
    direction = next(column.direction for column in comparison.measures if column.name == name)
    return (max if direction == "higher" else min)(cells[name].mean for cells in comparison.summaries.values())


def is_best(comparison: Comparison, name: str, cell: Summary) -> bool:
    """Whether a mean is the best of its column as far as its digits show."""
    decimals = decimals_of(comparison, name)
    return number(cell.mean, decimals) == number(best(comparison, name), decimals)


def mark(comparison: Comparison, name: str, cell: Summary) -> tuple[str, str]:
    """The sign beside a figure that differs significantly from the reference's, and its meaning; empty otherwise."""
    if not cell.significant or not cell.difference:
        return "", ""
    higher = next(column.direction for column in comparison.measures if column.name == name) == "higher"
    return BETTER if (cell.difference > 0) == higher else WORSE


def decimals_of(comparison: Comparison, name: str) -> int:
    """How many decimals a measure is shown with."""
    if comparison.protocol == "poster":
        return 3
    return 2 if max(abs(cells[name].mean) for cells in comparison.summaries.values()) >= 10 else 3
