"""`qwenvl evaluate CHECKPOINT`: benchmarks on held-out data, and the report of a run."""

import json
import math
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import tyro

from data_pipelines.held_out import asked_of, held_out_examples
from data_pipelines.sources.opening import open_source
from data_pipelines.synthetic.world import held_out_screens
from qwenvl_jax.config import MeshConfig, Run, Stage
from qwenvl_jax.config_json import from_json
from qwenvl_jax.conversion.hugging_face import is_hugging_face
from qwenvl_jax.evaluation.agent import MAX_NEW_TOKENS, evaluate_agent
from qwenvl_jax.evaluation.benchmarks import evaluate, joined, stage_evaluation
from qwenvl_jax.evaluation.contact_sheet import write_contact_sheet
from qwenvl_jax.evaluation.report import write_report
from qwenvl_jax.inference.generate import generate
from qwenvl_jax.inference.loading import load, run_processor
from qwenvl_jax.inference.model import Model, inference_model
from qwenvl_jax.inference.processor import Processor
from qwenvl_jax.models.parameters import Architecture, Parameters
from qwenvl_jax.parallel.mesh import PARAMETER_AXES, make_mesh, parameter_shardings
from qwenvl_jax.parallel.processes import writes
from qwenvl_jax.processing.agent import STOPS
from qwenvl_jax.processing.sample import Sample
from qwenvl_jax.training.checkpoints import load_parameters, locate
from qwenvl_jax.training.json_lines import read_lines

EARLY_SHARE = 0.4
"""Share of the questions asked after stages before the last, of the tasks trained by then: a model that cannot answer yet
writes until its limit, which took 69 s after stage 1 of `tiny` for all questions of all tasks, on two busy cores."""
AGENT = "agent"
"""The task that is asked in its environment."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Asks a trained model the held-out questions and prints its scores."""

    checkpoint: tyro.conf.Positional[Path]
    """A run's folder, a checkpoint in it, or a Hugging Face folder."""
    data: Path | None = None
    """Folder with `held_out/`; the run's own by default."""


def held_out_folder(run: Run) -> Path | None:
    """Where the run's held-out sources lie, if its data has any."""
    folder = Path(run.data.root) / "held_out"
    return folder if folder.is_dir() else None


def scores_of(
    name: str,
    model: Model,
    processor: Processor,
    folder: Path,
    share: float = 1.0,
    taught: Container[str] | None = None,
) -> dict:
    """Evaluation of a model on the held-out sources below `folder`, as plain JSON with its gallery.

    Answers are greedy. `name` (of the stage, or of the model) stands in the result; `share` of the questions are asked, of
    the tasks `taught`, or of all.
    """
    began = time.perf_counter()
    benchmarks = asked_of(model.architecture.config)
    names = dict.fromkeys(asked.source for asked in benchmarks.values())
    sources = {name: open_source(folder, name) for name in names if (folder / name).is_dir()}
    numbers = {
        name: round(share * asked.number) if taught is None or asked.task in taught else 0
        for name, asked in benchmarks.items()
    }

    def answer(prompts: Sequence[Sample], most: int) -> list[str]:
        return generate(model, processor, prompts, max_new_tokens=most, temperature=0.0, stop=())

    def act(prompts: Sequence[Sample]) -> list[str]:
        return generate(model, processor, prompts, max_new_tokens=MAX_NEW_TOKENS, temperature=0.0, stop=STOPS)

    result = evaluate(held_out_examples(sources, numbers, benchmarks), answer)
    screens = held_out_screens(folder.parent, share) if taught is None or AGENT in taught else {}
    if screens:
        result = joined(result, evaluate_agent(screens, act))
    shown = stage_evaluation(name, result)
    headline = "  ".join(f"{score} {value:.3f}" for score, value in result.scores.items() if "/" not in score)
    print(f"after {name}: {headline}  ({time.perf_counter() - began:.0f} s)", flush=True)
    return shown


def taught_until(run: Run, stage: Stage) -> set[str]:
    """The tasks of the mixtures of a stage and of those before it."""
    stages = run.stages[: run.stages.index(stage) + 1]
    return {component.task for trained in stages for component in trained.mixture}


def evaluate_stage(run: Run, stage: Stage, architecture: Architecture, parameters: Parameters, workdir: Path) -> None:
    """Evaluates a stage's last parameters once; the result stays in the workdir.

    Of several processes, process 0 does it alone, on its own devices, with the parameters of the stage's last checkpoint.
    """
    file = workdir / "evaluation" / f"{stage.name}.json"
    folder = held_out_folder(run)
    if file.is_file() or folder is None or not writes():
        return
    if jax.process_count() > 1:
        # Its own devices share each parameter as far as those of the run did.
        parts = math.prod(make_mesh(run.mesh).shape[axis] for axis in PARAMETER_AXES)
        shards = math.gcd(len(jax.local_devices()), parts)
        mesh = make_mesh(MeshConfig(fsdp=shards), jax.local_devices())
        shardings = parameter_shardings(architecture.axes, architecture.shapes, mesh)
        parameters = load_parameters(workdir, stage.name, stage.steps, shardings)
    model = inference_model(architecture, parameters, run.precision.compute)
    file.parent.mkdir(exist_ok=True)
    written = file.with_suffix(".partial")
    last = stage is run.stages[-1]
    share, taught = (1.0, None) if last else (EARLY_SHARE, taught_until(run, stage))
    written.write_text(json.dumps(scores_of(stage.name, model, run_processor(run, stage), folder, share, taught)))
    written.replace(file)


def report(run: Run, workdir: Path) -> Path:
    """Writes report.html, report.json and report.png from what lies in the workdir."""
    files = [workdir / "evaluation" / f"{stage.name}.json" for stage in run.stages]
    evaluations = [json.loads(file.read_text()) for file in files if file.is_file()]
    facts = {"name": run.name, "stages": ", ".join(f"{s.name} {s.steps} steps" for s in run.stages)}
    path: Path = write_report(workdir, read_lines(workdir / "metrics.jsonl"), evaluations, facts)
    if evaluations and evaluations[-1]["gallery"]:
        write_contact_sheet(workdir / "report.png", evaluations[-1]["gallery"])
    return path


def main(arguments: list[str]) -> None:
    options = tyro.cli(EvaluateOptions, args=arguments, prog="qwenvl evaluate")
    name, folder = options.checkpoint.name, None
    if not is_hugging_face(options.checkpoint):
        workdir, name, _ = locate(options.checkpoint)
        folder = held_out_folder(from_json((workdir / "config.json").read_text()))
    if options.data:
        folder = options.data / "held_out"
    if folder is None or not folder.is_dir():
        raise FileNotFoundError(f"no held-out data{f' in {folder}' if folder else ''}: name its folder with --data")
    evaluation = scores_of(name, *load(options.checkpoint), folder)
    print(json.dumps(evaluation["scores"], indent=1))
