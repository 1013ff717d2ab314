"""`fusion models` promote, rollback and retire against a real registry, cut short too; and whom the webhook tells."""

import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.register import aliases, history, operations, webhook
from components.register.catalogue import choose
from components.register.history import PROMOTED, Event, champions
from components.register.succession import Overtaken
from components.tracking import connected
from model.errors import InputError
from tests.mlflow_servers import Quiet, free_port, serving
from tests.versions import WHO, promote, registered, standing

ROOT = Path(__file__).parents[3]
KILLED_BEFORE_ITS_LAST_WORD = """
import os, signal, sys
from components.register import succession
from pipelines.cli import main
succession.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sys.argv = sys.argv[1:]
main()
"""


class Dying:
    """A client of MLflow whose connection breaks after so many writes."""

    def __init__(self, client, after):
        self.client, self.left = client, after

    def __getattr__(self, method):
        def call(*arguments):
            if method.startswith(("set_", "delete_")):
                self.left -= 1
                if self.left < 0:
                    raise ConnectionError("cut")
            return getattr(self.client, method)(*arguments)

        return call if method.startswith(("set_", "delete_")) else getattr(self.client, method)


class TestChampion:
    def test_rollback_goes_back_step_by_step_and_previous_names_the_next(self, heirs, models, refused):
        seen = []
        for _ in range(2):
            done = models("rollback", "--model-name", heirs.name, "--yes", "--reason", "it blurs")
            assert done.returncode == 0, done
            seen.append(standing(heirs.client, heirs.name))
        assert seen == [{"champion": "2", "previous": "1"}, {"champion": "1"}]
        line = refused("models", "rollback", "--model-name", heirs.name, "--yes")
        assert f"no champion of {heirs.name} came before version 1" in line
        assert standing(heirs.client, heirs.name) == {"champion": "1"}
        _, facts = models("show", "1", "--model-name", heirs.name, json_=True)
        last = facts["history"][-1]
        assert (last["action"], last["over"], last["reason"], last["by"]) == (
            "rolled back",
            "2",
            "it blurs",
            operations.user(),
        )

    def test_after_a_rollback_a_new_champion_leads_back_past_the_bad_one(self, heirs, models):
        models("rollback", "--model-name", heirs.name, "--yes")
        models("promote", "4", "--model-name", heirs.name, "--reason", "new", "--yes")
        assert standing(heirs.client, heirs.name) == {"champion": "4", "previous": "2"}
        models("promote", "3", "--model-name", heirs.name, "--reason", "mended", "--yes")
        order = []
        for _ in range(3):
            models("rollback", "--model-name", heirs.name, "--yes")
            order.append(standing(heirs.client, heirs.name)["champion"])
        assert order == ["4", "2", "1"]

    def test_rollback_passes_over_the_retired(self, heirs, models):
        assert models("retire", "2", "--model-name", heirs.name, "--reason", "consent", "--yes").returncode == 0
        assert standing(heirs.client, heirs.name) == {"champion": "3", "previous": "1"}
        models("rollback", "--model-name", heirs.name, "--yes")
        assert standing(heirs.client, heirs.name) == {"champion": "1"}

    def test_what_another_did_while_the_user_was_asked_counts(self, heirs):
        client, name = heirs.client, heirs.name
        two, four = (choose(client, number, name) for number in ("2", "4"))
        promote(client, name, "4")
        with pytest.raises(InputError, match="version 4 is the champion"):
            operations.retire(client, four, without_champion=False, reason="r", by="bob")
        assert not choose(client, "4", name).retired
        operations.retire(client, two, without_champion=False, reason="consent", by="ann")
        with pytest.raises(InputError, match=r"version 2 of .* is retired"):
            operations.promote(client, two, over="4", reason="x", by="bob")
        with pytest.raises(InputError, match=r"version 2 of .* is retired"):
            operations.rollback(client, name, over="4", to="2", reason="x", by="bob")
        assert standing(client, name)["champion"] == "4"

    def test_retiring_takes_aliases_keeps_lineage_and_bars_promotion(self, heirs, models, refused):
        heirs.client.set_registered_model_alias(heirs.name, "challenger", "4")
        assert (
            "no longer challenger" in models("retire", "4", "--model-name", heirs.name, "--reason", "r", "--yes").stdout
        )
        assert "challenger" not in standing(heirs.client, heirs.name)
        tags = heirs.client.get_model_version(heirs.name, "4").tags
        assert tags["retired_reason"] == "r" and tags["retired_by"] == operations.user() and tags["retired_at"]
        line = refused("models", "promote", "4", "--model-name", heirs.name, "--reason", "x", "--yes")
        assert "is retired (r)" in line and f"retire models:/{heirs.name}/4 --undo --reason ...`" in line
        assert "retired already" in refused(
            "models", "retire", "4", "--model-name", heirs.name, "--reason", "r", "--yes"
        )
        models("retire", "4", "--model-name", heirs.name, "--reason", "cleared", "--undo", "--yes")
        assert models("promote", "4", "--model-name", heirs.name, "--reason", "x", "--yes").returncode == 0
        assert "not retired" in refused("models", "retire", "4", "--model-name", heirs.name, "--reason", "r", "--undo")

    def test_the_champion_retires_only_if_the_model_may_be_without_one(self, heirs, models, refused):
        line = refused("models", "retire", "champion", "--model-name", heirs.name, "--reason", "r", "--yes")
        assert "fusion models rollback" in line and "--no-champion" in line
        assert standing(heirs.client, heirs.name) == {"champion": "3", "previous": "2"}
        models("retire", "champion", "--model-name", heirs.name, "--reason", "r", "--no-champion", "--yes")
        assert standing(heirs.client, heirs.name) == {"previous": "2"}
        models("rollback", "--model-name", heirs.name, "--yes")
        assert standing(heirs.client, heirs.name) == {"champion": "2", "previous": "1"}

    def test_who_was_overtaken_changes_nothing(self, heirs):
        before = history.events(heirs.client, heirs.name)
        with pytest.raises(Overtaken):
            operations.rollback(heirs.client, heirs.name, over="2", to="1", reason="late", by="bob")
        assert standing(heirs.client, heirs.name) == {"champion": "3", "previous": "2"}
        assert history.events(heirs.client, heirs.name) == before

    def test_a_rollback_that_was_killed_goes_no_further_when_it_is_run_again(self, heirs, models, store):
        command = [sys.executable, "-c", KILLED_BEFORE_ITS_LAST_WORD, "fusion", "models", "rollback", "--yes"]
        killed = subprocess.run([*command, "--model-name", heirs.name, "--runs", str(store.runs)], cwd=ROOT)
        assert killed.returncode == -signal.SIGKILL
        assert standing(heirs.client, heirs.name)["champion"] == "2"
        _, facts = models("show", "2", "--model-name", heirs.name, json_=True)
        assert [event["action"] for event in facts["history"]].count("rolled back") == 1
        done = models("rollback", "--model-name", heirs.name, "--yes")
        assert "version 2 is the champion again: what was cut short is complete now; run it again" in done.stdout
        assert standing(heirs.client, heirs.name) == {"champion": "2", "previous": "1"}
        log = history.written(heirs.client, heirs.name)
        assert [(event.action, event.version) for event in log][3:] == [("rolled back", "2")]
        models("rollback", "--model-name", heirs.name, "--yes")
        assert standing(heirs.client, heirs.name) == {"champion": "1"}

    def test_retiring_the_champion_waits_for_who_is_changing_it(self, heirs, monkeypatch):
        client, name = heirs.client, heirs.name
        client.set_registered_model_tag(name, "promotion.0", json.dumps({"machine": "other", "time": time.time()}))

        def meanwhile(seconds):
            client.delete_registered_model_tag(name, "promotion.0")
            client.set_registered_model_alias(name, "champion", "4")

        monkeypatch.setattr(aliases.time, "sleep", meanwhile)
        operations.retire(client, choose(client, "3", name), without_champion=True, reason="r", by="ann")
        assert standing(client, name) == {"champion": "4", "previous": "2"}

    @pytest.mark.parametrize("dies", range(8))
    @pytest.mark.parametrize("action", ["retired", "restored"])
    def test_what_was_cut_short_in_retiring_and_restoring_goes_on(self, heirs, action, dies):
        client, name, who = heirs.client, heirs.name, {"reason": "consent", "by": "ann"}
        two = choose(client, "2", name)

        def act(through):
            if action == "retired":
                operations.retire(through, two, without_champion=False, **who)
            else:
                operations.restore(through, two, **who)

        if action == "restored":
            operations.retire(client, two, without_champion=False, **who)
        with suppress(ConnectionError):
            act(Dying(client, dies))
        with suppress(InputError):  # nothing was left to do
            act(client)
        log = [event.action for event in history.written(client, name) if event.version == "2"]
        assert log == ["promoted", "retired", "restored"][: 2 if action == "retired" else 3]
        assert choose(client, "2", name).retired == (action == "retired")
        assert standing(client, name) == {"champion": "3", "previous": "1" if action == "retired" else "2"}
        assert not any(key.startswith(aliases.CLAIM) for key in client.get_registered_model(name).tags)

    def test_promoting_the_champion_is_no_change(self, heirs, models):
        before = history.events(heirs.client, heirs.name)
        assert "champion already" in models("promote", "3", "--model-name", heirs.name, "--reason", "x", "--yes").stdout
        assert history.events(heirs.client, heirs.name) == before

    def test_champions_from_before_there_was_a_log_count(self, store, models):
        with connected(store.uri) as client:
            client.create_registered_model("older")
            for word in ("promoted", "refused", "promoted", "promoted"):
                client.create_model_version("older", source="elsewhere", tags={"gate": word})
            client.set_registered_model_alias("older", "champion", "4")
            client.set_registered_model_alias("older", "previous", "3")
            for expected in ({"champion": "3", "previous": "1"}, {"champion": "1"}):
                models("rollback", "--model-name", "older", "--yes")
                assert standing(client, "older") == expected
            client.delete_registered_model("older")

    def test_a_champion_set_in_mlflow_s_page_is_gone_back_from_too(self, heirs, models):
        heirs.client.set_registered_model_alias(heirs.name, "champion", "4")
        models("rollback", "--model-name", heirs.name, "--yes")
        assert standing(heirs.client, heirs.name)["champion"] == "3"

    def test_nobody_there_to_be_asked_changes_nothing(self, heirs, models, refused):
        for command in (("promote", "1", "--reason", "x"), ("rollback",), ("retire", "2", "--reason", "x")):
            assert "--yes" in refused("models", *command, "--model-name", heirs.name)
        assert "the reason is empty" in refused(
            "models", "promote", "1", "--model-name", heirs.name, "--reason", " ", "--yes"
        )
        assert standing(heirs.client, heirs.name) == {"champion": "3", "previous": "2"}

    def test_a_log_with_a_gap_still_leads_back(self):
        log = [Event(PROMOTED, "5", "4", "", "gate", ""), Event("rolled back", "4", "5", "", "ann", "")]
        assert champions(log, ["1", "2"], "4") == ["1", "2", "4"]
        assert champions([], [], None) == []


class TestWebhook:
    @pytest.fixture
    def hook(self, monkeypatch):
        """A real HTTP server at a secret address, which answers with the statuses asked for, then 200."""
        made = SimpleNamespace(statuses=[], posts=[])

        class Handler(Quiet):
            def do_POST(self):  # noqa: N802
                content = self.rfile.read(int(self.headers["Content-Length"]))
                made.posts.append((self.path, json.loads(content)))
                self.send_response(made.statuses.pop(0) if made.statuses else 200)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            do_GET = do_POST  # noqa: N815

        with serving(Handler) as address:
            monkeypatch.setenv("ATLAS_FUSION_WEBHOOK", f"http://{address}/T0/s3cret")
            monkeypatch.setattr(webhook, "SECONDS_BETWEEN", 0.0)
            yield made

    def test_it_hears_who_is_champion_in_words_and_in_fields(self, heirs, models, hook):
        models("promote", "4", "--model-name", heirs.name, "--reason", "<!channel> a & b", "--yes")
        ((path, said),) = hook.posts
        assert path == "/T0/s3cret"
        assert said["text"].startswith(
            f"{heirs.name} version 4 is champion, in place of version 3: &lt;!channel&gt; a &amp; b"
        )
        fields = {"event": "promoted", "model": heirs.name, "version": "4", "previous_champion": "3"}
        assert fields.items() <= said.items() and said["by"] == operations.user() and said["at"]
        models("rollback", "--model-name", heirs.name, "--yes")
        assert (hook.posts[1][1]["event"], hook.posts[1][1]["version"]) == ("rolled_back", "3")

    def test_it_hears_the_gate_with_the_measures_and_nothing_of_a_refusal(self, store, hook):
        registered(store, "announced", 9, 0.5, WHO["1"])
        registered(store, "announced", 10, 0.45, WHO["1"], champion=("1", 0.5))
        ((_, said),) = hook.posts
        assert (said["by"], said["version"], said["measures"]["vif"]) == ("gate", "1", 0.5)
        assert said["uri"] == "models:/announced/1" and said["previous_champion"] is None
        with connected(store.uri) as client:
            client.delete_registered_model("announced")

    @pytest.mark.parametrize(
        ("statuses", "posts", "line"),
        [
            ([500, 429], 3, ""),
            ([503, 503, 503], 3, "HTTP 503, 3 attempts"),
            ([404], 1, "HTTP 404"),
            ([302], 1, "HTTP 302"),
        ],
    )
    def test_a_failing_one_is_tried_again_told_in_a_line_and_stops_nothing(
        self, heirs, models, hook, statuses, posts, line
    ):
        hook.statuses += statuses
        done = models("promote", "4", "--model-name", heirs.name, "--reason", "x", "--yes")
        assert done.returncode == 0 and standing(heirs.client, heirs.name)["champion"] == "4"
        assert len(hook.posts) == posts
        assert done.stderr.count("\n") == bool(line) and line in done.stderr
        assert "s3cret" not in done.stderr + done.stdout and "127.0.0.1" not in done.stderr

    @pytest.mark.parametrize("url", ["http://127.0.0.1:{}/s3cret", "s3cret", "http://[s3cret", "https://s3cret@:x/"])
    def test_an_address_that_cannot_be_reached_is_not_told(self, heirs, models, monkeypatch, url):
        monkeypatch.setenv("ATLAS_FUSION_WEBHOOK", url.format(free_port()))
        monkeypatch.setattr(webhook, "SECONDS_BETWEEN", 0.0)
        done = models("promote", "4", "--model-name", heirs.name, "--reason", "x", "--yes")
        assert done.returncode == 0 and done.stderr.count("\n") == 1
        assert "webhook not told" in done.stderr and "s3cret" not in done.stderr
