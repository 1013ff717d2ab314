"""The training pipeline: from a dataset version to a judged, registered model.

0. settings: note the parameters that make the model, which a later scheduled training compares with its own
1. ingest: bring the exact version of the data in (or make the phantom)
2. validate: judge it by Great Expectations, with Data Docs
3. preprocess: refuse what failed critically; split by subject, pack for training
4. train: the network, by torchrun
5. champion: name the version that the model is to succeed
6. evaluate: every strategy, baseline and that champion on the held-out subjects
7. register: log to MLflow, create the model version, let the gate decide on the champion

However they end, notify tells of it.
"""

from kfp import dsl

from components.evaluate.component import evaluate as evaluate_step
from components.ingest.component import ingest as ingest_step
from components.notify.component import notify as notify_step
from components.preprocess.component import preprocess as preprocess_step
from components.register.component import champion as champion_step
from components.register.component import register as register_step
from components.settings.component import settings as settings_step
from components.train.component import train as train_step
from components.validate.component import validate as validate_step
from pipelines import cluster
from pipelines.parameters import MAKES_THE_MODEL, Parameters
from pipelines.signature import with_parameters


def tell_of_the_end(p: Parameters) -> dsl.PipelineTask:
    """The step that runs when all others have ended, whatever became of them."""
    told = notify_step(model_name=p.model_name, pipeline_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
    return cluster.place(told, "Tell of the end", cluster.TELL)


def note_settings(p: Parameters) -> str:
    """The step that notes the parameters which decide which model comes out of given data and code; its output."""
    noted = settings_step(**{name: getattr(p, name) for name in MAKES_THE_MODEL}, code_version=p.code_version)
    output: str = cluster.place(noted, "Note the settings", cluster.NOTE).output
    return output


def train_judge_register(p: Parameters, settings: str) -> None:
    """Add the seven steps from ingest to register to a pipeline; `settings` is what note_settings gave."""
    ingested = ingest_step(
        data=p.data,
        data_version=p.data_version,
        collection=p.collection,
        phantom_subjects=p.phantom_subjects,
        phantom_slices=p.phantom_slices,
        seed=p.seed,
        code_version=p.code_version,
    )
    cluster.place(ingested, "Bring the data in", cluster.FETCH)
    dataset = ingested.outputs["dataset"]
    validated = validate_step(
        dataset=dataset, min_pairs=p.min_pairs, size=p.size, model_name=p.model_name, code_version=p.code_version
    )
    cluster.place(validated, "Validate the data", cluster.JUDGE_DATA)
    preprocessed = preprocess_step(
        dataset=dataset,
        validation=validated.outputs["report"],
        split=p.split,
        split_seed=p.split_seed,
        size=p.size,
        normalise=p.normalise,
        register_pairs=p.register_pairs,
        code_version=p.code_version,
    )
    cluster.place(preprocessed, "Split by subject and pack", cluster.PACK)
    packed = preprocessed.outputs["packed"]
    trained = train_step(
        packed=packed,
        network=p.network,
        width=p.width,
        epochs=p.epochs,
        batch=p.batch,
        accumulate=p.accumulate,
        crop=p.crop,
        learning_rate=p.learning_rate,
        schedule=p.schedule,
        gradient_weight=p.gradient_weight,
        perceptual_weight=p.perceptual_weight,
        perceptual=p.perceptual,
        statistics=p.statistics,
        precision=p.precision,
        clip=p.clip,
        ema=p.ema,
        patience=p.patience,
        device=p.device,
        processes=p.processes,
        gpus=p.gpus,
        workspace=p.workspace,
        checkpoint_every=p.checkpoint_every,
        num_nodes=p.num_nodes,
        gpus_per_node=p.gpus_per_node,
        cpus_per_node=p.cpus_per_node,
        memory_per_node=p.memory_per_node,
        deadline_seconds=p.deadline_seconds,
        experiment=p.experiment,
        seed=p.seed,
        code_version=p.code_version,
    )
    cluster.place(trained, "Train the network", cluster.TRAIN)
    cluster.with_gpus(trained, p.gpus)
    model = trained.outputs["model"]
    found = champion_step(model=model, model_name=p.model_name)
    cluster.place(found, "Find the champion", cluster.FIND_CHAMPION)
    evaluated = evaluate_step(
        dataset=packed,
        model=model,
        strategies=p.strategies,
        gate_measures=p.gate_measures,
        champion=found.output,
        code_version=p.code_version,
    )
    cluster.place(evaluated, "Compare on held-out subjects", cluster.EVALUATE)
    registered = register_step(
        dataset=packed,
        model=model,
        evaluation=evaluated.outputs["evaluation"],
        validation=validated.outputs["report"],
        experiment=p.experiment,
        model_name=p.model_name,
        gate_measures=p.gate_measures,
        gate_margin=p.gate_margin,
        gate_lesions=p.gate_lesions,
        gate_seconds=p.gate_seconds,
        profile=p.profile,
        git_commit=p.git_commit,
        code_version=p.code_version,
        settings=settings,
        pipeline_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    )
    cluster.place(registered, "Register, and let the gate decide", cluster.REGISTER)


@dsl.pipeline(
    name="atlas-fusion-training",
    description="Train, judge and register the attention-based multi-scale network that fuses pairs of medical images.",
)
@with_parameters(Parameters)
def training_pipeline(p: Parameters) -> None:
    """Train, judge and register a fusion network."""
    with dsl.ExitHandler(tell_of_the_end(p), name="Train, judge, register"):
        train_judge_register(p, note_settings(p))
