"""How soon the language model of `tiny-qwen2` learns associative recall: a pair's second word, asked by its first.

    python -m launch.benchmarks.recall --near 0     # two words stand between the one that asks and the answer: `? is`
    python -m launch.benchmarks.recall --near 0.5   # in half of the samples they do not

A sample tells pairs ("red circle , blue square ,") and then asks for each by the word that its pair ends with, in random
order: "circle ? is red ." or, near, "circle red .". Words are ids of their own. Model, optimizer and step are those of stage
`language`, so this tells in minutes what else a run of it would; `look_ups` asks a run's model the same in words.
"""

import dataclasses
from dataclasses import dataclass

import jax
import numpy as np
import tyro

from configs.tiny_qwen2 import MODEL, tiny_qwen2
from qwenvl_jax.batch import Batch, stage_batch
from qwenvl_jax.models.parameters import build, initialize
from qwenvl_jax.parallel.mesh import make_mesh
from qwenvl_jax.training.loop import initial_state
from qwenvl_jax.training.optimizer import learning_rate, make_optimizer
from qwenvl_jax.training.step import make_step

COMMA, TOLD, ASKED, IS, STOP = range(1, 6)
FIRSTS, SECONDS = range(50, 60), range(100, 112)
"""Ids of the words that a pair begins and ends with."""


@dataclass(frozen=True)
class RecallOptions:
    """What is asked, and of which model."""

    steps: int = 400
    pairs: int = 3
    near: float = 0.5
    """Share of samples whose answers stand right behind the word that asks."""
    answers_only: bool = False
    """The loss is on the answers alone, instead of on every token."""
    kv_heads: int = 2
    seed: int = 0


def sample(rng: np.random.Generator, pairs: int, near: bool) -> tuple[list[int], list[bool]]:
    """Ids, and which of them are answers."""
    seconds = rng.permutation(SECONDS)[:pairs].tolist()
    firsts = rng.choice(FIRSTS, pairs).tolist()
    told = [id for first, second in zip(firsts, seconds) for id in (first, second, COMMA)] + [TOLD]
    between = [] if near else [ASKED, IS]
    asked = [id for i in rng.permutation(pairs) for id in (seconds[i], *between, firsts[i], STOP)]
    answers = ([False] * (1 + len(between)) + [True, False]) * pairs
    return told + asked, [False] * len(told) + answers


def fill(batch: Batch, rng: np.random.Generator, options: RecallOptions) -> tuple[np.ndarray, np.ndarray]:
    """Packs rows of samples into the batch; gives [B, S] where answers are predicted, near ones and far ones."""
    found = np.zeros((2, *batch.tokens.shape), bool)
    for row in range(batch.tokens.shape[0]):
        end, segment = 0, 0
        while True:
            near = bool(rng.random() < options.near)
            ids, answers = sample(rng, options.pairs, near)
            start, end, segment = end, end + len(ids), segment + 1
            if end > batch.tokens.shape[1]:
                break
            whole, predicted = slice(start, end), slice(start, end - 1)
            batch.tokens[row, whole], batch.targets[row, predicted] = ids, ids[1:]
            batch.segment_ids[row, whole], batch.positions[row, :, whole] = segment, np.arange(len(ids))
            found[0 if near else 1, row, predicted] = answers[1:]
            batch.loss_weights[row, predicted] = answers[1:] if options.answers_only else 1.0
    return found[0], found[1]


def main() -> None:
    options = tyro.cli(RecallOptions)
    run = tiny_qwen2()
    model = dataclasses.replace(MODEL, language=dataclasses.replace(MODEL.language, kv_heads=options.kv_heads))
    stage = next(stage for stage in run.stages if stage.name == "language")
    run, stage = dataclasses.replace(run, model=model), dataclasses.replace(stage, steps=options.steps)
    architecture, mesh = build(model, run.precision), make_mesh(run.mesh, jax.devices()[:1])
    state, table = initial_state(run, stage, architecture, initialize(model, run.precision, options.seed), mesh)
    optimizer = make_optimizer(run.optimizer, learning_rate(stage.schedule, stage.steps), table, architecture.shapes)
    step = jax.jit(make_step(architecture, run.precision, stage, optimizer, 0.0), donate_argnums=0)

    @jax.jit
    def predicted(parameters: dict[str, jax.Array], batch: Batch) -> jax.Array:
        assembled = architecture.assemble(parameters)
        return assembled.language.head(assembled.hidden(batch)).argmax(-1)

    rng = np.random.default_rng(options.seed)
    print("| steps | right, near | right, far | loss |\n|--:|--:|--:|--:|")
    for number in range(1, options.steps + 1):
        batch = stage_batch(model, stage, stage.rows, 0)
        answers = fill(batch, rng, options)
        measured = number % 100 == 0
        right = np.asarray(predicted({**state.trained, **state.frozen}, batch)) == batch.targets if measured else None
        state, metrics = step(state, batch)
        if right is not None:
            shares = [f"{right[these].mean():.2f}" if these.any() else "" for these in answers]
            print(f"| {number} | {' | '.join(shares)} | {float(metrics['loss']):.3f} |", flush=True)


if __name__ == "__main__":
    main()
