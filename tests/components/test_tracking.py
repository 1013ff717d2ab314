"""The connection to MLflow leaves this process as it found it."""

import os

import mlflow
import pytest

from components.tracking import connected


@pytest.fixture
def unset(monkeypatch):
    """MLflow without an address, before and after."""
    mlflow.set_tracking_uri(None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield
    mlflow.set_tracking_uri(None)


@pytest.mark.parametrize("asked", ["", "other"])
def test_an_address_of_the_environment_ends_with_it(tmp_path, monkeypatch, unset, asked):
    named = f"sqlite:///{tmp_path}/mlflow.db"
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", named)
        with connected(asked and f"sqlite:///{tmp_path}/{asked}.db"):
            pass
        assert os.environ["MLFLOW_TRACKING_URI"] == named
    assert not mlflow.is_tracking_uri_set()


def test_one_connection_within_another_leaves_nothing_behind(tmp_path, unset):
    with connected(f"sqlite:///{tmp_path}/mlflow.db"), connected(""), connected(f"sqlite:///{tmp_path}/other.db"):
        pass
    assert "MLFLOW_TRACKING_URI" not in os.environ and not mlflow.is_tracking_uri_set()


def test_an_address_that_the_program_set_stays(tmp_path, unset):
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mine.db")
    with connected(f"sqlite:///{tmp_path}/mlflow.db"):
        pass
    assert mlflow.get_tracking_uri() == os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/mine.db"
    mlflow.set_tracking_uri(None)
    assert "MLFLOW_TRACKING_URI" not in os.environ
