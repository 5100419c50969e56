"""`qwenvl data index PATH`: the index of a source and the lengths of its samples, made ahead of a run."""

import dataclasses
from collections import Counter
from dataclasses import dataclass

import tyro

from configs.recipes import recipe
from data_pipelines.components import own_mixture, shard_cache
from data_pipelines.sources.opening import index_source
from data_pipelines.sources.source import Problem
from data_pipelines.tasks import tasks_of
from launch.inspect import stage_for_path
from qwenvl_jax.processing.encoders import stage_encoder

SHOWN_REASONS = 10


@dataclass(frozen=True)
class IndexOptions:
    """Makes what a run would otherwise make when it starts: the index of a source, and the lengths of its samples. Both lie
    beside its files then; a source elsewhere (gs://, s3://) is fetched once from end to end for it."""

    target: tyro.conf.Positional[str]
    """Whatever a mixture may name."""
    recipe: str = "tiny"
    """Whose tasks, tokenizer and sizes of pictures the lengths are measured for."""
    stage: str | None = None
    """One of its stages; the last that sees pictures by default."""
    root: str | None = None
    """Folder of the data; the recipe's own by default."""
    cache: str | None = None
    """Folder that files of a source elsewhere are fetched into; the recipe's own by default."""


def main(arguments: list[str]) -> None:
    """Raises ValueError with one sentence where the source cannot be used."""
    options = tyro.cli(IndexOptions, args=arguments, prog="qwenvl data index")
    run = recipe(options.recipe)
    stage = stage_for_path(run, options.stage)
    data = dataclasses.replace(run.data, root=options.root or run.data.root, cache=options.cache or run.data.cache)
    source = index_source(data.root, options.target, shard_cache(data))
    print(f"{options.target}: {len(source):,} records in {len(source.shard_ends):,} files")
    for line in reasons(source.problems):
        print(line)
    encoder = stage_encoder(run.model, stage, data.tokenizer)
    for component in own_mixture(data, options.target, tasks_of(run.model), encoder, fetch_all=True):
        print(f"  {component.task}: {int(component.weight):,} samples as stage {stage.name} of {run.name} sees them")


def reasons(problems: tuple[Problem, ...]) -> list[str]:
    """How many entries were left out, and why."""
    counts = Counter(problem.reason for problem in problems).most_common()
    lines = [f"  {count:,} left out: {reason}" for reason, count in counts[:SHOWN_REASONS]]
    if rest := sum(count for _, count in counts[SHOWN_REASONS:]):
        lines.append(f"  {rest:,} left out for other reasons")
    return lines
