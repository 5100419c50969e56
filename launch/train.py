"""`qwenvl train RECIPE`: trains a recipe's stages, and evaluates after each where held-out data lies beside the data."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import tyro
from jax.sharding import Mesh, NamedSharding

from configs.recipes import recipe
from data_pipelines.components import own_mixture
from data_pipelines.identity import check_identity
from data_pipelines.loader import StageLoader, describe, open_loader
from data_pipelines.quarantine import Quarantine
from data_pipelines.sources.remote import is_address
from data_pipelines.streams import StreamWindow
from data_pipelines.tasks import tasks_of
from launch.evaluate import evaluate_stage, held_out_folder, report
from qwenvl_jax.config import ARCHITECTURES, ModelConfig, Qwen2VLConfig, QwenVLConfig, Run, Stage
from qwenvl_jax.config_json import from_json, to_json
from qwenvl_jax.folder_lock import only_writer
from qwenvl_jax.models.parameters import Parameters, build, initialize
from qwenvl_jax.parallel.mesh import make_mesh, own_rows, parameter_shardings
from qwenvl_jax.parallel.processes import own_log, start_processes, wait_for_all, writes
from qwenvl_jax.processing.encoders import stage_encoder
from qwenvl_jax.training.checkpoints import load_parameters, locate
from qwenvl_jax.training.compilation import on_devices
from qwenvl_jax.training.loop import Batches, train_stage


@dataclass(frozen=True)
class TrainOptions:
    """Trains a recipe. Every field of the recipe can be overridden, stages by their names: `--multitask.steps 500`."""

    recipe: tyro.conf.Positional[str]
    """`tiny`, `tiny-qwen2`, `qwen-vl`, `qwen2-vl-2b`, `qwen2-vl-7b` or `qwen2-vl-72b`."""
    stage: str = "all"
    """One stage by its name, or `all` in order."""
    coordinator: str | None = None
    """For several processes, one on each host: HOST:PORT of process 0, or `auto` under SLURM, on GKE, on TPU VMs and under
    Open MPI, where JAX finds it. Start the same command on every host."""
    processes: int | None = None
    """With `--coordinator HOST:PORT`: how many processes there are."""
    process: int | None = None
    """With `--coordinator HOST:PORT`: the number of this one, from 0."""
    workdir: Path | None = None
    """Folder of checkpoints, metrics and report; runs/RECIPE, or runs/RECIPE-FILE with `--data`. What lies there goes on."""
    data: str | None = None
    """Own data in place of the stage's mixture: a JSON or JSONL of conversations, a folder of shards or tars, a Parquet,
    an annotation file, the address of shards elsewhere; all tasks that apply to it are trained."""
    start: Path | None = None
    """Run, checkpoint or converted folder that the first stage starts from, with its model and its tokenizer."""
    scale_steps: float = 1.0
    """Multiplies the steps of every stage."""


def train(arguments: list[str]) -> None:
    """The command; errors of the user are ValueError and FileNotFoundError with one sentence."""
    options, rest = tyro.cli(TrainOptions, args=arguments, prog="qwenvl train", return_unknown_args=True)
    run = override(recipe(options.recipe), rest)
    if source := options.start or (Path(run.initial) if run.initial and Path(run.initial).exists() else None):
        run = override(with_model_of(source, recipe(options.recipe)), rest)
    run, stages = choose(run, options)
    workdir = options.workdir or Path("runs") / (run.name + (f"-{Path(options.data).stem}" if options.data else ""))
    start_processes(options.coordinator, options.processes, options.process, run.lost_seconds)
    with own_log(workdir), only_writer(workdir) if writes() else nullcontext():
        train_stages(run, stages, options.start, workdir)


def train_stages(run: Run, stages: tuple[Stage, ...], source: Path | None, workdir: Path) -> None:
    """Trains these stages of a run in turn; `source` as `TrainOptions.start`. Errors are those of `train`."""
    prepare(workdir, run)
    mesh = make_mesh(run.mesh)
    run = on_devices(run, mesh)
    architecture = build(run.model, run.precision)
    print(
        f"{run.name}: {architecture.size:,} parameters on {jax.device_count()} x {jax.devices()[0].device_kind}, "
        f"attention: {run.precision.attention}"
    )
    shardings = parameter_shardings(architecture.axes, architecture.shapes, mesh)
    start: Callable[[], Parameters] = partial(starting_point, run, stages[0], source, workdir, shardings)
    for stage in stages:
        batches = partial(opened, run, stage, workdir, mesh)
        parameters = train_stage(run, stage, architecture, start, batches, mesh, workdir)
        start = partial(dict, parameters)
        if stage.vision_per_row and not stage.patch_classes and held_out_folder(run):
            evaluate_stage(run, stage, architecture, parameters, workdir)
            wait_for_all(f"{stage.name} is evaluated")
    if writes():
        print(f"report: {report(run, workdir)}")
    wait_for_all("the report is written")


def override(run: Run, arguments: list[str]) -> Run:
    """The run with fields replaced from the command line; `--STAGE.field` means the stage of that name."""
    for number, stage in enumerate(run.stages):
        arguments = [a.replace(f"--{stage.name}.", f"--stages.{number}.", 1) for a in arguments]
    if not arguments:
        return run
    # The kind of model is the recipe's: its fields are shown, and no word on the command line chooses another.
    kind: Any = tyro.conf.AvoidSubcommands[Run]
    overridden: Run = tyro.cli(kind, default=run, args=arguments, prog="qwenvl train RECIPE")
    return overridden


def with_model_of(source: Path, run: Run) -> Run:
    """The recipe with the model and the tokenizer of the checkpoint that it starts from."""
    there = from_json((locate(source)[0] / "config.json").read_text())
    if there.model != run.model:
        print(f"the model is that of {source}, not the recipe's: {', '.join(other_fields(there.model, run.model))}")
    return dataclasses.replace(
        run, model=there.model, data=dataclasses.replace(run.data, tokenizer=there.data.tokenizer)
    )


def choose(run: Run, options: TrainOptions) -> tuple[Run, tuple[Stage, ...]]:
    """The run as the options want it, and the stages to train.

    Raises:
      ValueError: an unknown stage, or own data for several stages at once.
      FileNotFoundError: the file of own data is missing.
    """
    names = [stage.name for stage in choose_stages(run, options.stage)]
    if options.data is not None:
        if options.stage == "all":
            raise ValueError(f"--data replaces one stage's mixture: add --stage, one of {', '.join(names)}")
        if not is_address(options.data) and not Path(options.data).exists():
            raise FileNotFoundError(f"--data {options.data}: there is no such file or folder")
    scaled = [dataclasses.replace(s, steps=max(1, round(s.steps * options.scale_steps))) for s in run.stages]
    if options.data is not None:
        chosen = next(stage for stage in scaled if stage.name == options.stage)
        encoder = stage_encoder(run.model, chosen, run.data.tokenizer)
        name = options.data if is_address(options.data) else str(Path(options.data).resolve())
        own = own_mixture(run.data, name, tasks_of(run.model), encoder)
        scaled = [dataclasses.replace(s, mixture=own) if s.name == options.stage else s for s in scaled]
    run = dataclasses.replace(run, stages=tuple(scaled))
    return run, choose_stages(run, options.stage)


def choose_stages(run: Run, name: str) -> tuple[Stage, ...]:
    """The stage of that name, or all.

    Raises:
      ValueError: there is none.
    """
    names = [stage.name for stage in run.stages]
    if name not in (*names, "all"):
        raise ValueError(f"recipe {run.name} has no stage {name!r}; stages: {', '.join(names)}, all")
    return tuple(stage for stage in run.stages if name in (stage.name, "all"))


def prepare(workdir: Path, run: Run) -> None:
    """Writes config.json, or compares with the one that lies there.

    Raises:
      ValueError: the folder holds a run of another model or of other stages.
    """
    file = workdir / "config.json"
    if file.is_file():
        there = from_json(file.read_text())
        changed = [f.name for f in dataclasses.fields(Run) if getattr(there, f.name) != getattr(run, f.name)]
        if set(changed) & {"model", "stages", "optimizer", "data", "seed"}:
            raise ValueError(f"{workdir} holds a run with other {', '.join(changed)}: choose another --workdir")
    wait_for_all("config.json is compared")
    if writes():
        workdir.mkdir(parents=True, exist_ok=True)
        written = file.with_suffix(".partial")
        written.write_text(to_json(run))
        written.replace(file)  # a kill leaves the old file or the new one
    wait_for_all("config.json is written")


STARTS: Mapping[type, str] = {
    # a model's configuration: what its recipes' starting point is made from, and how
    QwenVLConfig: "OpenCLIP's ViT-bigG and Qwen-7B: qwenvl convert OPENCLIP QWEN7B {}",
    Qwen2VLConfig: "a released Qwen2-VL of this size: qwenvl convert QWEN2VL {}",
}


def starting_point(
    run: Run, first: Stage, start: Path | None, workdir: Path, shardings: Mapping[str, NamedSharding]
) -> Parameters:
    """The parameters that the first stage starts from: `start`, else the stage before it, else the recipe's own.

    Loaded ones lie as `shardings` say, each device reading its part.

    Raises:
      FileNotFoundError: the checkpoint that the recipe starts from is missing.
      ValueError: the checkpoint is of another model.
    """
    names = [stage.name for stage in run.stages]
    earlier = names[: names.index(first.name)]
    if start is not None:
        source, stage, step = locate(start)
    elif earlier and (found := before(workdir, earlier) or before(Path("runs") / run.name, earlier)):
        source, stage, step = found
    elif run.initial:
        if not Path(run.initial).exists():
            raise FileNotFoundError(
                f"recipe {run.name} starts from {run.initial}, which is not there; make it from "
                f"{STARTS[type(run.model)].format(run.initial)}; or give --start CHECKPOINT"
            )
        source, stage, step = locate(Path(run.initial))
    else:
        if earlier:
            print(f"no checkpoint of {', '.join(earlier)} found: {first.name} starts from random weights")
        return initialize(run.model, run.precision, run.seed)
    there = from_json((source / "config.json").read_text()).model
    if there != run.model:
        raise ValueError(f"{source} holds another model than this run: {', '.join(other_fields(there, run.model))}")
    print(f"starting from {source}, stage {stage}, step {step}")
    return load_parameters(source, stage, step, shardings)


def other_fields(there: ModelConfig, here: ModelConfig) -> list[str]:
    """The fields in which two models differ."""
    if type(there) is not type(here):
        names = {kind: name for name, kind in ARCHITECTURES.items()}
        return [f"a {names[type(there)]} there, a {names[type(here)]} here"]
    first, second = dataclasses.asdict(there), dataclasses.asdict(here)
    return [
        f"{part}.{name} {value} there, {second[part][name]} here"
        for part, fields in first.items()
        for name, value in fields.items()
        if value != second[part][name]
    ]


def before(workdir: Path, stages: list[str]) -> tuple[Path, str, int] | None:
    """The newest checkpoint of these stages in a run's folder, if there is one."""
    try:
        return locate(workdir, stages)
    except FileNotFoundError:
        return None


def opened(run: Run, stage: Stage, workdir: Path, mesh: Mesh, start: int, windows: Sequence[Sequence[int]]) -> Batches:
    """This process's rows of the stage's batches, after saying what they are made of; lists what cannot be read."""
    loader = open_loader(run, stage, start, [StreamWindow(*known) for known in windows], own_rows(stage.rows, mesh))
    check_identity(workdir, stage.name, start, loader.identity, keep=writes())
    quarantine = Quarantine(workdir, stage.name, start, jax.process_index(), jax.process_count())
    if start == 0 and writes():
        quarantine.add_opened(loader.components)
        say_what_is_read(loader, quarantine)
    with closing(loader):
        for step, (batch, info) in enumerate(loader, start):
            quarantine.add(step, info.problems)
            yield batch, info


SHOWN_PROBLEMS = 10
"""Of a component; all of them stand in the quarantine file."""


def say_what_is_read(loader: StageLoader, quarantine: Quarantine) -> None:
    """One line per component: what is used, shortened and left out, and the packing's efficiency."""
    described = describe(loader)
    for component, samples in zip(described.components, loader.components):
        entries = component.records + len(samples.source.problems)
        left = ", ".join(f"{count} {reason}" for reason, count in component.left_out.items())
        print(
            f"  {component.task} from {component.source}: {component.samples} of {entries} records, "
            f"{component.tokens:.0f} tokens each"
            + (f"; {component.reduced} images or videos shown smaller, to fit a row" if component.reduced else "")
            + (f"; left out: {left}" if left else "")
        )
        for problem in samples.problems[:SHOWN_PROBLEMS]:
            print(f"    {problem.file}, entry {problem.index}: {problem.reason}")
        if len(samples.problems) > SHOWN_PROBLEMS:
            print(f"    and {len(samples.problems) - SHOWN_PROBLEMS} more: {quarantine.path}")
    used = described.efficiency
    print(f"  packing uses {used.tokens:.1%} of the tokens and {used.vision:.1%} of the room for images")
