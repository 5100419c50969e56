"""Parity with the PyTorch original on the reference files of `tests/golden` (see the README there).

`pytest -s tests/models/qwen_vl/test_golden_parity.py` prints what was measured.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity_table import ParityTable
from reference_outputs import embed, pixels_of, text_of

from qwenvl_jax.config import PrecisionConfig
from qwenvl_jax.models.attention import attention
from qwenvl_jax.models.parameters import build
from qwenvl_jax.models.qwen_vl.weights import layout
from qwenvl_jax.models.weights import from_original, to_original
from qwenvl_jax.training.loss import token_losses

ACTIVATIONS = 5e-5
"""Absolute. An independent implementation in float64 meets the original's float32 within 1.4e-5."""
GRADIENTS = 1e-4
"""Of a tensor's gradient: norm of the difference over the norm."""


@pytest.fixture(scope="module", autouse=True)
def _exact_matmuls():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def model(golden):
    """(architecture, parameters) with the original's weights."""
    parameters = from_original(golden.below("w/"), layout(golden.config))
    return build(golden.config, PrecisionConfig(compute="float32")), jax.tree.map(jnp.asarray, parameters)


@pytest.fixture(scope="module")
def check(golden) -> Callable:
    """Asserts that a quantity lies within its tolerance of the original's, and prints how far it lies in the end."""
    table = ParityTable()

    def compare(quantity: str, ours, theirs, relative: bool = False) -> None:
        table.compare(quantity, ours, theirs, GRADIENTS if relative else ACTIVATIONS, relative)

    yield compare
    table.print()


@pytest.mark.parametrize("resolution", [448, 224])
def test_vision_tokens(golden, model, check, resolution: int) -> None:
    """Trunk, position interpolation (32 x 32 grid), no interpolation (16 x 16), adapter, ln_post and proj."""
    architecture, parameters = model
    pixels = pixels_of(golden) if resolution == 448 else pixels_of(golden)[:1, ::2, ::2]
    module = architecture.assemble(parameters)
    tokens = jax.jit(lambda x: module.adapter(module.vision(x)))(pixels)
    check(f"vision tokens at {resolution} pixels", tokens, golden[f"vis_{resolution}"])


def test_logits_of_a_left_padded_batch(golden, model, check) -> None:
    """Image insertion, rotary positions without the padding, causal mask, RMSNorm, the gate's order."""
    architecture, parameters = model
    text, module = text_of(golden), architecture.assemble(parameters)

    @jax.jit
    def run(pixels):
        hidden = module.language(embed(module, pixels, text), text.positions, text.segments)
        return module.language.head(hidden)

    real = text.segments == 1
    check("logits, left-padded batch of three images", run(pixels_of(golden))[real], golden["logits_batch"][real])


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
    text, labels = text_of(golden), golden["labels"]
    targets = np.concatenate([labels[:, 1:], np.full((len(labels), 1), -100)], axis=1)
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
        patch.setattr("qwenvl_jax.models.decoder.attention", originals_attention)
        loss, gradients = run(parameters)
    return loss, to_original(gradients, layout(golden.config))


def test_loss(golden, graded, check) -> None:
    """The chunked loss on shifted targets is the original's."""
    check("loss", graded[0], golden["loss"])


def test_gradients(golden, graded, check) -> None:
    """Every trained tensor's gradient, by its norm, and those of the file in full."""
    gradients = graded[1]
    norms = golden.below("io/gradnorm/")
    assert set(norms) == set(gradients) - {"transformer.visual.attn_pool.pos_embed"}
    for name, norm in norms.items():
        check("gradient norms, every trained tensor", np.linalg.norm(gradients[name]), norm, relative=True)
    whole = golden.below("io/grad/")
    assert whole
    for name, gradient in whole.items():
        check(f"gradients in full, {len(whole)} tensors", gradients[name], gradient, relative=True)


@pytest.fixture(scope="module")
def decoding(golden, model):
    """(logits of the prompts' last token, cache, step function) of the golden batch."""
    architecture, parameters = model
    text, module = text_of(golden), architecture.assemble(parameters)
    length = text.ids.shape[1]

    @jax.jit
    def prefill(pixels):
        language = module.language
        cache = language.empty_cache(len(text.ids), length + golden["greedy_tokens"].shape[1])
        hidden, cache = language.extend(embed(module, pixels, text), text.positions, text.segments, cache)
        return language.head(hidden[:, -1:]), cache

    @jax.jit
    def step(ids, cache):
        language = module.language
        positions = text.positions[:, -1:] + 1 + cache.past.length - length + jnp.arange(ids.shape[1])
        hidden, cache = language.extend(language.embed(ids), positions, jnp.ones_like(ids), cache)
        return language.head(hidden), cache

    return *prefill(pixels_of(golden)), step


def test_cached_steps(golden, decoding, check) -> None:
    """Tokens fed behind a left-padded prompt, one at a time or together, see what the original's cache holds."""
    _, cache, step = decoding
    check("logits of cached steps at once", step(golden["steps_ids"], cache)[0], golden["steps_logits"])
    check("logits of a cached step", step(golden["step_ids"], cache)[0], golden["logits_step"])
    for i in range(golden["steps_ids"].shape[1]):
        logits, cache = step(golden["steps_ids"][:, i : i + 1], cache)
        check("logits of cached steps in a row", logits[:, 0], golden["steps_logits"][:, i])


@pytest.mark.parametrize("name", ["long", "long2"])
def test_prompts_longer_than_the_training_length(golden, model, check, name: str) -> None:
    """2,100 and 4,200 tokens: dynamic NTK with alpha 3 and 7, and logn."""
    architecture, parameters = model
    ids = golden[f"ids_{name}"]
    language = architecture.assemble(parameters).language

    @jax.jit
    def last_logits(ids):
        cache = language.empty_cache(1, ids.shape[1])
        positions = jnp.arange(ids.shape[1])[None]
        hidden, _ = language.extend(language.embed(ids), positions, jnp.ones_like(ids), cache)
        return language.head(hidden[:, -4:])

    check(f"logits, prompt of {ids.shape[1]} tokens", last_logits(ids), golden[f"logits_{name}_last4"])


def test_greedy_tokens(golden, decoding) -> None:
    """Greedy tokens are the original's; their margins are above what both roundings may shift."""
    logits, cache, step = decoding
    assert golden["greedy_margin"].min() > 2 * ACTIVATIONS
    chosen = []
    for _ in range(golden["greedy_tokens"].shape[1]):
        chosen.append(jnp.argmax(logits[:, -1:], axis=-1))
        logits, cache = step(chosen[-1], cache)
    assert np.array_equal(np.concatenate(chosen, axis=1), golden["greedy_tokens"])
