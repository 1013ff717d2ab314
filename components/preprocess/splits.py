"""Which pairs train, validate and test: by whole subjects, by folds of subjects, or as the published experiment did."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from model.errors import InputError
from model.pairs import SPLITS
from model.splits import PAPER_COLLECTION, PAPER_TEST_PAIRS

SPLIT_KINDS = "subject, fold:K/N (such as fold:1/5) or paper"
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1
PAPER_VALIDATION_SHARE = 0.2

Entry = dict[str, Any]


@dataclass(frozen=True)
class Fold:
    """One of `count` folds of the subjects, `number` from 1."""

    number: int
    count: int


def parse_split(text: str, collection: str) -> str | Fold:
    """The kind of split that `text` names: "subject", "paper" or a fold.

    Raises InputError for anything else, and for the paper's split of a collection that the paper did not use.
    """
    if match := re.fullmatch(r"fold:(\d{1,9})/(\d{1,9})", text):
        fold = Fold(int(match[1]), int(match[2]))
        if fold.count < 2:
            raise InputError(f"split is {text}: {fold.count} folds leave nothing to train on; give two or more")
        if not 1 <= fold.number <= fold.count:
            raise InputError(f"split is {text}: there is no fold {fold.number} of {fold.count}; give 1 to {fold.count}")
        return fold
    if text not in ("subject", "paper"):
        raise InputError(f"unknown split {text!r}; choose {SPLIT_KINDS}")
    if text == "paper" and collection != PAPER_COLLECTION:
        raise InputError(f"the paper split is of {PAPER_COLLECTION} alone; split {collection} by subject or fold:K/N")
    return text


def split_subjects(subjects: Iterable[str], seed: int) -> dict[str, list[str]]:
    """Assign whole subjects to train, validation and test: a fifth to test, a tenth to validation, at least one each.

    The order is by a hash of seed and subject, so a subject that joins later moves few others. Raises InputError if
    there are fewer than three.
    """
    ranked = _ranked(subjects, seed)
    if len(ranked) < len(SPLITS):
        raise InputError(
            f"{len(ranked)} subjects cannot fill {len(SPLITS)} splits; a split by subject needs three or more"
        )
    test = max(1, round(len(ranked) * TEST_SHARE))
    validation = max(1, round(len(ranked) * VALIDATION_SHARE))
    return _assigned(ranked[:test], ranked[test : test + validation], ranked[test + validation :])


def fold_subjects(subjects: Iterable[str], seed: int, fold: Fold) -> dict[str, list[str]]:
    """Assign whole subjects to train, validation and test so that over all folds every subject tests exactly once.

    Subjects are dealt to the folds in the order of a hash of seed and subject; a tenth of all, at least one, validate,
    taken from the folds that follow. Raises InputError if there are more folds than subjects, or too few remain.
    """
    ranked = _ranked(subjects, seed)
    if fold.count > len(ranked):
        raise InputError(f"{fold.count} folds of {len(ranked)} subjects leave some empty; give {len(ranked)} at most")
    folds = [ranked[number :: fold.count] for number in range(fold.count)]
    test = folds[fold.number - 1]
    others = [subject for each in folds[fold.number :] + folds[: fold.number - 1] for subject in each]
    if len(others) < 2:
        raise InputError(
            f"fold {fold.number} of {fold.count} leaves {len(others)} of {len(ranked)} subjects for training and "
            "validation; give more folds or more subjects"
        )
    validation = max(1, round(len(ranked) * VALIDATION_SHARE))
    return _assigned(test, others[:validation], others[validation:])


def split_pairs(entries: list[Entry], by: str, seed: int, collection: str = PAPER_COLLECTION) -> dict[str, list[Entry]]:
    """The pairs of each split: by "subject", see `split_subjects`, by "fold:K/N", see `fold_subjects`, or as in the
    "paper".

    The paper's 20 test pairs are known by name; a fifth of the others, by a hash of seed and name, is for validation.
    Raises InputError for any other word, and where a pair of the paper is absent.
    """
    kind = parse_split(by, collection)
    if kind != "paper":
        names = (entry["subject"] for entry in entries)
        subjects = fold_subjects(names, seed, kind) if isinstance(kind, Fold) else split_subjects(names, seed)
        where = {subject: split for split, chosen in subjects.items() for subject in chosen}
        return {split: [entry for entry in entries if where[entry["subject"]] == split] for split in SPLITS}
    where = _paper_split({entry["name"] for entry in entries}, seed)
    return {split: [entry for entry in entries if where[entry["name"]] == split] for split in SPLITS}


def _paper_split(names: set[str], seed: int) -> dict[str, str]:
    if absent := [name for name in PAPER_TEST_PAIRS if name not in names]:
        raise InputError(f"the paper split needs the atlas: pair {absent[0]} is missing; split by subject")
    others = sorted(names - set(PAPER_TEST_PAIRS), key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    validation = set(others[: round(len(others) * PAPER_VALIDATION_SHARE)])
    return dict.fromkeys(PAPER_TEST_PAIRS, "test") | {
        name: "validation" if name in validation else "train" for name in others
    }


def _ranked(subjects: Iterable[str], seed: int) -> list[str]:
    return sorted(set(subjects), key=lambda subject: hashlib.sha256(f"{seed}:{subject}".encode()).hexdigest())


def _assigned(test: list[str], validation: list[str], train: list[str]) -> dict[str, list[str]]:
    return {"train": sorted(train), "validation": sorted(validation), "test": sorted(test)}
