"""What benchmarks of whole training steps share: the same samples packed and padded, our step, one in PyTorch, in turns."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch

from data_pipelines.loader import open_loader
from data_pipelines.tasks import tasks_of
from qwenvl_jax.batch import Batch, row_of
from qwenvl_jax.config import MeshConfig, ParameterRule, Run, Schedule, Stage
from qwenvl_jax.models.parameters import Parameters, build, initialize
from qwenvl_jax.parallel.mesh import make_mesh
from qwenvl_jax.processing.encoders import Encoder, stage_encoder
from qwenvl_jax.training.compilation import compile_step, on_devices, trace_step
from qwenvl_jax.training.loop import initial_state, put_batch

STAGE = "multitask"
RATE = 1e-4
BETAS, EPS = (0.9, 0.98), 1e-6


@dataclass(frozen=True)
class StepOptions:
    """Samples per second of a training step in three ways."""

    data: Path
    """The recipe's world."""
    rows: int = 4
    """Packed rows of a batch."""
    repeats: int = 5


class Prepared(NamedTuple):
    """A sample as its encoder gives it, and the pixels of its visuals."""

    encoded: Any
    pixels: list[np.ndarray]


def prepare(run: Run, stage: Stage, encoder: Encoder, rows: int) -> list[list[Prepared]]:
    """The samples of the stage's first rows, as the plan packs them."""
    with closing(open_loader(run, stage)) as loader:
        tasks = tasks_of(run.model)

        def sample(item: Any) -> Prepared:
            samples = loader.components[item.component]
            made = tasks[samples.component.task](samples.source[int(samples.records[item.sample])])
            if made is None:
                raise ValueError(f"{samples.source.name}: record {item.sample} is not the one that was measured")
            encoded = encoder.encode(made)
            return Prepared(encoded, encoder.pixels(made, encoded))

        return [[sample(item) for item in loader.plan.row(number)] for number in range(rows)]


def batch_of(encoder: Encoder, rows: Sequence[Sequence[Prepared]], length: int, patches: int) -> Batch:
    """Rows of so many tokens and patches."""
    batch = encoder.empty(len(rows), length, patches)
    for number, samples in enumerate(rows):
        row, start, vision = row_of(batch, number), 0, 0
        for segment, sample in enumerate(samples, 1):
            encoder.place(row, start, vision, *sample)
            end = start + len(sample.encoded.tokens)
            row.segment_ids[start:end] = segment
            start, vision = end, vision + sample.encoded.vision
    return batch


def room_of(batch: Batch) -> dict[str, Any]:
    """The stage's field that says how many patches or image slots these rows have, and its value."""
    if batch.patches is None:
        return {"images_per_row": batch.images.shape[1]}
    return {"patches_per_row": batch.patches.shape[1]}


def padded(encoder: Encoder, samples: Sequence[Prepared]) -> Batch:
    """The samples one to a row, each as long as the longest, with room for the most visuals."""
    length = max(len(sample.encoded.tokens) for sample in samples)
    vision = max(sample.encoded.vision for sample in samples)
    return batch_of(encoder, [[sample] for sample in samples], length, vision)


def ours(run: Run, stage: Stage, parameters: Parameters, batch: Batch) -> Callable[[], float]:
    """A step on a batch, as `train` compiles it; gives the loss."""
    rows, length = batch.tokens.shape
    stage = dataclasses.replace(stage, rows=rows, sequence_length=length, **room_of(batch))
    mesh = make_mesh(run.mesh, jax.devices()[:1])
    architecture = build(run.model, run.precision)
    copies = jax.tree.map(jax.numpy.copy, parameters)  # steps consume what they are given
    state, table = initial_state(run, stage, architecture, copies, mesh)
    placed = put_batch(batch, rows, mesh)
    step = compile_step(trace_step(run, stage, architecture, table, state, placed, mesh), mesh)
    held = [state]

    def run_step() -> float:
        held[0], metrics = step(held[0], placed)
        return float(metrics["loss"])

    return run_step


def torch_step(parameters: Sequence[torch.Tensor], loss_of: Callable[[], torch.Tensor]) -> Callable[[], float]:
    """A step in PyTorch, eager: forward, backward, clipping and AdamW; gives the loss."""
    optimizer = torch.optim.AdamW(parameters, RATE, BETAS, EPS, 0.0)

    def run_step() -> float:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return float(loss.detach())

    return run_step


def text_inputs(samples: Sequence[Prepared], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, mask and labels [N, longest] as transformers has them: labels stand at their own token, -100 is not learned."""
    width = max(len(sample.encoded.tokens) for sample in samples)
    ids, mask, labels = (np.full((len(samples), width), value) for value in (pad, 0, -100))
    for row, (encoded, _) in enumerate(samples):
        count = len(encoded.tokens)
        ids[row, :count], mask[row, :count] = encoded.tokens, 1
        # The first token of a sample is nobody's target.
        labels[row, :count] = np.where(encoded.supervised & (np.arange(count) > 0), encoded.tokens, -100)
    return torch.as_tensor(ids), torch.as_tensor(mask), torch.as_tensor(labels)


Theirs = Callable[[Encoder, Parameters, list[Prepared]], Callable[[], float]]
"""Makes the step of the model in PyTorch on these samples, from the same parameters."""


def compare(run: Run, rules: tuple[ParameterRule, ...], name: str, theirs: Theirs, options: StepOptions) -> None:
    """Prints samples/s of a recipe's step: packed, one sample to a row, and in PyTorch.

    Args:
      rules: what learns, at one rate.
      name: of the step in PyTorch.
    """
    stage = next(stage for stage in run.stages if stage.name == STAGE)
    stage = dataclasses.replace(stage, parameters=rules, schedule=Schedule(RATE, RATE, 0))
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, root=str(options.data)), mesh=MeshConfig(1, 1, 1))
    run = on_devices(run, make_mesh(run.mesh, jax.devices()[:1]))
    encoder = stage_encoder(run.model, stage, run.data.tokenizer)
    rows = prepare(run, stage, encoder, options.rows)
    samples = [sample for row in rows for sample in row]
    parameters = initialize(run.model, run.precision, 0)
    packed = batch_of(encoder, rows, stage.sequence_length, stage.vision_per_row)
    alone = padded(encoder, samples)
    ways = {
        f"packed, {_described(packed)}": ours(run, stage, parameters, packed),
        f"one to a row, {_described(alone)}": ours(run, stage, parameters, alone),
        name: theirs(encoder, parameters, samples),
    }
    _print_table(ways, len(samples), options.repeats)


def _print_table(ways: Mapping[str, Callable[[], float]], samples: int, repeats: int) -> None:
    """Runs the steps in turns and prints samples/s of each, the first one as the measure."""
    losses = [step() for step in ways.values()]  # and the first call compiles
    times = [[_timed(step) for step in ways.values()] for _ in range(repeats)]
    print(f"{samples} samples, float32, {torch.get_num_threads()} threads, median of {repeats} steps in turns\n")
    print("| step | loss of the first | seconds | samples/s | the first is faster by |\n|---|---|---|---|---|")
    seconds = [statistics.median(column) for column in zip(*times)]
    for name, loss, took in zip(ways, losses, seconds):
        print(f"| {name} | {loss:.5f} | {took:.3f} | {samples / took:.1f} | {took / seconds[0]:.2f} |")


def _timed(step: Callable[[], float]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def _described(batch: Batch) -> str:
    """Rows, tokens and room of a batch in words."""
    ((field, room),) = room_of(batch).items()
    rows, length = batch.tokens.shape
    return f"{rows} rows of {length} tokens and {room} {'patches' if field == 'patches_per_row' else 'images'}"
