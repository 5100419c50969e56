"""Promises of `qwenvl_jax.training.flops`: the formula counts what the step computes."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from small_model import TRAIN_ALL, small_run, small_stage

from configs.qwen_vl import parameter_tables
from configs.tiny_qwen2 import tiny_qwen2
from qwenvl_jax.batch import empty_batch
from qwenvl_jax.config import AdapterConfig, LanguageConfig, ParameterRule, PrecisionConfig, QwenVLConfig, VisionConfig
from qwenvl_jax.models.parameters import build
from qwenvl_jax.training.flops import forward_flops, peak_flops, step_flops
from qwenvl_jax.training.optimizer import learning_rate, make_optimizer, resolve
from qwenvl_jax.training.step import TrainState, make_step

CONFIG = QwenVLConfig(
    vision=VisionConfig(width=96, layers=4, heads=2, mlp_width=192, patch=4, position_grid=4),
    adapter=AdapterConfig(query_grid=4, heads=2),
    language=LanguageConfig(vocab_size=480, width=128, layers=4, heads=2, mlp_width=192),
)
TABLES = parameter_tables(CONFIG.vision.layers, 0.95, 0.05) | {"everything": TRAIN_ALL}


def sums_rows(product: JaxprEqn) -> bool:
    """Whether this is a bias's gradient: a sum over all rows, written as a product with eight rows of ones at the highest
    precision (`layers.biased`)."""
    (contracted, _), (batched, _) = product.params["dimension_numbers"]
    ones = product.invars[0].aval
    everything_but_8 = ones.shape[0] == 8 and tuple(contracted) == tuple(range(1, ones.ndim)) and not batched
    return everything_but_8 and product.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2


def matmul_flops(jaxpr: Jaxpr) -> float:
    """2 m n k of every dot_general, those of a scan's body as often as it runs; sums are left out, as the formula does."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general" and not sums_rows(equation):
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr)
        ):
            if isinstance(inner, Jaxpr | ClosedJaxpr):
                total += times * matmul_flops(getattr(inner, "jaxpr", inner))
    return total


def traced_flops(stage) -> float:
    """Of the whole training step, from its jaxpr: nothing is allocated or compiled."""
    precision = PrecisionConfig(compute="float32", remat="everything", loss_chunks=1)
    run, architecture = small_run(stage, model=CONFIG, precision=precision), build(CONFIG, precision)
    table = resolve(stage.parameters, architecture.shapes)
    optimizer = make_optimizer(run.optimizer, learning_rate(stage.schedule, stage.steps), table, architecture.shapes)
    trained, frozen = ({p: architecture.shapes[p] for p in paths} for paths in (table.trained, table.frozen))
    state = TrainState(jax.ShapeDtypeStruct((), np.int32), trained, frozen, jax.eval_shape(optimizer.init, trained))
    batch = empty_batch(stage.rows, stage.sequence_length, stage.images_per_row, stage.resolution, 0)
    return matmul_flops(jax.make_jaxpr(make_step(architecture, precision, stage, optimizer, 0.0))(state, batch).jaxpr)


@pytest.mark.parametrize("length", [96, 512])
@pytest.mark.parametrize("table", TABLES)
def test_formula_meets_the_jaxpr(table: str, length: int) -> None:
    """Within 2 %, for every stage's frozen parts: a weight gradient of a frozen part would be 8 % at least.

    The jaxpr has one forward of the loss more (its chunks are recomputed, which the formula leaves out by definition), and
    the formula ignores what is small: interpolated positions, sums per task, and that the adapter's queries are projected
    once for all images, that pixels get no gradient, and that the first trained layer passes none on.
    """
    stage = small_stage(rows=4, sequence_length=length, images_per_row=3, resolution=32, parameters=TABLES[table])
    architecture = build(CONFIG, PrecisionConfig())
    trained = resolve(stage.parameters, architecture.shapes).trained
    counted = step_flops(CONFIG, stage, trained)
    recomputed = forward_flops(CONFIG, stage)["loss"]
    assert sum(counted.values()) + recomputed == pytest.approx(traced_flops(stage), rel=0.02)
    everything = step_flops(CONFIG, stage, tuple(architecture.shapes))
    for part in ("vision", "language"):
        if not any(path.startswith(part) for path in trained):
            assert everything[part] - counted[part] > 0.08 * sum(counted.values())


def test_labels_of_patches_cost_the_vision_encoder_alone() -> None:
    """Within 2 % of the jaxpr: nothing but the ViT is computed and trained."""
    rules = (ParameterRule("vision/.*"), ParameterRule(".*", frozen=True))
    classes = (3, 2)
    stage = small_stage(
        rows=4, images_per_row=3, resolution=32, sequence_length=3 * 64 * 2, parameters=rules, patch_classes=classes
    )
    counted = step_flops(CONFIG, stage, resolve(rules, build(CONFIG, PrecisionConfig()).shapes).trained)
    assert sum(counted.values()) == counted["vision"] == pytest.approx(traced_flops(stage), rel=0.02)


def test_labels_of_packed_patches_cost_the_vision_encoder_alone() -> None:
    """Of Qwen2-VL: the ViT's forward and backward passes, and no matmul of merger, language model or loss."""
    run = tiny_qwen2()
    stage = run.stages[0]
    counted = step_flops(run.model, stage, resolve(stage.parameters, build(run.model, run.precision).shapes).trained)
    whole = forward_flops(run.model, dataclasses.replace(stage, patch_classes=()))
    assert sum(counted.values()) == counted["vision"] == 3 * whole["vision"]


def test_accumulation_costs_nothing() -> None:
    """Slices of a batch add up to the batch."""
    stage = small_stage(sequence_length=96, resolution=32)
    assert traced_flops(dataclasses.replace(stage, accumulation=4)) == pytest.approx(traced_flops(stage), rel=0.01)


def test_text_alone_has_no_vision() -> None:
    """A stage without image slots counts language and loss, three passes each."""
    stage = small_stage(images_per_row=0)
    paths = tuple(build(CONFIG, PrecisionConfig()).shapes)
    counted, forward = step_flops(CONFIG, stage, paths), forward_flops(CONFIG, stage)
    assert counted == {"vision": 0, "adapter": 0, "language": 3 * forward["language"], "loss": 3 * forward["loss"]}


def test_the_peak_of_a_cpu_is_measured() -> None:
    """Between a very old and a very large machine."""
    assert 1e8 < peak_flops() < 1e14
