"""Promises of plans for either model: what a row has room for is said, and heads of keys divide over the mesh."""

import dataclasses
from types import SimpleNamespace

import pytest
from small_model import small_run, small_stage

from configs.qwen2_vl import MODEL_2B, MODEL_7B
from configs.qwen_vl import MODEL
from qwenvl_jax.config import MeshConfig
from qwenvl_jax.models.segment_attention import BLOCK, KERNEL_BLOCK
from qwenvl_jax.planning.fit import meshes
from qwenvl_jax.planning.plan import SLICE, Memory, Plan, Time, vision_attention
from qwenvl_jax.planning.report import to_json, to_text

PLAN = Plan(
    recipe="r", stage="sft", topology="v5p:2x2x1", devices=4, mesh={"fsdp": 4}, rows=8, sequence_length=1000,
    images_per_row=3, resolution=448, patches_per_row=0, patches_per_slice=0, accumulation=1, remat="nothing",
    vision_remat="nothing", attention="xla", steps=10, memory=Memory(1e9, 1e9, 0, 3e9, 3e9, 16e9), flops={}, executed={},
    time=Time(1, 1, 1, 2.0, 0, True), peak_flops=1e12,
)  # fmt: skip
PATCHES = dataclasses.replace(PLAN, images_per_row=0, resolution=0, patches_per_row=4096, patches_per_slice=2304)
TEXT = dataclasses.replace(PATCHES, patches_per_row=0)


@pytest.mark.parametrize(
    "plan, room, speed",
    [
        (PLAN, "1000 tokens, 3 images a row at 448 pixels; remat", "4,000 tokens/s, 12 images/s; 10 steps"),
        (
            PATCHES,
            "1000 tokens, 4096 patches a row, as if in images of 2304; remat",
            "4,000 tokens/s, 16,384 patches/s; 10 steps",
        ),
        (TEXT, "1000 tokens, text alone; remat", "4,000 tokens/s; 10 steps"),
    ],
    ids=["Qwen-VL", "Qwen2-VL", "text"],
)
def test_what_a_row_has_room_for(plan, room, speed) -> None:
    """Images and their resolution, patches, or neither; programs get all three."""
    assert room in to_text(plan)
    assert speed in to_text(plan)
    figures = to_json(plan)
    assert (figures["images_per_row"], figures["patches_per_row"]) == (plan.images_per_row, plan.patches_per_row)
    assert figures["patches_per_second"] == 4 * plan.patches_per_row


@pytest.mark.parametrize("model, tensor", [(MODEL, [1, 2, 4, 8]), (MODEL_2B, [1, 2]), (MODEL_7B, [1, 2, 4])])
def test_heads_of_keys_divide_over_the_mesh(model, tensor) -> None:
    """The 2B has two of them, the 7B four: a larger tensor axis would split a head."""
    stage = small_stage(rows=64)
    topology = SimpleNamespace(devices=range(64), slices=1)
    assert [mesh.tensor for mesh in meshes(small_run(stage, model=model), stage, topology)] == tensor


@pytest.mark.parametrize("model, tensor", [(MODEL, [1, 2, 4]), (MODEL_2B, [1]), (MODEL_7B, [1])])
def test_context_is_the_runs(model, tensor) -> None:
    """The search keeps the axis, and with it tries what divides the heads of all parts: 16 of the ViT, 12 or 28 of Qwen2."""
    stage = small_stage(rows=64)
    topology, run = (
        SimpleNamespace(devices=range(64), slices=1),
        small_run(stage, model=model, mesh=MeshConfig(context=4)),
    )
    assert [(mesh.tensor, mesh.context, mesh.fsdp) for mesh in meshes(run, stage, topology)] == [
        (size, 4, 16 // size) for size in tensor
    ]


@pytest.mark.parametrize("attention", ["xla", "splash"])
def test_what_rows_hold_is_assumed_once(attention: str) -> None:
    """FLOPs that are needed and turns of the loop follow the same slices: nearly all scores computed are needed, and rows of
    twice as many patches cost twice as much."""
    stage = small_stage(rows=8, images_per_row=0, resolution=0, patches_per_row=16 * SLICE)
    turns, scores = vision_attention(stage, attention)
    assert scores is not None
    # So that no block has two slices; only the last turns are not full.
    assert SLICE % BLOCK == SLICE % KERNEL_BLOCK == 0
    assert 16 * SLICE**2 <= scores / 8 < 1.02 * 16 * SLICE**2
    more, twice = vision_attention(dataclasses.replace(stage, patches_per_row=32 * SLICE), attention)
    assert twice == pytest.approx(2 * scores, rel=0.01)
    assert more == pytest.approx(2 * turns, rel=0.01)
    assert vision_attention(small_stage(images_per_row=2), attention) == (1, None)
