"""Versions of registered models whose data, splits and measures a test knows, and what it asks of a registry."""

import hashlib
import json

from components.register import operations
from components.register.aliases import champion
from components.register.catalogue import choose
from tests.registered import make_folders, make_table, register

FIRST, SECOND = ("0" * 32 + ".dir", "1" * 32 + ".dir")
WHO = {
    "1": {"train": ("1001", "1002", "2001", "2002"), "validation": ("3001",), "test": ("9001",)},
    "2": {"train": ("1001", "1002", "2001", "4001"), "validation": ("3001",), "test": ("9001",)},
    "3": {"train": ("1001", "1002", "3001", "4001"), "validation": ("2001",), "test": ("9001",)},
}
OTHER = {"train": ("1001", "5001"), "validation": ("6001",), "test": ("9001",)}


def md5(*parts):
    return hashlib.md5("/".join(parts).encode()).hexdigest()


def pairs(names, edition, hashed=True):
    entries = [{"name": name, "subject": name[:-3], "slice": int(name[-3:])} for name in names]
    if hashed:
        for entry in entries:
            changed = edition if entry["name"] == "1001" else FIRST
            entry["md5"] = [md5(modality, entry["name"], changed) for modality in ("first", "MRI")]
    return entries


def registered(store, name, seed, value, splits, edition=FIRST, champion=None, collection="CT-MRI", **training):
    """A version made as the pipeline makes it, of a packed dataset that says who is in which split."""
    table = make_table(value, champion=champion) | {"dataset_version": edition}
    folders = make_folders(store.root / f"{name}-{seed}", seed, table=table)
    index = json.loads((folders.packed / "index.json").read_text())
    index |= {"dataset_version": edition, "collection": collection, "source": "phantom"}
    index |= {"split": {"by": "subject", "seed": 0}, "modalities": [collection[:-4], "MRI"]}
    index["splits"] = {split: pairs(names, edition) for split, names in splits.items()}
    (folders.packed / "index.json").write_text(json.dumps(index))
    facts = json.loads((folders.model / "training.json").read_text()) | {"dataset_version": edition} | training
    (folders.model / "training.json").write_text(json.dumps(facts))
    return register(folders, store.uri, name)


def promote(client, name, number):
    over = champion(client, name)
    operations.promote(client, choose(client, number, name), over=over, reason="better", by="ann")


def standing(client, name):
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}
