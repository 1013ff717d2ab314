"""The champion of a registered model changes hands one at a time, whoever else is about to change it."""

import itertools
import json
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.register import aliases, succession
from components.register.succession import Overtaken, challenge, crown
from components.tracking import connected
from model.errors import InputError

ROOT = Path(__file__).parents[2]
BY_THE_GATE = {"reason": "better", "by": "gate"}


@pytest.fixture
def told(monkeypatch):
    """The events that the webhook was told of."""
    events = []
    monkeypatch.setattr(succession, "announced", lambda client, name, event: events.append(event))
    return events


@pytest.fixture(scope="module")
def mlflow_client(tmp_path_factory):
    """A client of an MLflow of its own on sqlite."""
    with connected(f"sqlite:///{tmp_path_factory.mktemp('aliases')}/mlflow.db") as client:
        yield client


@pytest.fixture
def client(mlflow_client, request):
    """The same, with a model `m` of four versions and no alias."""
    mlflow_client.create_registered_model("m")
    for _ in range(4):
        mlflow_client.create_model_version("m", source="file:///nowhere")
    yield mlflow_client
    mlflow_client.delete_registered_model("m")


def held(client) -> dict[str, str]:
    return {alias: str(version) for alias, version in client.get_registered_model("m").aliases.items()}


def claims(client) -> list[str]:
    return [key for key in client.get_registered_model("m").tags if key.startswith(aliases.CLAIM)]


class TestSuccession:
    def test_the_first_champion_succeeds_no_one(self, client):
        crown(client, "m", "1", over=None, **BY_THE_GATE)
        tags = client.get_model_version("m", "1").tags
        assert held(client) == {"champion": "1"} and not claims(client)
        assert tags.pop("promoted_at").endswith("+00:00") and '"action": "promoted"' in tags.pop("promotion_event")
        assert tags == {"promoted_over": "", "promoted_by": "gate", "promotion_reason": "better"}

    def test_the_one_before_is_the_previous_one(self, client):
        crown(client, "m", "1", over=None, **BY_THE_GATE)
        crown(client, "m", "2", over="1", **BY_THE_GATE)
        crown(client, "m", "4", over="2", reason="rolled out", by="ada")
        assert held(client) == {"champion": "4", "previous": "2"}
        assert client.get_model_version("m", "4").tags["promoted_by"] == "ada"

    @pytest.mark.parametrize(("over", "now"), [(None, "version 2"), ("1", "version 2"), ("3", "version 2")])
    def test_who_was_judged_against_another_is_overtaken(self, client, over, now):
        crown(client, "m", "2", over=None, **BY_THE_GATE)
        with pytest.raises(Overtaken, match=f"{now} became champion since version 4"):
            crown(client, "m", "4", over=over, **BY_THE_GATE)
        assert held(client) == {"champion": "2"} and not claims(client)
        assert not client.get_model_version("m", "4").tags

    def test_a_champion_withdrawn_meanwhile_is_said_so(self, client):
        with pytest.raises(Overtaken, match="m lost its champion"):
            crown(client, "m", "4", over="2", **BY_THE_GATE)

    def test_the_champion_itself_is_left_as_it_is(self, client):
        crown(client, "m", "1", over=None, **BY_THE_GATE)
        crown(client, "m", "1", over="3", reason="again", by="ada")
        assert held(client) == {"champion": "1"}
        assert client.get_model_version("m", "1").tags["promoted_by"] == "gate"

    def test_a_challenger_that_is_promoted_challenges_no_more(self, client):
        challenge(client, "m", "2", "no better")
        assert held(client) == {"challenger": "2"}
        assert client.get_model_version("m", "2").tags["gate_reason"] == "no better"
        crown(client, "m", "2", over=None, **BY_THE_GATE)
        assert held(client) == {"champion": "2"}

    def test_an_older_challenger_does_not_displace_a_newer_one(self, client):
        for version in ("3", "2"):
            challenge(client, "m", version, "no better")
        assert held(client) == {"challenger": "3"}


class TestClaims:
    def test_a_claim_of_a_process_that_was_killed_is_passed_over(self, client):
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            killed = aliases._process(process.pid)
            process.kill()
        client.set_registered_model_tag("m", "promotion.0", json.dumps(killed | {"time": time.time()}))
        client.set_registered_model_tag("m", "promotion.1", json.dumps({"time": 0.0}))
        client.set_registered_model_tag("m", "promotion.2", "by hand")
        crown(client, "m", "1", over=None, **BY_THE_GATE)
        assert held(client) == {"champion": "1"} and not claims(client)

    def test_a_claim_from_another_machine_is_waited_for(self, client, monkeypatch):
        client.set_registered_model_tag("m", "promotion.0", json.dumps({"machine": "other", "time": time.time()}))
        waited = []

        def sleep(seconds: float) -> None:
            waited.append(held(client))
            client.set_registered_model_alias("m", "champion", "3")
            client.delete_registered_model_tag("m", "promotion.0")

        monkeypatch.setattr(aliases.time, "sleep", sleep)
        with pytest.raises(Overtaken, match="version 3"):
            crown(client, "m", "1", over=None, **BY_THE_GATE)
        assert waited == [{}]

    def test_a_claim_that_could_not_be_withdrawn_stands_in_the_way_of_no_next_attempt(self, client, monkeypatch):
        def fail(*arguments):
            raise ConnectionError("cut")

        with monkeypatch.context() as patch:
            patch.setattr(client, "delete_registered_model_tag", fail)
            with pytest.raises(ConnectionError):
                crown(client, "m", "1", over=None, **BY_THE_GATE)
        assert len(claims(client)) == 1
        monkeypatch.setattr(aliases.time, "sleep", fail)
        crown(client, "m", "2", over="1", **BY_THE_GATE)
        assert held(client) == {"champion": "2", "previous": "1"} and not claims(client)

    def test_who_was_too_slow_writes_no_alias(self, client, monkeypatch):
        monkeypatch.setattr(aliases.Claim, "fresh", False)
        with pytest.raises(InputError, match="run it again"):
            crown(client, "m", "1", over=None, **BY_THE_GATE)
        assert held(client) == {} and not claims(client)


class Page(list):
    """All that a search finds, on one page."""

    token = None


class Registry:
    """What succession needs of MLflow, in memory: each call happens at once, as in a database."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}
        self.aliases: dict[str, str] = {}
        self.records: dict[str, dict[str, str]] = defaultdict(dict)
        self.champions: list[str] = []

    def get_registered_model(self, name):
        return SimpleNamespace(name=name, tags=dict(self.tags), aliases=dict(self.aliases))

    def search_registered_models(self, page_token=None):
        return Page([self.get_registered_model("m")])

    def get_model_version(self, name, version):
        tags = dict(self.records[version])
        return SimpleNamespace(name=name, version=version, tags=tags, run_id="", creation_timestamp=0)

    def search_model_versions(self, condition, page_token=None):
        return Page([self.get_model_version("m", str(number)) for number in range(5)])

    @property
    def history(self):
        return [json.loads(text) for key, text in sorted(self.tags.items()) if key.startswith("history.")]

    @property
    def claims(self):
        return [key for key in self.tags if key.startswith(aliases.CLAIM)]

    def set_registered_model_tag(self, name, key, value):
        self.tags[key] = value

    def delete_registered_model_tag(self, name, key):
        self.tags.pop(key, None)

    def set_model_version_tag(self, name, version, key, value):
        self.records[version][key] = value

    def set_registered_model_alias(self, name, alias, version):
        if alias == "champion":
            self.champions.append(version)
        self.aliases[alias] = version

    def delete_registered_model_alias(self, name, alias):
        self.aliases.pop(alias, None)


class Killed(BaseException):
    """The process is gone: nothing it meant to do still happens."""


class Actor(threading.Thread):
    """One process that means to crown a version; it does a call to the registry only when `step` lets it.

    It is killed before its call number `dies`.
    """

    def __init__(self, registry: Registry, version: str, dies: int | None) -> None:
        super().__init__(daemon=True)
        self.registry, self.version, self.dies = registry, version, dies
        self.turn, self.idle = threading.Semaphore(0), threading.Semaphore(0)
        self.calls, self.outcome, self.claims = 0, "", set()

    def run(self) -> None:
        try:
            crown(self, "m", self.version, over=None, **BY_THE_GATE)
            self.outcome = "crowned"
        except Overtaken:
            self.outcome = "overtaken"
        except Killed:
            self.outcome = "killed"
        self.idle.release()

    def step(self) -> None:
        self.turn.release()
        assert self.idle.acquire(timeout=60)

    def __getattr__(self, method):
        def call(*arguments, **words):
            self.idle.release()
            self.turn.acquire()
            self.calls += 1
            if self.dies is not None and self.calls > self.dies:
                for key in self.claims & set(self.registry.tags):
                    self.registry.tags[key] = json.dumps({"time": 0.0})  # as everyone sees it who knows it ended
                raise Killed
            if method == "set_registered_model_tag" and arguments[1].startswith(aliases.CLAIM):
                self.claims.add(arguments[1])
            return getattr(self.registry, method)(*arguments, **words)

        if method not in Registry.__dict__:
            raise AttributeError(method)
        return call


@settings(max_examples=400)
@given(
    actors=st.integers(2, 4),
    schedule=st.lists(st.integers(0, 3), max_size=60),
    deaths=st.lists(st.none() | st.integers(0, 30), min_size=4, max_size=4),
)
def test_of_many_at_once_one_becomes_champion_in_whatever_order_they_act(actors, schedule, deaths):
    registry, turns = Registry(), iter(schedule)
    everyone = [Actor(registry, str(number + 1), deaths[number]) for number in range(actors)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aliases.time, "sleep", lambda seconds: None)
        patch.setattr(succession, "announced", lambda *_: None)
        for actor in everyone:
            actor.start()
            assert actor.idle.acquire(timeout=60)
        for round in range(10_000):
            running = [actor for actor in everyone if not actor.outcome]
            if not running:
                break
            running[next(turns, round) % len(running)].step()
    outcomes = [actor.outcome for actor in everyone]
    assert all(outcomes) and len(registry.champions) <= 1 and outcomes.count("crowned") <= 1
    if "killed" not in outcomes:
        assert outcomes.count("crowned") == 1 and not registry.claims
    for actor in everyone:
        if actor.outcome == "crowned":
            assert registry.champions == [actor.version]
            assert registry.records[actor.version]["promoted_by"] == "gate"
            assert [event["version"] for event in registry.history] == [actor.version]


@pytest.mark.parametrize("action", ["promoted", "rolled back"])
@pytest.mark.parametrize("dies", range(40))
def test_a_change_cut_short_and_made_again_ends_as_an_uncut_one(dies, action, told):
    def crown_the_second(dies: int | None) -> tuple[Registry, list[str]]:
        registry, over = Registry(), "1" if action == "promoted" else "3"
        registry.aliases = {"champion": over, "previous": "0", "challenger": "2"}
        for place, version in enumerate(("1",) if action == "promoted" else ("1", "2", "3")):
            event = {"action": "promoted", "version": version, "over": None, "reason": "", "by": "", "at": ""}
            registry.tags[f"history.{place}"] = json.dumps(event)
        cut = SimpleNamespace(after=dies, calls=itertools.count())

        def call(method):
            def limited(*arguments, **words):
                if cut.after is not None and next(cut.calls) >= cut.after:
                    for key in registry.claims:
                        registry.tags[key] = "of a process that ended"
                    raise Killed
                return getattr(registry, method)(*arguments, **words)

            return limited

        methods = {method: call(method) for method in Registry.__dict__ if method[0] != "_"}
        client, words = SimpleNamespace(**methods), {"over": over, "action": action, **BY_THE_GATE}
        told.clear()
        try:
            crown(client, "m", "2", **words)
        except Killed:
            cut.after = None
            crown(client, "m", "2", **words)
        return registry, [event.version for event in told]

    (again, told_again), (uncut, told_uncut) = crown_the_second(dies), crown_the_second(None)
    assert again.aliases == uncut.aliases == {"champion": "2", "previous": "1"}
    assert again.claims == uncut.claims == []
    assert again.records["2"].keys() == uncut.records["2"].keys()
    happened = [(event["action"], event["version"], event["over"]) for event in again.history]
    assert happened == [(event["action"], event["version"], event["over"]) for event in uncut.history]
    assert happened[-1][:2] == (action, "2") and told_again in (told_uncut, [])  # killed between history and webhook


RACER = """
import sys
from components.register.succession import Overtaken, crown
from components.tracking import connected
with connected(sys.argv[1]) as client:
    print("ready", flush=True)
    for name in map(str.strip, sys.stdin):
        try:
            crown(client, name, sys.argv[2], over=None, reason="better", by="gate")
            print("crowned", flush=True)
        except Overtaken:
            print("overtaken", flush=True)
"""


@pytest.mark.integration
def test_of_two_processes_on_one_mlflow_one_promotes(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    names = [f"m{number}" for number in range(8)]
    with connected(uri) as client:
        for name in names:
            client.create_registered_model(name)
            for _ in range(2):
                client.create_model_version(name, source="file:///nowhere")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
        racers = [subprocess.Popen([sys.executable, "-c", RACER, uri, version], **pipes) for version in ("1", "2")]
        try:
            assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 2
            for name in names:
                for racer in racers:
                    racer.stdin.write(f"{name}\n")
                    racer.stdin.flush()
                outcomes = [racer.stdout.readline().strip() for racer in racers]
                assert sorted(outcomes) == ["crowned", "overtaken"]
                model = client.get_registered_model(name)
                assert model.aliases == {"champion": 1 + outcomes.index("crowned")}
                assert [key.partition(".")[0] for key in model.tags] == ["history"]
        finally:
            for racer in racers:
                racer.communicate()
