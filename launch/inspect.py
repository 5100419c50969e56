"""`qwenvl data inspect RECIPE-or-PATH`: one page on what would be trained on, before anything is."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import tyro

from configs.recipes import RECIPES, recipe
from data_pipelines.components import own_mixture
from data_pipelines.inspection import inspect_stage
from data_pipelines.tasks import tasks_of
from qwenvl_jax.config import Run, Stage
from qwenvl_jax.evaluation.data_page import data_page
from qwenvl_jax.processing.encoders import stage_encoder


@dataclass(frozen=True)
class InspectOptions:
    """Writes one HTML page: counts, histograms, packing, samples with what is learned, unreadable records."""

    target: tyro.conf.Positional[str]
    """A recipe, or whatever a mixture may name: a folder of shards or tars, a Parquet, a JSON, annotations."""
    output: Path = Path("inspect.html")
    recipe: str = "tiny"
    """For a path: whose tokenizer and rows are used."""
    stage: str | None = None
    """One stage: of a recipe all by default, for a path the last that sees pictures."""
    root: str | None = None
    """Folder of the data; the recipe's own by default."""


def main(arguments: list[str]) -> None:
    """Raises ValueError with one sentence where the data cannot be used."""
    options = tyro.cli(InspectOptions, args=arguments, prog="qwenvl data inspect")
    run, stages = chosen(options)
    found = [inspect_stage(run, stage) for stage in stages]
    options.output.write_text(data_page(options.target, found), encoding="utf-8")
    for stage in found:
        samples = sum(c["samples"] for c in stage["components"])
        room = stage["efficiency"].get("vision")
        slots = "" if room is None else f" and {room:.1%} of {stage['shape']['vision']}"
        print(
            f"{stage['stage']}: {samples:,} samples, {stage['efficiency']['tokens']:.1%} of the tokens{slots} used, "
            f"{stage['problems']['count']:,} entries unreadable"
        )
    print(f"page: {options.output}")


def chosen(options: InspectOptions) -> tuple[Run, list[Stage]]:
    """The run and the stages to look at.

    Raises:
      ValueError: an unknown recipe or stage, or a path that cannot be opened.
    """
    is_recipe = options.target in RECIPES
    run = recipe(options.target if is_recipe else options.recipe)
    if options.root is not None:
        run = dataclasses.replace(run, data=dataclasses.replace(run.data, root=options.root))
    stage = stage_for_path(run, options.stage)
    if is_recipe:
        return run, [stage for stage in run.stages if options.stage in (None, stage.name)]
    encoder = stage_encoder(run.model, stage, run.data.tokenizer)
    mixture = own_mixture(run.data, options.target, tasks_of(run.model), encoder)
    return run, [dataclasses.replace(stage, mixture=mixture)]


def stage_for_path(run: Run, name: str | None) -> Stage:
    """The stage of that name; without one, the last that sees pictures.

    Raises:
      ValueError: there is none of that name.
    """
    names = [stage.name for stage in run.stages]
    if name is not None and name not in names:
        raise ValueError(f"recipe {run.name} has no stage {name!r}; stages: {', '.join(names)}")
    usual = next(stage.name for stage in reversed(run.stages) if stage.vision_per_row)
    return next(stage for stage in run.stages if stage.name == (name or usual))
