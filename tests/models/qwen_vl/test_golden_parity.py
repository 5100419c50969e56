"""Parity with the PyTorch original on `tests/golden/qwen_vl_tiny.npz` (see the README there)."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwenvl_jax.batch import IGNORED
from qwenvl_jax.config import AdapterConfig, LanguageConfig, PrecisionConfig, QwenVLConfig, VisionConfig
from qwenvl_jax.models.attention import attention
from qwenvl_jax.models.fusion import place_vision
from qwenvl_jax.models.parameters import build
from qwenvl_jax.models.qwen_vl.language import empty_cache
from qwenvl_jax.models.qwen_vl.weights import from_original, to_original
from qwenvl_jax.training.loss import token_losses

CONFIG = QwenVLConfig(
    vision=VisionConfig(width=64, layers=2, heads=4, mlp_width=315, patch=14, position_grid=16),
    adapter=AdapterConfig(query_grid=16, heads=1),
    language=LanguageConfig(vocab_size=512, width=128, layers=2, heads=1, mlp_width=176),
)
IMAGE_START = 400
QUERIES = CONFIG.adapter.queries


@pytest.fixture(scope="module", autouse=True)
def _exact_matmuls():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parents[2] / "golden" / "qwen_vl_tiny.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def model(golden):
    """(architecture, parameters) with the original's weights."""
    weights = {name.removeprefix("w/"): array for name, array in golden.items() if name.startswith("w/")}
    return build(CONFIG, PrecisionConfig(compute="float32")), jax.tree.map(jnp.asarray, from_original(weights, CONFIG))


def close(ours, theirs) -> None:
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-4, atol=5e-5)


def pixels_of(golden) -> np.ndarray:
    """[3, 448, 448, 3], already normalised."""
    return golden["io/pixels_448_i8"].transpose(0, 2, 3, 1).astype(np.float32) / 32


class Text(NamedTuple):
    """The batch of the golden file with our positions and segments, [2, S]."""

    ids: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    vision_index: np.ndarray


def text_of(golden) -> Text:
    ids, mask = golden["io/ids_batch"], golden["io/mask_batch"].astype(np.int32)
    vision_index = np.full(ids.shape, IGNORED)
    for row in range(2):
        for slot, start in enumerate(np.flatnonzero(ids[row] == IMAGE_START)):
            vision_index[row, start + 1 : start + 1 + QUERIES] = np.arange(QUERIES) + slot * QUERIES
    return Text(ids, np.maximum(np.cumsum(mask, axis=1) - 1, 0), mask, vision_index)


def embed(module, pixels, text: Text) -> jax.Array:
    """Rows 0 and 1 hold images (0, 1) and (2, nothing)."""
    tokens = module.adapter(module.vision(pixels))
    slots = jnp.concatenate([tokens, jnp.zeros_like(tokens[:1])]).reshape(2, 2 * QUERIES, -1)
    return place_vision(module.language.embed(text.ids), slots, text.vision_index)


@pytest.mark.parametrize("resolution", [448, 224])
def test_vision_tokens(golden, model, resolution: int) -> None:
    """Trunk, position interpolation (32 x 32 grid), no interpolation (16 x 16), adapter, ln_post and proj."""
    architecture, parameters = model
    pixels = pixels_of(golden) if resolution == 448 else pixels_of(golden)[:1, ::2, ::2]
    module = architecture.assemble(parameters)
    close(jax.jit(lambda x: module.adapter(module.vision(x)))(pixels), golden[f"io/vis_{resolution}"])


def test_logits_of_a_left_padded_batch(golden, model) -> None:
    """Image insertion, rotary positions without the padding, causal mask, RMSNorm, the gate's order."""
    architecture, parameters = model
    text, module = text_of(golden), architecture.assemble(parameters)

    @jax.jit
    def run(pixels):
        hidden = module.language(embed(module, pixels, text), text.positions, text.segments)
        return module.language.head(hidden)

    real = text.segments == 1
    close(np.asarray(run(pixels_of(golden)))[real], golden["io/logits_batch"][real])


def originals_attention(q, k, v, *, query_segments, key_segments, causal, query_start, implementation) -> jax.Array:
    """Ours for real queries; for padding what the original's two added masks make of it.

    The golden loss has one target that padding predicts: the first token of the left-padded row. We never learn that.
    float32's lowest number swallows the scores, so padding sees earlier padding and later text with equal weights, while the
    gradient still passes to the scores.
    """
    ours = attention(
        q, k, v, query_segments=query_segments, key_segments=key_segments, causal=causal, query_start=query_start,
        implementation=implementation,
    )  # fmt: skip
    earlier = jnp.arange(q.shape[1])[:, None] >= jnp.arange(k.shape[1])
    seen = jnp.where(key_segments[:, None] == 0, earlier, ~earlier)
    scores = jnp.einsum("bsnh,btnh->bnst", q, k) * q.shape[-1] ** -0.5
    swallowed = jnp.where(seen[:, None], scores - jax.lax.stop_gradient(scores), jnp.finfo(q.dtype).min)
    theirs = jnp.einsum("bnst,btnh->bsnh", jax.nn.softmax(swallowed), v)
    return jnp.where(query_segments[:, :, None, None] == 0, theirs, ours)


@pytest.fixture(scope="module")
def graded(golden, model):
    """(loss, gradients by original name) of the golden batch, with the original's treatment of padding."""
    architecture, parameters = model
    text, labels = text_of(golden), golden["io/labels"]
    targets = np.concatenate([labels[:, 1:], np.full((2, 1), -100)], axis=1)
    weights = (targets != -100).astype(np.float32)

    @jax.jit
    @jax.value_and_grad
    def run(parameters):
        module = architecture.assemble(parameters)
        x = embed(module, pixels_of(golden), text)
        hidden = module.language(x, np.arange(text.ids.shape[1])[None], text.segments)  # padding counts there
        losses = token_losses(hidden, module.language.head.kernel[...], np.maximum(targets, 0), chunks=4)
        return (losses * weights).sum() / weights.sum()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qwenvl_jax.models.qwen_vl.language.attention", originals_attention)
        loss, gradients = run(parameters)
    return loss, to_original(gradients, CONFIG)


def test_loss(golden, graded) -> None:
    """The chunked loss on shifted targets is the original's."""
    close(graded[0], golden["io/loss"])


def test_gradients(golden, graded) -> None:
    """Every trained tensor's gradient, by its norm, and seven of them in full."""
    gradients = graded[1]
    norms = {name.removeprefix("io/gradnorm/"): float(v) for name, v in golden.items() if "/gradnorm/" in name}
    assert set(norms) == set(gradients) - {"transformer.visual.attn_pool.pos_embed"}
    for name, norm in norms.items():
        np.testing.assert_allclose(np.linalg.norm(gradients[name]), norm, rtol=1e-4, atol=5e-5, err_msg=name)
    whole = [name for name in golden if name.startswith("io/grad/")]
    assert len(whole) == 7
    for name in whole:
        close(gradients[name.removeprefix("io/grad/")], golden[name])


@pytest.fixture(scope="module")
def decoding(golden, model):
    """(logits of the prompts' last token, cache, step function) of the golden batch."""
    architecture, parameters = model
    text, module = text_of(golden), architecture.assemble(parameters)
    length = text.ids.shape[1]

    @jax.jit
    def prefill(pixels):
        language = module.language
        cache = empty_cache(CONFIG.language, 2, length + 24, "float32")
        hidden, cache = language.extend(embed(module, pixels, text), text.positions, text.segments, cache)
        return language.head(hidden[:, -1:]), cache

    @jax.jit
    def step(ids, cache):
        language = module.language
        positions = text.positions[:, -1:] + 1 + cache.length - length
        hidden, cache = language.extend(language.embed(ids), positions, jnp.ones_like(ids), cache)
        return language.head(hidden), cache

    return *prefill(pixels_of(golden)), step


def test_cached_steps(golden, decoding) -> None:
    """Tokens fed one at a time behind a left-padded prompt see what the original's cache holds."""
    _, cache, step = decoding
    close(step(golden["io/step_ids"], cache)[0], golden["io/logits_step"])
    for i in range(8):
        logits, cache = step(golden["io/steps_ids"][:, i : i + 1], cache)
        close(logits[:, 0], golden["io/steps_logits"][:, i])


@pytest.mark.parametrize("name", ["long", "long2"])
def test_prompts_longer_than_the_training_length(golden, model, name: str) -> None:
    """2,100 and 4,200 tokens: dynamic NTK with alpha 3 and 7, and logn."""
    architecture, parameters = model
    ids = golden[f"io/ids_{name}"]
    language = architecture.assemble(parameters).language

    @jax.jit
    def last_logits(ids):
        cache = empty_cache(CONFIG.language, 1, ids.shape[1], "float32")
        positions = jnp.arange(ids.shape[1])[None]
        hidden, _ = language.extend(language.embed(ids), positions, jnp.ones_like(ids), cache)
        return language.head(hidden[:, -4:])

    close(last_logits(ids), golden[f"io/logits_{name}_last4"])


def test_greedy_tokens(golden, decoding) -> None:
    """24 greedy tokens are the original's; their margins are far above rounding."""
    logits, cache, step = decoding
    assert golden["io/greedy_margin"].min() > 1e-3
    chosen = []
    for _ in range(24):
        chosen.append(jnp.argmax(logits[:, -1:], axis=-1))
        logits, cache = step(chosen[-1], cache)
    assert np.array_equal(np.concatenate(chosen, axis=1), golden["io/greedy_tokens"])
