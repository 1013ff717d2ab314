"""`fusion sweep` refuses before it trains what cannot be searched, and plans what can."""

from pathlib import Path

import pytest
import yaml

from pipelines.parameters import Parameters
from pipelines.search import plan_search

ROOT = Path(__file__).resolve().parents[2]


def test_what_cannot_be_searched_is_one_line_before_anything_starts(tmp_path, refused):
    cases = {
        (): "nothing to search: give an option several values",
        ("--width", "32,64", "--measure", "beauty"): "unknown measure 'beauty'; choose loss or one of psnr",
        ("--width", "32,64", "--network", "msrpan"): "width is 32, but msrpan comes in 64 only",
        ("--width", "32,64", "--trials", "3"): "trials is 3, the grid has 2",
        ("--width", "32,64", "--parallel", "500"): "500 trials of 2 processes need 1000",
        ("--epochs", "1,1"): "epochs has the value 1 twice",
        ("--epochs", "1,x"): "epochs is '1,x'; give whole numbers",
        ("--gradient-weight", "0,1", "--measure", "loss"): "losses of different meaning",
        ("--learning-rate", "1e-3,7"): "learning rate is 7",
        ("--learning-rate", "1e-3,1e-4", "--data", "absent"): "no such data folder: absent",
    }
    for options, said in cases.items():
        assert said in refused("sweep", *options), options
    assert list(tmp_path.iterdir()) == []


def test_the_help_says_which_options_take_several_values(fusion):
    said = fusion("sweep", "--help").stdout
    assert all(f"--{name} VALUE,..." in said for name in ("learning-rate", "width", "gradient-weight", "schedule"))
    assert "--seed <int>" in said and "--data <str>" in said


def test_a_search_is_known_by_its_trials_and_its_data(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def key(given: dict[str, object], trials: int = 0, measure: str = "qabf", parallel: int = 1) -> str:
        return plan_search("quick", {"width": "32,64", "processes": 1} | given, measure, trials, parallel).key

    assert key({}) == key({}, measure="ssim") == key({"strategies": "sfnn"})
    others = [key({"width": "32,48"}), key({"split_seed": 1}), key({"phantom_slices": 9}), key({}, 1)]
    assert len({key({}), *others}) == 5


@pytest.mark.parametrize("pipeline", ["training", "sweep"])
def test_the_pipelines_take_the_same_parameters_but_for_the_search_s_own(pipeline: str):
    spec = yaml.safe_load((ROOT / "pipelines" / f"{pipeline}.yaml").read_text().split("\n---\n")[0])
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    own = {"search", "trials", "measure"} if pipeline == "sweep" else set()
    # A trial trains on one machine; several trials at once are how a search takes many.
    nodes = {"num_nodes", "gpus_per_node", "cpus_per_node", "memory_per_node", "deadline_seconds"}
    assert set(parameters) - own == set(Parameters.__dataclass_fields__) - (nodes if pipeline == "sweep" else set())
    for name, entry in parameters.items():
        assert entry.get("description"), name
        if name not in own:
            assert entry["defaultValue"] == getattr(Parameters(), name), name
