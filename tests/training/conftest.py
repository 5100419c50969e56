"""The small models that promises of training hold for, one of each family."""

import pytest
import small_model
import small_qwen2_vl

from qwenvl_jax.models import segment_attention
from qwenvl_jax.models.parameters import Architecture, build

FAMILIES = {"qwen_vl": small_model, "qwen2_vl": small_qwen2_vl}


@pytest.fixture(scope="module", autouse=True)
def _patches_in_blocks():
    """The small models' patches are cut into blocks as those of long rows are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_attention, "SHORT", 0)
        patch.setattr(segment_attention, "BLOCK", 16)
        yield


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """A module with CONFIG, TABLES, SFT_FROZEN, `random_batch`, `small_stage` and `small_run`."""
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def family_architecture(family) -> Architecture:
    return build(family.CONFIG, family.PRECISION)


@pytest.fixture(scope="module")
def family_parameters(family_architecture) -> dict:
    """Random float32 arrays on the host, also where a new model has zeros."""
    return small_model.random_parameters(family_architecture)
