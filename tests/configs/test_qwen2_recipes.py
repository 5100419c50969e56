"""Promises of the recipes of Qwen2-VL: the published sizes, and what the paper's stages train."""

import math

import pytest

from configs.qwen2_vl import MODEL_2B, MODEL_7B, MODEL_72B, SIZES
from configs.recipes import recipe
from data_pipelines.tasks import tasks_of
from qwenvl_jax.models.parameters import build
from qwenvl_jax.processing.qwen2_tokens import QWEN2_VL
from qwenvl_jax.processing.tokenizer import load_tokenizer
from qwenvl_jax.training.optimizer import resolve

PUBLISHED = {
    "qwen2-vl-2b": (MODEL_2B, 2_208_985_600),
    "qwen2-vl-7b": (MODEL_7B, 8_291_375_616),
    "qwen2-vl-72b": (MODEL_72B, 73_405_560_320),
}
FROZEN = {"pretrain": {"language"}, "multitask": set(), "sft": {"vision", "merger"}}


@pytest.fixture(scope="module", params=PUBLISHED)
def run(request):
    return recipe(request.param)


def test_every_published_size_has_its_recipe(run) -> None:
    """The run is named as its recipe, and its model has exactly the published number of parameters."""
    assert SIZES.keys() == PUBLISHED.keys()
    model, parameters = PUBLISHED[run.name]
    assert run.model == model
    assert build(run.model, run.precision).size == parameters


def test_tables_cover_every_parameter_and_freeze_what_the_paper_does(run) -> None:
    """ViT and merger alone learn in stage 1, all in stage 2, the LLM alone in stage 3; no rule is idle."""
    shapes = build(run.model, run.precision).shapes
    assert [stage.name for stage in run.stages] == list(FROZEN)
    for stage in run.stages:
        table = resolve(stage.parameters, shapes)
        assert set(table.frozen) == {path for path in shapes if path.split("/")[0] in FROZEN[stage.name]}
        decayed = {path for path in table.trained if table.rules[path].weight_decay}
        assert not any(path.endswith(("bias", "scale")) for path in decayed)


def test_stage_two_has_a_slower_vision_tower(run) -> None:
    """Learning rates per part stand in the parameter table."""
    table = resolve(run.stages[1].parameters, build(run.model, run.precision).shapes)
    rates = {path.split("/")[0]: table.rules[path].learning_rate for path in table.trained}
    assert rates == {"vision": 0.2, "merger": 1.0, "language": 1.0}


def test_stages_see_as_many_tokens_as_the_paper(run) -> None:
    """600 and 800 billion positions; the largest image and video that its limits allow have room beside text."""
    assert [stage.steps * stage.rows * stage.sequence_length for stage in run.stages[:2]] == pytest.approx(
        [600e9, 800e9], rel=1e-4
    )
    for stage in run.stages:
        most = max(stage.image_limits.max_pixels, stage.video_limits.total_pixels) // 28**2
        assert 4 * most <= stage.patches_per_row
        assert most < stage.sequence_length
        assert {component.task for component in stage.mixture} <= set(tasks_of(run.model))


def test_rows_and_vocabulary_divide(run) -> None:
    """Chunks of the loss divide the vocabulary on meshes of up to 8 tensor shards; rows divide over 64 data shards."""
    chunks = run.precision.loss_chunks
    assert all(run.model.language.vocab_size % (chunks * tensor) == 0 for tensor in (1, 2, 4, 8))
    assert math.gcd(*(stage.rows for stage in run.stages)) % 64 == 0


def test_tiny_has_the_papers_stages_behind_what_stands_in_for_its_downloads() -> None:
    """Every parameter has its rule in every stage; ViT alone, LLM alone, then as in the paper; under five million weights,
    and ids for its whole vocabulary."""
    run = recipe("tiny-qwen2")
    architecture = build(run.model, run.precision)
    assert architecture.size < 5e6
    frozen = {"vision": {"merger", "language"}, "language": {"vision", "merger"}, **FROZEN}
    assert [stage.name for stage in run.stages] == list(frozen)
    for stage in run.stages:
        table = resolve(stage.parameters, architecture.shapes)
        assert {path.split("/")[0] for path in table.frozen} == frozen[stage.name]
        assert not {path.split("/")[0] for path in table.trained} & frozen[stage.name]
    assert load_tokenizer(run.data.tokenizer, QWEN2_VL).size <= run.model.language.vocab_size
