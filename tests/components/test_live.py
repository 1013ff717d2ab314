"""Live logging of a training to MLflow: each point once, whatever happens to the server, the way to it or training."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.tracking import connected
from components.train.journal import read_events
from components.train.live import Delivery, LiveRun
from components.train.sender import Control, send
from model.errors import InputError
from tests.mlflow_servers import Server, bad_server, forgetful_proxy, until

ROOT = Path(__file__).parents[2]
PIXELS = np.arange(64 * 48, dtype=np.uint32).reshape(64, 48).astype(np.uint8)
KILLED_TRAINING = """
import os, signal, sys
from pathlib import Path
from threading import Event
from components.train.live import LiveRun
live = LiveRun(sys.argv[1], "live", "killed", Path(sys.argv[2]))
for step in range(1, 21):
    live.metrics({"loss": 1 / step}, step)
while live.run_id is None:
    Event().wait(0.1)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    try:
        until(server.answers)
        yield server
    finally:
        server.kill()


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with connected(server.uri) as client:
        yield client


@pytest.fixture
def sending(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., bool]:
    """The sender's work in this process, for a training that has ended."""
    for name, value in {"MAX_RETRIES": "0", "TIMEOUT": "60"}.items():
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)

    def start(folder: Path, uri: str = server.uri, seconds: float = 300.0) -> bool:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        return send(folder, Control(seconds))

    return start


def offline(folder: Path, steps: range, name: str = "loss", experiment: str = "live") -> str:
    """A training whose journal nobody has sent yet."""
    with LiveRun("", experiment, "offline", folder) as live:
        for step in steps:
            live.metrics({name: step / 10}, step)
    return name


def run_of(folder: Path) -> str:
    return json.loads((folder / "mlflow_run.json").read_text())["run_id"]


def steps_of(client: Any, run_id: str, key: str = "loss") -> list[int]:
    return sorted(point.step for point in client.get_metric_history(run_id, key))


def images_of(client: Any, run_id: str) -> list[str]:
    return sorted(file.path for file in client.list_artifacts(run_id, "images"))


@pytest.mark.integration
class TestServerKilled:
    def test_every_point_and_image_is_there_once(
        self, server: Server, client: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        live = LiveRun(server.uri, "live", "first", tmp_path, {"profile": "quick"}, {"seed": "1"})
        live.metrics({"loss": 1.0, "lr": 0.1}, 1)
        live.image("validation/pair 1", PIXELS, 1)
        run_id = until(lambda: live.run_id)
        until(lambda: images_of(client, run_id))
        server.kill()
        live.metrics({"loss": 0.5, "lr": float("nan")}, 2)
        until(lambda: "does not answer" in capfd.readouterr().err)
        for step in range(3, 2503):
            live.metrics({"loss": 1 / step, "lr": 0.1}, step)
        live.image("validation/pair 1", PIXELS, 2502)
        server.start()
        until(lambda: "answers again" in capfd.readouterr().err)
        live.metrics({"loss": 0.0, "lr": 0.1}, 2503)
        assert live.close(seconds=300) == Delivery(2 * 2503 + 2, 0)
        assert steps_of(client, run_id) == steps_of(client, run_id, "lr") == list(range(1, 2504))
        assert [name.rpartition(".")[2] for name in images_of(client, run_id)] == ["webp", "png"] * 2
        assert [int(name.split("+")[2]) for name in images_of(client, run_id)] == [1, 1, 2502, 2502]
        run = client.get_run(run_id)
        assert (run.info.status, run.info.run_name, run.data.params) == ("FINISHED", "first", {"seed": "1"})
        assert run.data.tags["profile"] == "quick" and run.data.tags["mlflow.loggedImages"] == "True"
        assert capfd.readouterr() == ("", "")

    def test_a_batch_whose_answer_was_lost_is_there_once(
        self, server: Server, client: Any, tmp_path: Path, sending: Callable[..., bool]
    ) -> None:
        offline(tmp_path, range(1, 1501))
        with forgetful_proxy(server.uri) as (proxy, dropped):
            assert sending(tmp_path, proxy)
        assert dropped == {"runs/create", "runs/log-batch"}
        run_id = run_of(tmp_path)
        assert steps_of(client, run_id) == list(range(1, 1501))
        (experiment,) = client.search_experiments(filter_string="name = 'live'")
        key = client.get_run(run_id).data.tags["atlas-fusion.live"]
        found = client.search_runs([experiment.experiment_id], f"tags.`atlas-fusion.live` = '{key}'")
        assert [run.info.run_id for run in found] == [run_id]


@pytest.mark.integration
class TestResume:
    def test_a_killed_training_goes_on_in_its_run_and_repeats_no_step(
        self, server: Server, client: Any, tmp_path: Path
    ) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", KILLED_TRAINING, server.uri, str(tmp_path)]
        assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
        run_id = run_of(tmp_path)
        until(lambda: client.get_run(run_id).info.status == "KILLED")
        assert steps_of(client, run_id) == list(range(1, 21))
        with LiveRun(server.uri, "live", "killed", tmp_path) as live:
            until(lambda: client.get_run(run_id).info.status == "RUNNING")
            for step in range(11, 31):
                live.metrics({"loss": 2 / step}, step)
            assert live.close(seconds=300) == Delivery(30, 0)
        assert live.run_id == run_id
        assert steps_of(client, run_id) == list(range(1, 31))
        assert client.get_run(run_id).info.status == "FINISHED"

    def test_on_another_machine_the_run_file_alone_is_enough(
        self, client: Any, tmp_path: Path, sending: Callable[..., bool]
    ) -> None:
        first, second = tmp_path / "first", tmp_path / "second"
        offline(first, range(1, 11))
        with LiveRun("", "live", "offline", first) as live:
            live.image("pair", PIXELS, 5)
        assert sending(first)
        second.mkdir()
        (second / "mlflow_run.json").write_text((first / "mlflow_run.json").read_text())
        offline(second, range(6, 16))
        with LiveRun("", "live", "offline", second) as live:
            live.image("pair", PIXELS, 5)
            live.image("pair", PIXELS, 15)
        assert sending(second)
        assert run_of(second) == run_of(first)
        assert steps_of(client, run_of(first)) == list(range(1, 16))
        assert len(images_of(client, run_of(first))) == 4

    def test_what_could_not_be_sent_is_sent_later_by_hand(self, server: Server, client: Any, tmp_path: Path) -> None:
        offline(tmp_path, range(1, 6))
        command = [sys.executable, "-m", "components.train.sender", str(tmp_path), "--seconds", "60"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": server.uri}
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (0, "everything is sent\n")
        assert steps_of(client, run_of(tmp_path)) == list(range(1, 6))

    def test_a_deleted_run_gives_way_to_a_new_one_with_everything(
        self, client: Any, tmp_path: Path, sending: Callable[..., bool], capfd: pytest.CaptureFixture[str]
    ) -> None:
        offline(tmp_path, range(1, 6))
        assert sending(tmp_path)
        old = run_of(tmp_path)
        client.delete_run(old)
        offline(tmp_path, range(6, 11))
        assert sending(tmp_path)
        assert f"no run {old}" in capfd.readouterr().err
        assert run_of(tmp_path) != old
        assert steps_of(client, run_of(tmp_path)) == list(range(1, 11))


class TestServerThatRefuses:
    @pytest.mark.parametrize(
        ("kind", "told"),
        [
            ("401", "MLFLOW_TRACKING_TOKEN"),
            ("500", "answers 500"),
            pytest.param("silent", "does not answer", marks=pytest.mark.integration),
        ],
    )
    def test_training_goes_on_and_what_is_lost_is_told(
        self, tmp_path: Path, kind: str, told: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with bad_server(kind) as address:
            uri = f"http://me:secret@{address}"
            live = LiveRun(uri, "live", "refused", tmp_path)
            for step in range(100):
                live.metrics({"loss": 0.1}, step)
            live.image("pair", PIXELS, 99)
            lines = ""

            def said() -> bool:
                nonlocal lines
                lines += capfd.readouterr().err
                return told in lines

            until(said)
            assert live.close(seconds=1) == Delivery(0, 101)
            assert live.close() == Delivery(0, 101)
        assert live.run_id is None
        lines += capfd.readouterr().err
        first, last = lines.splitlines()
        assert f"wait in {tmp_path}/live.jsonl" in first
        assert "101 points" in last and f"{tmp_path}/live.jsonl" in last
        assert "secret" not in lines

    @pytest.mark.parametrize("status", [401, 500])
    def test_health_is_fine_but_the_rest_refuses(
        self, tmp_path: Path, status: int, sending: Callable[..., bool], capfd: pytest.CaptureFixture[str]
    ) -> None:
        offline(tmp_path, range(3))
        with bad_server(str(status), healthy=True) as address:
            assert not sending(tmp_path, f"http://{address}", seconds=0.5)
        (line,) = capfd.readouterr().err.splitlines()
        assert str(status) in line and "live.jsonl" in line

    def test_a_deleted_experiment_is_named_and_all_is_sent_once_it_is_restored(
        self, client: Any, tmp_path: Path, sending: Callable[..., bool], capfd: pytest.CaptureFixture[str]
    ) -> None:
        experiment = client.create_experiment("dropped")
        client.delete_experiment(experiment)
        offline(tmp_path, range(1, 4), experiment="dropped")
        assert not sending(tmp_path, seconds=0.5)
        advice = f"restore it by `mlflow experiments restore --experiment-id {experiment}`"
        assert f"'dropped' is deleted in MLflow; {advice}" in capfd.readouterr().err
        client.restore_experiment(experiment)
        assert sending(tmp_path)
        assert steps_of(client, run_of(tmp_path)) == [1, 2, 3]

    def test_a_name_mlflow_cannot_take_costs_only_itself(
        self, client: Any, tmp_path: Path, sending: Callable[..., bool], capfd: pytest.CaptureFixture[str]
    ) -> None:
        with LiveRun("", "live", "names", tmp_path) as live:
            for step in range(1, 51):
                live.metrics({"loss": 0.1, "50%": 0.5, "lr": 0.1}, step)
        assert sending(tmp_path)
        assert steps_of(client, run_of(tmp_path)) == steps_of(client, run_of(tmp_path), "lr") == list(range(1, 51))
        state = json.loads((tmp_path / "live.state.json").read_text())
        assert (state["sent"], state["lost"]) == (100, 50)
        assert "'50%'" in capfd.readouterr().err


class TestWithoutMlflow:
    def test_the_journal_and_the_images_are_still_written(self, tmp_path: Path) -> None:
        with LiveRun("", "live", "none", tmp_path) as live:
            live.metrics({"loss": 0.5}, 1)
            live.image("pair", PIXELS, 1)
        events = [event for event, _ in read_events(tmp_path, 0)]
        assert [event.get("status") for event in events] == ["RUNNING", None, None, "FINISHED"]
        assert events[1]["metrics"] == {"loss": 0.5}
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / events[2]["file"])), PIXELS)
        assert live.close() == Delivery(0, 0) and live.run_id is None

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (None, "FINISHED"),
            (SystemExit(0), "FINISHED"),
            (ValueError(), "FAILED"),
            (InputError(), "FAILED"),
            (SystemExit(75), "KILLED"),
            (KeyboardInterrupt(), "KILLED"),
        ],
    )
    def test_how_training_ends_is_how_the_run_ends(
        self, tmp_path: Path, error: BaseException | None, status: str
    ) -> None:
        with nullcontext() if error is None else pytest.raises(type(error)), LiveRun("", "live", "none", tmp_path):
            if error:
                raise error
        assert [event["status"] for event, _ in read_events(tmp_path, 0)] == ["RUNNING", status]

    def test_a_full_disk_and_what_is_no_number_stop_nothing(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "live.jsonl").symlink_to("/dev/full")
        with LiveRun("", "live", "full", tmp_path) as live:
            live.metrics({"loss": 0.5, "lr": 0.1}, 1)
            live.image("pair", PIXELS.astype(float), 1)
            live.metrics({"loss": "much"}, 2)
        (line,) = capfd.readouterr().err.splitlines()
        assert "No space left" in line and "training goes on" in line

    def test_half_a_line_of_a_full_disk_spoils_no_other(self, tmp_path: Path) -> None:
        offline(tmp_path, range(1, 3))
        with (tmp_path / "live.jsonl").open("a") as file:
            file.write('{"t": 1, "step": 3, "metr')
        offline(tmp_path, range(4, 5))
        events = [event for event, _ in read_events(tmp_path, 0)]
        assert [event["step"] for event in events if "metrics" in event] == [1, 2, 4]

    def test_a_folder_that_cannot_be_written_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="cannot be written"):
            LiveRun("", "live", "none", tmp_path / "file" / "below")


def test_an_image_has_the_name_by_which_mlflow_knows_a_series(
    client: Any, tmp_path: Path, sending: Callable[..., bool]
) -> None:
    with LiveRun("", "live", "series", tmp_path) as live:
        live.image("validation/pair 1", PIXELS, 7)
    assert sending(tmp_path)
    ours = images_of(client, run_of(tmp_path))
    run = client.create_run(client.get_run(run_of(tmp_path)).info.experiment_id)
    client.log_image(run.info.run_id, PIXELS, key="validation/pair 1", step=7)
    unique = r"timestamp\+\d{13}\+[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    theirs = images_of(client, run.info.run_id)
    assert [re.sub(unique, "", name) for name in ours] == [re.sub(unique, "", name) for name in theirs]
