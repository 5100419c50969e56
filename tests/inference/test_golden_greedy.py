"""Greedy tokens are those of the PyTorch original's own loop, on the golden weights (tests/golden/README.md)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwenvl_jax.batch import IGNORED
from qwenvl_jax.config import AdapterConfig, LanguageConfig, PrecisionConfig, QwenVLConfig, VisionConfig
from qwenvl_jax.inference.decode import advance, prefill
from qwenvl_jax.models.fusion import place_vision
from qwenvl_jax.models.parameters import build
from qwenvl_jax.models.qwen_vl.weights import layout
from qwenvl_jax.models.weights import from_original

CONFIG = QwenVLConfig(
    vision=VisionConfig(width=64, layers=2, heads=4, mlp_width=315, patch=14, position_grid=16),
    adapter=AdapterConfig(query_grid=16, heads=1),
    language=LanguageConfig(vocab_size=512, width=128, layers=2, heads=1, mlp_width=176),
)
IMAGE_START = 400
NONE = np.zeros(0, np.int32)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parents[1] / "golden" / "qwen_vl_tiny.npz") as file:
        return {name: file[name] for name in file.files if not name.startswith(("io/grad", "io/logits"))}


@pytest.fixture(scope="module")
def model(golden):
    weights = {name.removeprefix("w/"): array for name, array in golden.items() if name.startswith("w/")}
    return build(CONFIG, PrecisionConfig(compute="float32")), jax.tree.map(
        jnp.asarray, from_original(weights, layout(CONFIG))
    )


@pytest.fixture(scope="module")
def prompts(golden, model):
    """(embedded [2, S, D], positions, segments): row 0 holds images 0 and 1, row 1, padded on the left, image 2."""
    architecture, parameters = model
    ids, mask = golden["io/ids_batch"], golden["io/mask_batch"].astype(np.int32)
    queries = CONFIG.adapter.queries
    vision_index = np.full(ids.shape, IGNORED)
    for row in range(2):
        for slot, start in enumerate(np.flatnonzero(ids[row] == IMAGE_START)):
            vision_index[row, start + 1 : start + 1 + queries] = np.arange(queries) + slot * queries

    @jax.jit
    def embed(pixels):
        module = architecture.assemble(parameters)
        vision = module.adapter(module.vision(pixels))
        slots = jnp.concatenate([vision, jnp.zeros_like(vision[:1])]).reshape(2, 2 * queries, -1)
        return place_vision(module.language.embed(ids), slots, vision_index)

    embedded = embed(golden["io/pixels_448_i8"].transpose(0, 2, 3, 1).astype(np.float32) / 32)
    return np.asarray(embedded), np.maximum(np.cumsum(mask, axis=1) - 1, 0), mask


def greedy(model, embedded, positions, segments, new: int) -> np.ndarray:
    state = prefill(*model, embedded, positions, segments, None, new_tokens=new, vocabulary=512)
    first = np.asarray(state.token)[:, None]
    _, rest = advance(*model, state, None, NONE, np.int32(new - 1), steps=new - 1, vocabulary=512)
    return np.concatenate([first, rest], axis=1)


def test_batched(golden, model, prompts) -> None:
    """Two rows of different lengths and different numbers of pictures, in one batch."""
    expected = golden["io/greedy_tokens"]
    # The smallest margin between a token and the next best lies far above the 5e-5 that logits may differ by.
    assert golden["io/greedy_margin"].min() > 1e-3
    assert np.array_equal(greedy(model, *prompts, expected.shape[1]), expected)


def test_each_prompt_alone(golden, model, prompts) -> None:
    """A row without its neighbour and without its padding."""
    expected = golden["io/greedy_tokens"]
    for row in range(2):
        text = prompts[2][row] == 1
        alone = [array[row : row + 1, text] for array in prompts]
        assert np.array_equal(greedy(model, *alone, expected.shape[1])[0], expected[row])
