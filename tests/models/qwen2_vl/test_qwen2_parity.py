"""Parity with `Qwen2VLForConditionalGeneration` of transformers 4.57.6 in float32, on random weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from original_inputs import columns, inputs_of
from small_model import small_stage
from small_qwen2_vl import CONFIG, PRECISION, SmallSample, make_sample, pack

from qwenvl_jax.config import OptimizerConfig, ParameterRule, Schedule
from qwenvl_jax.models.qwen2_vl.weights import layout, released_name
from qwenvl_jax.models.weights import to_original
from qwenvl_jax.processing.patches import Grid
from qwenvl_jax.training.optimizer import learning_rate, make_optimizer, resolve
from qwenvl_jax.training.step import batch_loss

LENGTH, PATCHES = 64, 256

SAMPLES = {
    "text": (12,),
    "one image": (3, Grid(1, 4, 6), 5),
    "several images": (2, Grid(1, 4, 4), 3, Grid(1, 2, 8), Grid(1, 6, 4), 4),
    "video with more slices than its height or width": (3, Grid(6, 4, 4), 6),
    "mixed": (1, Grid(3, 4, 2), 2, Grid(1, 4, 6), 3, Grid(4, 2, 2), Grid(1, 2, 2), 5),
}


@pytest.fixture(scope="module")
def samples() -> dict[str, SmallSample]:
    rng = np.random.default_rng(0)
    return {name: make_sample(rng, *pieces) for name, pieces in SAMPLES.items()}


@pytest.fixture(scope="module")
def logits_of(qwen2_architecture, qwen2_parameters):
    """batch -> logits; one compiled function for rows of one shape."""
    return jax.jit(lambda batch: qwen2_architecture.assemble(qwen2_parameters)(batch))


@pytest.mark.parametrize("left", [False, True], ids=["right-padded", "left-padded"])
def test_logits(samples, original, logits_of, table, left: bool) -> None:
    """Text, images, videos and all of them together, as rows of one batch."""
    with torch.no_grad():
        theirs = original(**inputs_of(list(samples.values()), left)).logits.numpy()
    batch = pack([[sample] for sample in samples.values()], LENGTH, PATCHES, left)
    ours = np.asarray(logits_of(batch))
    for row, (name, sample) in enumerate(samples.items()):
        here, there = columns(sample, LENGTH, left), columns(sample, theirs.shape[1], left)
        table.compare(f"logits: {name}", ours[row, here], theirs[row, there], 2e-5)


def labels_of(samples: list[SmallSample]) -> torch.Tensor:
    """The tokens that our loss weights let the position before them learn; -100 elsewhere."""
    labels = np.full((len(samples), max(len(sample.tokens) for sample in samples)), -100)
    for row, sample in enumerate(samples):
        learned = np.flatnonzero(sample.loss_weights) + 1
        labels[row, learned] = sample.tokens[learned]
    return torch.as_tensor(labels)


@pytest.fixture(scope="module")
def theirs_graded(samples, original) -> tuple[float, dict[str, np.ndarray]]:
    """(loss, gradients under released names) of the whole batch."""
    original.zero_grad()
    loss = original(**inputs_of(list(samples.values()), False), labels=labels_of(list(samples.values()))).loss
    loss.backward()
    return loss.item(), {released_name(name): p.grad.numpy().copy() for name, p in original.named_parameters()}


@pytest.fixture(scope="module")
def ours_graded(samples, qwen2_architecture, qwen2_parameters) -> tuple[float, dict[str, jax.Array]]:
    """(loss, gradients under our paths) of the same batch."""
    batch = pack([[sample] for sample in samples.values()], LENGTH, PATCHES)
    graded = jax.jit(
        jax.value_and_grad(partial(batch_loss, qwen2_architecture, PRECISION, small_stage()), has_aux=True)
    )
    (loss, sums), gradients = graded(qwen2_parameters, batch)
    tokens = sums.tokens.sum()
    return float(loss / tokens), jax.tree.map(lambda gradient: gradient / tokens, gradients)


def test_loss_and_gradients(theirs_graded, ours_graded, table) -> None:
    """The loss, and the gradient of every tensor, by the norm of the difference."""
    table.compare("loss", ours_graded[0], theirs_graded[0], 1e-4, relative=True)
    gradients = to_original(ours_graded[1], layout(CONFIG))
    assert gradients.keys() == theirs_graded[1].keys()
    for name, theirs in theirs_graded[1].items():
        assert np.linalg.norm(theirs) > 1e-5, name  # rotary positions keep that of the biases of keys from being zero
        table.compare("gradient of every tensor", gradients[name], theirs, 1e-4, relative=True)


def test_one_adamw_step(theirs_graded, ours_graded, original, qwen2_architecture, qwen2_parameters, table) -> None:
    """Clipping, Adam's first moments and decoupled decay move every tensor as torch's AdamW does.

    eps of 1e-4 lets the first step follow the gradient's size; with 1e-8 it would be its sign, also of rounding noise.
    """
    rate, decay, eps = 1e-2, 0.1, 1e-4
    copies = {released_name(name): torch.nn.Parameter(p.detach().clone()) for name, p in original.named_parameters()}
    before = {name: copy.detach().numpy().copy() for name, copy in copies.items()}
    for name, copy in copies.items():
        copy.grad = torch.as_tensor(theirs_graded[1][name]).clone()
    norm = torch.nn.utils.clip_grad_norm_(list(copies.values()), 1.0)
    assert norm > 1.0
    torch.optim.AdamW(list(copies.values()), rate, (0.9, 0.98), eps, decay).step()

    rules = resolve((ParameterRule(".*", weight_decay=decay),), qwen2_architecture.shapes)
    schedule = learning_rate(Schedule(rate, rate, 0), 8)
    optimizer = make_optimizer(OptimizerConfig(eps=eps), schedule, rules, qwen2_architecture.shapes)
    update = jax.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p)[0])
    updates = update(ours_graded[1], qwen2_parameters)
    after = to_original(jax.tree.map(jnp.add, qwen2_parameters, updates), layout(CONFIG))
    for name, copy in copies.items():
        # Differences of float32 parameters of order one: a step of 1e-2 is known to 6e-6 of its size.
        moved = copy.detach().numpy() - before[name]
        table.compare(
            "one AdamW step of every tensor", np.asarray(after[name]) - before[name], moved, 1e-4, relative=True
        )
