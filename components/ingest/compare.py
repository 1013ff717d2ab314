"""How two versions of the dataset differ: by file, and by pair for each collection and subject."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from components.ingest.layout import order, pair_of, subject_of


@dataclass(frozen=True)
class FileDifference:
    """Relative paths that are `missing` from what was found, `extra` in it, or there with other content."""

    missing: tuple[str, ...]
    extra: tuple[str, ...]
    changed: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.changed)

    def counts(self) -> str:
        """Such as "2 missing, 1 changed"."""
        return ", ".join(f"{len(paths)} {kind}" for kind, paths in self.by_kind().items() if paths) or "no difference"

    def by_kind(self) -> dict[str, tuple[str, ...]]:
        """The paths under "missing", "extra" and "changed"."""
        return asdict(self)


@dataclass(frozen=True)
class SubjectDifference:
    """The pairs of one subject of one collection that were added, removed, or hold other images."""

    collection: str
    subject: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


def compare_files(wanted: Mapping[str, str], found: Mapping[str, str]) -> FileDifference:
    """Compare two listings, relative path -> MD5."""
    return FileDifference(
        missing=tuple(sorted(wanted.keys() - found.keys(), key=order)),
        extra=tuple(sorted(found.keys() - wanted.keys(), key=order)),
        changed=tuple(
            sorted((path for path in wanted.keys() & found.keys() if wanted[path] != found[path]), key=order)
        ),
    )


def compare_pairs(old: Mapping[str, str], new: Mapping[str, str]) -> list[SubjectDifference]:
    """Compare two listings pair by pair; one entry for each collection and subject that differs, in their order."""
    was, now = _pairs(old), _pairs(new)
    kinds: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for key in sorted(was.keys() | now.keys(), key=lambda key: (key[0], order(key[1]))):
        collection, pair = key
        kind = "added" if key not in was else "removed" if key not in now else "changed"
        if kind != "changed" or was[key] != now[key]:
            kinds[collection, subject_of(pair)][kind].append(pair)
    return [
        SubjectDifference(collection, subject, *(tuple(kind[name]) for name in ("added", "removed", "changed")))
        for (collection, subject), kind in sorted(kinds.items(), key=lambda item: (item[0][0], order(item[0][1])))
    ]


def pairs_by_collection(listing: Mapping[str, str]) -> dict[str, int]:
    """How many pairs each collection has."""
    counts: dict[str, int] = defaultdict(int)
    for collection, _ in _pairs(listing):
        counts[collection] += 1
    return dict(sorted(counts.items()))


def _pairs(listing: Mapping[str, str]) -> dict[tuple[str, str], dict[str, str]]:
    pairs: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for path, md5 in listing.items():
        pairs[pair_of(path)][path] = md5
    return pairs
