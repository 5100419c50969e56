"""`qwenvl train RECIPE`: trains a recipe's stages, and evaluates after each where held-out data lies beside the data."""

import dataclasses
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import tyro

from configs.recipes import recipe
from data_pipelines.loader import StageLoader, describe, open_loader
from launch.evaluate import evaluate_stage, held_out_folder, report
from qwenvl_jax.config import Component, Run, Stage, from_json, to_json
from qwenvl_jax.inference.loading import locate
from qwenvl_jax.models.parameters import Parameters, build, initialize
from qwenvl_jax.parallel.mesh import make_mesh
from qwenvl_jax.training.checkpoints import load_parameters
from qwenvl_jax.training.compilation import on_devices
from qwenvl_jax.training.loop import Batches, train_stage


@dataclass(frozen=True)
class TrainOptions:
    """Trains a recipe. Every field of the recipe can be overridden, stages by their names: `--multitask.steps 500`."""

    recipe: tyro.conf.Positional[str]
    """`tiny` or `qwen-vl`."""
    stage: str = "all"
    """One stage by its name, or `all` in order."""
    workdir: Path | None = None
    """Folder of checkpoints, metrics and report; runs/RECIPE, or runs/RECIPE-FILE with `--data`. What lies there goes on."""
    data: Path | None = None
    """JSON or JSONL of conversations in the official fine-tuning format, in place of the stage's mixture."""
    start: Path | None = None
    """Run or checkpoint whose parameters the first stage starts from."""
    scale_steps: float = 1.0
    """Multiplies the steps of every stage."""


def train(arguments: list[str]) -> None:
    """The command; errors of the user are ValueError and FileNotFoundError with one sentence."""
    options, rest = tyro.cli(TrainOptions, args=arguments, prog="qwenvl train", return_unknown_args=True)
    run = override(recipe(options.recipe), rest)
    run, stages = choose(run, options)
    workdir = options.workdir or Path("runs") / (run.name + (f"-{options.data.stem}" if options.data else ""))
    prepare(workdir, run)
    mesh = make_mesh(run.mesh)
    run = on_devices(run, mesh)
    architecture = build(run.model, run.precision)
    print(
        f"{run.name}: {architecture.size:,} parameters on {jax.device_count()} x {jax.devices()[0].device_kind}, "
        f"attention: {run.precision.attention}"
    )
    parameters = starting_point(run, stages[0], options.start, workdir)
    for stage in stages:
        batches = partial(opened, run, stage)
        parameters = train_stage(run, stage, architecture, parameters, batches, mesh, workdir)
        if stage.images_per_row and held_out_folder(run):
            evaluate_stage(run, stage, architecture, parameters, workdir)
    print(f"report: {report(run, workdir)}")


def override(run: Run, arguments: list[str]) -> Run:
    """The run with fields replaced from the command line; `--STAGE.field` means the stage of that name."""
    for number, stage in enumerate(run.stages):
        arguments = [a.replace(f"--{stage.name}.", f"--stages.{number}.", 1) for a in arguments]
    return tyro.cli(Run, default=run, args=arguments, prog="qwenvl train RECIPE") if arguments else run


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
        if not options.data.is_file():
            raise FileNotFoundError(f"--data {options.data}: there is no such file")
    scaled = [dataclasses.replace(s, steps=max(1, round(s.steps * options.scale_steps))) for s in run.stages]
    if options.data is not None:
        own = (Component("chat", str(options.data.resolve()), 1.0),)
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
    workdir.mkdir(parents=True, exist_ok=True)
    file.write_text(to_json(run))


def starting_point(run: Run, first: Stage, start: Path | None, workdir: Path) -> Parameters:
    """The parameters that the first stage starts from: `start`, else the stage before it, else the recipe's own.

    Raises:
      FileNotFoundError: checkpoints that the recipe starts from are missing.
    """
    names = [stage.name for stage in run.stages]
    earlier = names[: names.index(first.name)]
    if start is not None:
        source, stage, step = locate(start)
    elif earlier and (found := before(workdir, earlier) or before(Path("runs") / run.name, earlier)):
        source, stage, step = found
    elif missing := [path for path in run.initial if not Path(path).exists()]:
        raise FileNotFoundError(
            f"recipe {run.name} starts from released weights, and these are missing: {', '.join(missing)}"
        )
    else:
        if earlier:
            print(f"no checkpoint of {', '.join(earlier)} found: {first.name} starts from random weights")
        return initialize(run.model, run.precision, run.seed)
    print(f"starting from {source}, stage {stage}, step {step}")
    return load_parameters(source, stage, step)


def before(workdir: Path, stages: list[str]) -> tuple[Path, str, int] | None:
    """The newest checkpoint of these stages in a run's folder, if there is one."""
    try:
        return locate(workdir, stages)
    except FileNotFoundError:
        return None


def opened(run: Run, stage: Stage, start: int) -> Batches:
    """The stage's batches, after saying what they are made of."""
    loader = open_loader(run, stage, start, jax.process_index(), jax.process_count())
    if start == 0:
        say_what_is_read(loader)
    with closing(loader):
        yield from loader


def say_what_is_read(loader: StageLoader) -> None:
    """One line per component: what is used, shortened and left out, and the packing's efficiency."""
    described = describe(loader)
    for component, samples in zip(described.components, loader.components):
        entries = component.records + len(samples.source.problems)
        left = ", ".join(f"{count} {reason}" for reason, count in component.left_out.items())
        print(
            f"  {component.task} from {component.source}: {component.samples} of {entries} records, "
            f"{component.tokens:.0f} tokens each" + (f"; left out: {left}" if left else "")
        )
        for problem in samples.problems:
            print(f"    {problem.file}, entry {problem.index}: {problem.reason}")
    used = described.efficiency
    print(f"  packing uses {used.tokens:.1%} of the tokens and {used.images:.1%} of the image slots")
