"""`qwenvl evaluate CHECKPOINT`: benchmarks on held-out data, and the report of a run."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from data_pipelines.held_out import ASKED, held_out_examples
from data_pipelines.sources.opening import open_source
from qwenvl_jax.config import Run, Stage
from qwenvl_jax.evaluation.benchmarks import evaluate, stage_evaluation
from qwenvl_jax.evaluation.contact_sheet import write_contact_sheet
from qwenvl_jax.evaluation.report import write_report
from qwenvl_jax.inference.loading import Answerer, load
from qwenvl_jax.models.parameters import Architecture, Parameters
from qwenvl_jax.processing.tokenizer import load_tokenizer
from qwenvl_jax.training.metrics import read_metrics

HELD_OUT = ("scenes", "documents", "chats")
EARLY_SHARE = 0.4
"""Share of the questions asked after stages before the last: a model that cannot answer yet writes until its limit, which
took 69 s after stage 1 of `tiny` for all questions, on two busy cores."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Asks a trained model the held-out questions and prints its scores."""

    checkpoint: tyro.conf.Positional[Path]
    """A run's folder, or a checkpoint in it."""
    data: Path | None = None
    """Folder with `held_out/`; the run's own by default."""


def held_out_folder(run: Run) -> Path | None:
    """Where the run's held-out sources lie, if its data has any."""
    folder = Path(run.data.root) / "held_out"
    return folder if folder.is_dir() else None


def scores_of(answerer: Answerer, folder: Path, share: float = 1.0) -> dict:
    """Evaluation of a model on the held-out sources below `folder`, as plain JSON with its gallery; `share` of the
    questions are asked.
    """
    began = time.perf_counter()
    sources = {name: open_source(folder, name) for name in HELD_OUT}
    numbers = {name: round(share * asked.number) for name, asked in ASKED.items()}
    result = evaluate(held_out_examples(sources, numbers), answerer.answer)
    shown = stage_evaluation(answerer.stage.name, result)
    headline = "  ".join(f"{name} {value:.3f}" for name, value in result.scores.items() if "/" not in name)
    print(f"after {answerer.stage.name}: {headline}  ({time.perf_counter() - began:.0f} s)", flush=True)
    return shown


def evaluate_stage(run: Run, stage: Stage, architecture: Architecture, parameters: Parameters, workdir: Path) -> None:
    """Evaluates a stage's last parameters once; the result stays in the workdir."""
    file = workdir / "evaluation" / f"{stage.name}.json"
    folder = held_out_folder(run)
    if file.is_file() or folder is None:
        return
    answerer = Answerer(run, stage, architecture, parameters, load_tokenizer(run.data.tokenizer))
    file.parent.mkdir(exist_ok=True)
    written = file.with_suffix(".partial")
    share = 1.0 if stage is run.stages[-1] else EARLY_SHARE
    written.write_text(json.dumps(scores_of(answerer, folder, share)))
    written.replace(file)


def report(run: Run, workdir: Path) -> Path:
    """Writes report.html, report.json and report.png from what lies in the workdir."""
    files = [workdir / "evaluation" / f"{stage.name}.json" for stage in run.stages]
    evaluations = [json.loads(file.read_text()) for file in files if file.is_file()]
    facts = {"name": run.name, "stages": ", ".join(f"{s.name} {s.steps} steps" for s in run.stages)}
    path: Path = write_report(workdir, read_metrics(workdir / "metrics.jsonl"), evaluations, facts)
    if evaluations:
        write_contact_sheet(workdir / "report.png", evaluations[-1]["gallery"])
    return path


def main(arguments: list[str]) -> None:
    options = tyro.cli(EvaluateOptions, args=arguments, prog="qwenvl evaluate")
    answerer = load(options.checkpoint)
    folder = options.data / "held_out" if options.data else held_out_folder(answerer.run)
    if folder is None or not folder.is_dir():
        raise FileNotFoundError(f"no held-out data in {folder or answerer.run.data.root}: name its folder with --data")
    evaluation = scores_of(answerer, folder)
    print(json.dumps(evaluation["scores"], indent=1))
