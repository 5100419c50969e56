"""Promises of `qwenvl_jax.training.compilation`: a stage has one step, no batch compiles another, and it must fit."""

import jax
import numpy as np
import pytest
from small_model import RESOLUTION, TRAIN_ALL, small_run, small_stage
from small_qwen2_vl import CONFIG

from qwenvl_jax.batch import Batch, empty_batch, stage_batch
from qwenvl_jax.config import MeshConfig, Run, Stage
from qwenvl_jax.parallel.mesh import make_mesh
from qwenvl_jax.training.compilation import abstract_batch, abstract_state, check_batch, check_memory


@pytest.fixture
def compiled() -> tuple[Run, Stage, Batch]:
    """A run of Qwen2-VL, its stage, and the batch as shapes that its step is compiled for."""
    stage = small_stage(images_per_row=0, resolution=0, patches_per_row=64)
    run = small_run(stage, model=CONFIG)
    return run, stage, abstract_batch(run, stage, make_mesh(run.mesh, jax.devices()[:1]))


def test_every_batch_of_a_stage_has_the_shapes_of_its_step(compiled) -> None:
    """Rows of a stage, full or empty; positions of M-RoPE on three axes, and no images."""
    run, stage, expected = compiled
    assert expected.positions.shape == (stage.rows, 3, stage.sequence_length)
    assert (expected.patches.shape, expected.patches.dtype) == ((stage.rows, 64, CONFIG.vision.patch_size), np.uint8)
    assert expected.images is None
    check_batch(stage_batch(run.model, stage, stage.rows, 0), expected)


@pytest.mark.parametrize(
    "field, sentence",
    [
        (
            "patches",
            r"batch\.patches is uint8\[8, 32, 1176\], and the stage's step was compiled for uint8\[8, 64, 1176\]",
        ),
        ("positions", r"batch\.positions is int32\[8, 48\], .* compiled for int32\[8, 3, 48\]"),
        ("tokens", r"batch\.tokens is int64\[8, 48\], .* compiled for int32\[8, 48\]"),
        ("images", r"batch\.images is uint8\[8, 2, 12, 12, 3\], .* compiled for not there"),
        ("patch_segments", r"batch\.patch_segments is not there, .* compiled for int32\[8, 64\]"),
    ],
)
def test_another_batch_is_named(compiled, field, sentence) -> None:
    """The argument that would compile the step again, what it is, and what it must be."""
    run, stage, expected = compiled
    batch = stage_batch(run.model, stage, stage.rows, 0)
    wrong = {
        "patches": batch.patches[:, :32],
        "positions": batch.positions[:, 0],
        "tokens": batch.tokens.astype(np.int64),
        "images": empty_batch(stage.rows, 1, 2, RESOLUTION, 0).images,
        "patch_segments": None,
    }
    with pytest.raises(ValueError, match=sentence):
        check_batch(batch._replace(**{field: wrong[field]}), expected)


@pytest.mark.parametrize("devices", [1, 4])
def test_what_a_stage_holds_is_counted_before_it_is_made(architecture, devices) -> None:
    """Masters, two moments and gradients of 4 bytes each: what does not fit is refused, and sharing it helps."""
    stage = small_stage(parameters=TRAIN_ALL)
    run = small_run(stage)
    mesh = make_mesh(MeshConfig(1, devices, 1), jax.devices()[:devices])
    state, _ = abstract_state(run, stage, architecture, mesh)
    whole = 16 * architecture.size
    # What fsdp does not divide lies on every device, so four of them hold more than a quarter each.
    check_memory(state, stage, whole if devices == 1 else 0.6 * whole)
    with pytest.raises(ValueError, match=r"take 0\.0 GB on each device, which has 0\.0: share them among more devices"):
        check_memory(state, stage, whole / devices * 0.99)
