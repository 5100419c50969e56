"""Promises of `qwenvl_jax.training.step`, with the loop's state and the compilation that `plan` shares."""

import dataclasses
import re
from functools import partial

import jax
import numpy as np
import pytest
import small_model
from small_model import PRECISION, random_batch, small_stage

from configs.qwen_vl import parameter_tables
from qwenvl_jax.config import MeshConfig, OptimizerConfig, PrecisionConfig
from qwenvl_jax.parallel.memory import HOST, device_bytes, host_bytes
from qwenvl_jax.parallel.mesh import make_mesh
from qwenvl_jax.training.compilation import compile_step, trace_step
from qwenvl_jax.training.loop import initial_state, put_batch
from qwenvl_jax.training.step import batch_loss

STEPS = 3
ADAMW = OptimizerConfig()
ONE, EIGHT = MeshConfig(1, 1, 1), MeshConfig(2, 2, 2)


def train(
    architecture,
    initial,
    batches,
    mesh_config: MeshConfig = ONE,
    family=small_model,
    optimizer: OptimizerConfig = ADAMW,
    precision: PrecisionConfig = PRECISION,
    **fields,
):
    """(metrics of every step, last state) of a few steps."""
    stage = family.small_stage(**fields)
    run = family.small_run(stage, optimizer=optimizer, precision=precision)
    count = mesh_config.data * mesh_config.fsdp * mesh_config.tensor
    mesh = make_mesh(mesh_config, jax.devices()[:count])
    state, table = initial_state(run, stage, architecture, initial, mesh)
    placed = [put_batch(batch, len(batch.tokens), mesh) for batch in batches]
    step = compile_step(trace_step(run, stage, architecture, table, state, placed[0], mesh), mesh)
    metrics = []
    for batch in placed:
        state, figures = step(state, batch)
        metrics.append(jax.tree.map(np.asarray, figures))
    return metrics, state


@pytest.fixture(scope="module")
def batches():
    return [random_batch(seed) for seed in range(STEPS)]


@pytest.fixture(scope="module")
def on_one_device(architecture, parameters, batches):
    return train(architecture, parameters, batches)


def same(ours, theirs) -> None:
    """Equal but for the order of sums, after updates that Adam has made independent of the gradients' scale."""
    for a, b in zip(ours[0], theirs[0]):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-5), a, b)
    for path, master in theirs[1].trained.items():
        np.testing.assert_allclose(ours[1].trained[path], master, atol=2e-3, err_msg=path)


def test_eight_devices_equal_one(family, family_architecture, family_parameters) -> None:
    """data x fsdp x tensor = 2 x 2 x 2 gives the losses, gradient norms and parameters of one device."""
    batches = [family.random_batch(seed) for seed in range(STEPS)]
    one, spread = (train(family_architecture, family_parameters, batches, mesh, family) for mesh in (ONE, EIGHT))
    same(spread, one)
    path = "language/blocks/up/kernel"
    kernel, moments = spread[1].trained[path], spread[1].optimizer[1].mu[path]
    layers, width, mlp = family_architecture.shapes[path].shape
    assert kernel.sharding.shard_shape(kernel.shape) == (layers, width // 2, mlp // 2)
    assert moments.sharding == kernel.sharding


def test_moments_on_the_hosts_change_nothing(architecture, parameters, batches) -> None:
    """They lie in the hosts' memory before and after each step, and are not counted as the devices'."""
    offloaded = dataclasses.replace(PRECISION, offload_moments=True)
    plain, beside = (train(architecture, parameters, batches, EIGHT, precision=p) for p in (PRECISION, offloaded))
    jax.tree.map(np.testing.assert_array_equal, plain, beside)
    kinds = {
        leaf.sharding.memory_kind for leaf in jax.tree.leaves((beside[1].optimizer[1].mu, beside[1].optimizer[1].nu))
    }
    assert kinds == {HOST}
    assert device_bytes(beside[1]) + host_bytes(beside[1]) == device_bytes(plain[1])
    assert host_bytes(beside[1]) == 2 * device_bytes(beside[1].trained)


def test_accumulation_changes_nothing(architecture, parameters, batches, on_one_device) -> None:
    """Two slices with different numbers of supervised tokens give the loss and update of the whole batch."""
    same(train(architecture, parameters, batches, accumulation=2), on_one_device)
    same(train(architecture, parameters, batches, EIGHT, accumulation=2), on_one_device)


def test_loss_and_gradient_are_means_over_supervised_tokens(architecture, parameters, batches, on_one_device) -> None:
    """The tasks' sums and counts add up to the loss; the gradient's norm is that of the mean, before clipping."""
    for batch, figures in zip(batches, on_one_device[0]):
        assert figures["task_tokens"].sum() == batch.loss_weights.sum()
        assert figures["loss"] == pytest.approx(figures["task_loss_sums"].sum() / batch.loss_weights.sum(), rel=1e-6)
    whole = jax.jit(
        jax.grad(partial(batch_loss, architecture, PRECISION, small_stage(), batch=batches[0]), has_aux=True)
    )
    gradients = whole(parameters)[0]
    squares = sum(float((g**2).sum()) for p, g in gradients.items() if p != "adapter/position")
    expected = squares**0.5 / batches[0].loss_weights.sum()
    assert on_one_device[0][0]["grad_norm"] == pytest.approx(expected, rel=1e-4)


def test_frozen_parameters_have_no_state_and_do_not_move(family, family_architecture, family_parameters) -> None:
    """After steps of stage 3 the vision tower's bits are the old ones; the optimizer knows the trained paths alone."""
    batches = [family.random_batch(seed) for seed in range(STEPS)]
    _, state = train(family_architecture, family_parameters, batches, family=family, parameters=family.TABLES["sft"])
    frozen = {path for path in family_architecture.shapes if re.fullmatch(family.SFT_FROZEN, path)}
    assert set(state.frozen) == frozen
    assert all(np.array_equal(state.frozen[p], family_parameters[p]) for p in frozen)
    moments = state.optimizer[1]
    assert set(moments.mu) == set(moments.nu) == set(state.trained) == set(family_architecture.shapes) - frozen
    assert not any(np.array_equal(state.trained[p], family_parameters[p]) for p in state.trained)


def poisoned(batch):
    return batch._replace(loss_weights=np.where(batch.loss_weights > 0, np.nan, 0).astype(np.float32))


@pytest.mark.parametrize("mesh", [ONE, EIGHT], ids=["one", "eight"])
def test_a_bad_batch_changes_nothing(architecture, parameters, batches, mesh: MeshConfig) -> None:
    """A loss that is not finite, and a batch without supervised tokens (loss 0), are skipped on all devices: masters and
    moments keep their bits, and the optimizer's counters go on."""
    silent = batches[0]._replace(loss_weights=np.zeros_like(batches[0].loss_weights))
    _, before = train(architecture, parameters, batches[:1], mesh)
    metrics, after = train(architecture, parameters, [batches[0], poisoned(batches[1]), silent], mesh)
    assert [figures["skipped"] for figures in metrics] == [0, 1, 1]
    assert np.isnan(metrics[1]["loss"])
    assert metrics[2]["loss"] == metrics[2]["grad_norm"] == 0
    floats = [x for x in jax.tree.leaves(before) if np.issubdtype(x.dtype, np.floating)]
    assert all(map(np.array_equal, floats, (x for x in jax.tree.leaves(after) if np.issubdtype(x.dtype, np.floating))))
    assert int(after.step) == int(before.step) + 2 == int(after.optimizer[1].count)


def test_a_large_gradient_may_be_skipped(architecture, parameters, batches) -> None:
    """Above `skip_above` nothing changes; below it, all is as ever."""
    norms = [float(figures["grad_norm"]) for figures in train(architecture, parameters, batches[:2])[0]]
    for limit, skipped in ((0.99 * min(norms), 1), (1.01 * max(norms), 0)):
        metrics, state = train(architecture, parameters, batches[:2], optimizer=OptimizerConfig(skip_above=limit))
        assert [figures["skipped"] for figures in metrics] == [skipped] * 2
        path = "language/blocks/up/kernel"
        assert np.array_equal(state.trained[path], parameters[path]) == bool(skipped)


def test_text_alone_needs_no_vision(architecture, parameters) -> None:
    """A stage with no image slots trains the language model; the vision tower is not even computed."""
    batch = random_batch(0, images=0)
    rules = parameter_tables(2, 0.95, 0.05)["sft"]
    rules = tuple(r for r in rules if not r.pattern.startswith("adapter"))
    adapter = dataclasses.replace(rules[0], pattern="adapter/.*", frozen=True)
    metrics, _ = train(architecture, parameters, [batch] * 4, images_per_row=0, parameters=(adapter, *rules))
    assert metrics[-1]["loss"] < metrics[0]["loss"]


def test_other_shapes_do_not_recompile(architecture, parameters, batches) -> None:
    """The step is one executable: a batch of another shape is a TypeError, never a silent compilation."""
    with pytest.raises(TypeError):
        train(architecture, parameters, [batches[0], random_batch(0, length=64)])


def test_rows_that_do_not_fit_the_mesh_are_refused(architecture, parameters, batches) -> None:
    """One sentence before anything is compiled."""
    with pytest.raises(ValueError, match="rows that work: 4, 8"):
        train(architecture, parameters, batches, EIGHT, rows=6)
