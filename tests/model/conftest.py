"""A folder of checkpoints, and what it reports."""

import pytest

from model.checkpoint import CheckpointFolder
from tests.checkpoints import IDENTITY


@pytest.fixture
def lines():
    return []


@pytest.fixture
def place(tmp_path, lines):
    return CheckpointFolder(tmp_path / "a" / "checkpoints", IDENTITY, report=lines.append)
