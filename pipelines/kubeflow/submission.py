"""What `fusion submit` and `fusion schedule create` have in common: a version of the pipeline, and its parameters."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from model.errors import InputError
from pipelines.kubeflow.errors import Refused
from pipelines.kubeflow.packages import OWN_PARAMETERS, Package, typed
from pipelines.parameters import PROFILES, Parameters, with_profile

if TYPE_CHECKING:
    import kfp_server_api as kfp

    from pipelines.kubeflow.client import Kubeflow


@dataclass(frozen=True)
class Uploaded:
    """A version at Kubeflow: ids, its name, and whether it was there before."""

    pipeline_id: str
    version_id: str
    version: str
    reused: bool

    def reference(self, latest: bool = False) -> "kfp.V2beta1PipelineVersionReference":
        """What a run or a schedule names it by; `latest` leaves the version to Kubeflow."""
        import kfp_server_api as kfp

        return kfp.V2beta1PipelineVersionReference(self.pipeline_id, None if latest else self.version_id)


def run_parameters(
    pipeline: str, profile: str, options: Mapping[str, str], package: Package, own_options: Iterable[str]
) -> tuple[dict[str, Any], list[str]]:
    """The parameters of a run that differ from the pipeline's defaults, and notes on them for the user.

    They are the profile's, and over them the `options` as they were typed. Raises InputError for values that no run
    could take, and for data that a cluster does not have.
    """
    inputs = package.inputs
    given = typed(options, inputs, pipeline, own_options)
    if "profile" not in inputs:
        if profile != next(iter(PROFILES)):
            raise InputError(f"the pipeline {pipeline} has no profiles; leave --profile {profile} out")
        return given, []
    from pipelines.prepare import check_values

    known = {each.name for each in fields(Parameters)}
    parameters = with_profile(profile, {name: value for name, value in given.items() if name in known})
    check_values(_with_some_version(parameters, pipeline))
    notes = _check_reachable(parameters)
    values = {name: value for name, value in vars(parameters).items() if name in inputs and name not in given}
    changed = {name: value for name, value in values.items() if value != inputs[name].get("defaultValue")}
    return {name: value for name, value in changed.items() if name not in OWN_PARAMETERS} | given, notes


def own_values(package: Package) -> dict[str, Any]:
    """What the program fills in itself."""
    return {name: package.inputs[name]["defaultValue"] for name in OWN_PARAMETERS}


def _with_some_version(p: Parameters, pipeline: str) -> Parameters:
    """The parameters with a version where the pipeline itself looks for the latest one; InputError where none does."""
    from components.ingest.remote import LATEST

    if p.data_version != LATEST:
        return p
    if pipeline != "retraining":
        raise InputError(
            f"data_version is {LATEST}, which only the pipeline retraining looks for; give --pipeline retraining, or "
            "the version"
        )
    return replace(p, data_version="0" * 32 + ".dir")


def _check_reachable(p: Parameters) -> list[str]:
    """Raise InputError for data that only this machine has; return what the user should know of the rest."""
    from components.ingest.dataset import PHANTOM
    from components.ingest.remote import SCHEME
    from model.vgg import STACKS

    if p.data != PHANTOM and not p.data.startswith((SCHEME, "/")):
        raise InputError(
            f"data is {p.data!r}, a folder of this machine; a cluster takes --data s3://BUCKET/PREFIX with "
            "--data-version, an absolute path inside the image, or --data phantom"
        )
    if p.perceptual in STACKS and p.perceptual != "random":
        return [
            f"note: the train step fetches {p.perceptual} from the model zoo; where the cluster has no way there, give "
            "--perceptual random or a path inside the image"
        ]
    if p.perceptual not in STACKS and not p.perceptual.startswith("/"):
        raise InputError(
            f"perceptual is {p.perceptual!r}, a file of this machine; give {', '.join(STACKS)} or a path inside the "
            "image"
        )
    return []


def find_version(kubeflow: "Kubeflow", package: Package) -> Uploaded | None:
    """The version of that name and content, if it is there; raises InputError if the name has another content."""
    pipeline = kubeflow.pipeline(package.name)
    found = next(kubeflow.versions(pipeline.pipeline_id, package.version), None) if pipeline else None
    if found is None:
        return None
    if f"sha256 {package.digest}" not in (found.description or ""):
        raise InputError(
            f"version {package.version} of {package.name} is there already with another content "
            f"({found.description or 'not uploaded by this program'}), not {package.note}; give this one a name of its "
            "own with --version-name"
        )
    return Uploaded(found.pipeline_id, found.pipeline_version_id, package.version, reused=True)


def latest_version(kubeflow: "Kubeflow", package: Package, values: Iterable[str]) -> Uploaded | None:
    """The version that was uploaded last, if any; raises InputError if it has not all the parameters of `values`."""
    pipeline = kubeflow.pipeline(package.name)
    newest = next(kubeflow.versions(pipeline.pipeline_id), None) if pipeline else None
    if newest is None:
        return None
    whole = kubeflow.version(newest.pipeline_id, newest.pipeline_version_id) or newest
    specification = whole.pipeline_spec or {}
    root = specification.get("pipeline_spec", specification).get("root", {})
    inputs = root.get("inputDefinitions", {}).get("parameters", {})
    name = newest.name or newest.display_name
    if unknown := sorted(set(values) - set(inputs)):
        raise InputError(f"the latest version, {name}, has no parameter {unknown[0]}; leave it out, or upload one")
    return Uploaded(newest.pipeline_id, newest.pipeline_version_id, name, reused=True)


def ensure_version(kubeflow: "Kubeflow", package: Package) -> Uploaded:
    """That version, uploaded if it is not there; two who upload the same at once end with one."""
    if found := find_version(kubeflow, package):
        return found
    pipeline = kubeflow.pipeline(package.name) or kubeflow.create_pipeline(package.name, package.description)
    try:
        made = kubeflow.upload_version(pipeline.pipeline_id, package.version, package.note, package.path)
    except Refused as failure:
        # Another may have been first, or the answer to our own upload was lost.
        if found := find_version(kubeflow, package):
            return found
        raise failure from None
    return Uploaded(made.pipeline_id, made.pipeline_version_id, package.version, reused=False)


def warn(line: str) -> None:
    """A line beside the output."""
    print(line, file=sys.stderr)
