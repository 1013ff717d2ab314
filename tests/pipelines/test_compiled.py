"""The compiled pipelines, as Kubeflow gets them: parameters, steps, what each needs, what is cached and tried again."""

from pathlib import Path

import pytest
import yaml

from components.image import IMAGE
from model.errors import InputError
from pipelines.compile import PIPELINES, compile_pipeline
from pipelines.parameters import MAKES_THE_MODEL, described

ROOT = Path(__file__).parents[2]
# What asks the world outside: an answer of yesterday must not stand for today's.
NEVER_CACHED = {"champion", "register", "notify", "change", "check", "fuse", "report"}


def compiled(name: str) -> tuple[dict, dict]:
    """The pipeline and its Kubernetes settings."""
    pipeline, platform = yaml.safe_load_all((ROOT / "pipelines" / f"{name}.yaml").read_text())
    return pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def tasks(pipeline: dict) -> dict[str, dict]:
    """Every step's task by name, wherever in the groups it stands."""
    groups = [pipeline["root"], *(each for each in pipeline["components"].values() if "dag" in each)]
    return {
        name: task
        for group in groups
        for name, task in group["dag"]["tasks"].items()
        if "executorLabel" in pipeline["components"][task["componentRef"]["name"]]
    }


def containers(pipeline: dict) -> dict[str, dict]:
    return {
        label.removeprefix("exec-"): executor["container"]
        for label, executor in pipeline["deploymentSpec"]["executors"].items()
    }


@pytest.mark.parametrize("name", PIPELINES)
def test_the_committed_pipeline_is_the_compiled_one_byte_for_byte(tmp_path, name: str):
    for file in ("first.yaml", "second.yaml"):
        compile_pipeline(tmp_path / file, name)
    first = (tmp_path / "first.yaml").read_bytes()
    assert first == (tmp_path / "second.yaml").read_bytes()
    assert first == (ROOT / "pipelines" / f"{name}.yaml").read_bytes(), "run `make compile` and commit the result"


@pytest.mark.parametrize("name", PIPELINES)
def test_every_parameter_is_typed_and_described_and_has_a_default(name: str):
    pipeline, _ = compiled(name)
    for parameter, facts in pipeline["root"]["inputDefinitions"]["parameters"].items():
        assert facts["parameterType"] in ("STRING", "NUMBER_INTEGER", "NUMBER_DOUBLE", "BOOLEAN"), parameter
        assert facts["isOptional"] and "defaultValue" in facts and facts["description"].endswith("."), parameter


def test_the_training_takes_exactly_the_described_parameters_and_the_retraining_one_more():
    wanted = {name: (default, text) for name, _, default, text in described()}
    for name in ("training", "retraining"):
        parameters = compiled(name)[0]["root"]["inputDefinitions"]["parameters"]
        found = {key: (facts["defaultValue"], facts["description"]) for key, facts in parameters.items()}
        assert found.pop("force", (False, ""))[0] is False
        assert found == wanted


def test_what_makes_the_model_is_noted_each_as_an_input_of_its_own():
    pipeline = compiled("training")[0]
    declared = pipeline["root"]["inputDefinitions"]["parameters"]
    inputs = pipeline["components"]["comp-settings"]["inputDefinitions"]["parameters"]
    assert set(inputs) == MAKES_THE_MODEL | {"code_version"}
    for name, facts in inputs.items():
        assert facts["parameterType"] == declared[name]["parameterType"], name
    given = tasks(pipeline)["settings"]["inputs"]["parameters"]
    assert {name: source["componentInputParameter"] for name, source in given.items()} == {
        name: f"pipelinechannel--{name}" for name in inputs
    }


@pytest.mark.parametrize("name", PIPELINES)
def test_every_step_has_a_title_that_says_what_it_does(name: str):
    for step, task in tasks(compiled(name)[0]).items():
        title = task["taskInfo"]["name"]
        assert title[0].isupper() and title.replace("-", " ").lower() != step.replace("-", " "), step


@pytest.mark.parametrize("name", ["training", "retraining", "sweep", "batch_fusion"])
def test_the_ui_has_something_to_show_of_the_steps_that_judge(name: str):
    shown = {
        facts["artifactType"]["schemaTitle"]
        for component in compiled(name)[0]["components"].values()
        for facts in component.get("outputDefinitions", {}).get("artifacts", {}).values()
    }
    assert shown >= {"system.HTML"} | ({"system.Markdown", "system.Metrics"} if name != "batch_fusion" else set())


@pytest.mark.parametrize("name", PIPELINES)
def test_every_step_reserves_what_it_needs_and_is_bounded(name: str):
    for step, container in containers(compiled(name)[0]).items():
        resources = container["resources"]
        assert {"resourceCpuRequest", "resourceMemoryRequest", "resourceMemoryLimit"} <= set(resources), step
        assert container["image"] == IMAGE, step


@pytest.mark.parametrize("name", PIPELINES)
def test_no_step_runs_as_root(name: str):
    pipeline, platform = compiled(name)
    assert {f"exec-{step}" for step in containers(pipeline)} == set(platform)
    for step, settings in platform.items():
        context = settings["securityContext"]
        assert context == {"runAsUser": "1000", "runAsGroup": "1000", "runAsNonRoot": True}, step
        assert settings["podMetadata"]["labels"]["app.kubernetes.io/name"] == "atlas-fusion"


@pytest.mark.parametrize("name", ["training", "retraining", "sweep"])
def test_training_asks_for_as_many_gpus_as_the_parameter_says_and_has_memory_to_share(name: str):
    pipeline, platform = compiled(name)
    step = "train-trial" if name == "sweep" else "train"
    gpu = containers(pipeline)[step]["resources"]["accelerator"]
    assert gpu["resourceType"] == "nvidia.com/gpu"
    assert gpu["resourceCount"] == "{{$.inputs.parameters['pipelinechannel--gpus']}}"
    assert "pipelinechannel--gpus" in tasks(pipeline)[step]["inputs"]["parameters"]
    # The back end's driver takes the count of a text alone (GetStringValue); a number would ask for no GPU.
    assert pipeline["root"]["inputDefinitions"]["parameters"]["gpus"]["parameterType"] == "STRING"
    mount = {"mountPath": "/dev/shm", "volumeName": "shared-memory", "medium": "Memory", "sizeLimit": "2Gi"}
    assert platform[f"exec-{step}"]["emptyDirMounts"] == [mount]
    assert not any("accelerator" in each["resources"] for key, each in containers(pipeline).items() if key != step)


def inputs_of_groups(pipeline: dict):
    """Each task in a group with the group's own inputs: what a task takes from there must be among them."""
    for group in pipeline["components"].values():
        if "dag" in group:
            given = set(group.get("inputDefinitions", {}).get("parameters", {}))
            for name, task in group["dag"]["tasks"].items():
                taken = task.get("inputs", {}).get("parameters", {}).values()
                yield (
                    name,
                    given,
                    {each["componentInputParameter"] for each in taken if "componentInputParameter" in each},
                )


@pytest.mark.parametrize("name", PIPELINES)
def test_every_group_is_handed_what_its_steps_take(name: str):
    # KFP's compiler forgets parameters that only a resource request uses.
    for task, given, taken in inputs_of_groups(compiled(name)[0]):
        assert taken <= given, (task, taken - given)


@pytest.mark.parametrize("name", PIPELINES)
def test_the_cache_follows_the_code_and_nothing_that_asks_the_world_is_cached(name: str):
    for step, task in tasks(compiled(name)[0]).items():
        cached = task.get("cachingOptions", {}).get("enableCache", False)
        assert cached == (step not in NEVER_CACHED), step
        assert not cached or "code_version" in task["inputs"]["parameters"], step


@pytest.mark.parametrize("name", PIPELINES)
def test_what_reaches_out_is_tried_again_with_growing_pauses(name: str):
    for step, task in tasks(compiled(name)[0]).items():
        if step in ("ingest", "train", "train-trial", "champion", "register", "change", "check", "fuse", "report"):
            policy = {key: value for key, value in task["retryPolicy"].items() if key != "maxRetryCount"}
            assert policy == {"backoffDuration": "30s", "backoffFactor": 2.0, "backoffMaxDuration": "2592000s"}, step
            assert task["retryPolicy"]["maxRetryCount"] == 2, step


@pytest.mark.parametrize("name", ["training", "retraining"])
def test_the_end_is_told_however_it_comes(name: str):
    pipeline, platform = compiled(name)
    last = pipeline["root"]["dag"]["tasks"]["notify"]
    assert last["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert set(pipeline["root"]["dag"]["tasks"]) == {"notify", "exit-handler-1"}
    assert any(
        "ATLAS_FUSION_WEBHOOK" in str(each) and each["secretName"] == "atlas-fusion"
        for each in platform["exec-notify"]["secretAsEnv"]
    )


def test_the_retraining_thinks_first():
    pipeline, _ = compiled("retraining")
    group = pipeline["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    assert set(group) == {"settings", "change", "condition-2"}
    assert set(group["condition-2"]["dependentTasks"]) == {"settings", "change"}
    assert group["condition-2"]["triggerPolicy"]["condition"].endswith("== true")
    inside = pipeline["components"]["comp-condition-2"]["dag"]["tasks"]
    assert inside["ingest"]["inputs"]["parameters"]["data_version"] == {
        "componentInputParameter": "pipelinechannel--change-version"
    }


@pytest.mark.parametrize("name", PIPELINES)
def test_secrets_come_by_reference_alone(name: str):
    pipeline, platform = compiled(name)
    for container in containers(pipeline).values():
        # An environment written into the pipeline is there for all to read.
        assert container.get("env", []) in ([], [{"name": "ATLAS_FUSION_IMAGE", "value": IMAGE}])
    for settings in platform.values():
        for source in settings.get("secretAsEnv", ()):
            assert source["secretName"] == "atlas-fusion" and source["optional"]


@pytest.mark.parametrize("name", ["training", "sweep"])
def test_the_registry_learns_of_the_run_and_the_image(name: str):
    pipeline, _ = compiled(name)
    assert "{{$.pipeline_job_uuid}}" in str(tasks(pipeline)["register"])
    for step in ("register", "train" if name == "training" else "train-trial"):
        assert {"name": "ATLAS_FUSION_IMAGE", "value": IMAGE} in containers(pipeline)[step]["env"], step


def test_another_image_takes_the_place_of_ours_in_every_step(tmp_path, refused):
    image = "registry.example/team/fusion@sha256:" + "0" * 64
    compile_pipeline(tmp_path / "p.yaml", "training", image)
    text = (tmp_path / "p.yaml").read_text()
    assert text.count(f"image: {image}\n") == 9 and text.count(f"value: {image}\n") == 2 and IMAGE not in text
    with pytest.raises(InputError, match="names no image"):
        compile_pipeline(tmp_path / "q.yaml", "training", "Team/Image: x\n")
    with pytest.raises(InputError, match="no pipeline 'x'; choose one of training"):
        compile_pipeline(tmp_path / "q.yaml", "x")
    assert not (tmp_path / "q.yaml").exists()
    assert "name it by --output" in refused("compile", "--image", image)


def test_one_pipeline_is_written_where_it_is_asked_for(fusion, tmp_path):
    done = fusion("compile", "--pipeline", "retraining", "-o", "mine.yaml")
    assert done.stdout == "wrote mine.yaml\n"
    assert (tmp_path / "mine.yaml").read_bytes() == (ROOT / "pipelines" / "retraining.yaml").read_bytes()
