"""Promises of `qwenvl_jax.models.splash`: the TPU kernel, interpreted on the CPU, computes what XLA computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from qwenvl_jax.config import MeshConfig
from qwenvl_jax.models.attention import attention, kernel_head_size, resolve_implementation
from qwenvl_jax.parallel.mesh import make_mesh


def graded(implementation: str, q, k, v, weights, **masks):
    """The result and the gradients of q, k, v."""

    def weighted(q, k, v):
        mixed = attention(q, k, v, implementation=implementation, **masks)
        return (mixed * weights).sum(), mixed

    gradients, mixed = jax.jit(jax.grad(weighted, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return mixed, *gradients


def tensors(queries: int, keys: int, size: int, rows: int = 1, heads: int = 2, kv_heads: int = 2):
    rng = np.random.default_rng(queries + size)
    sizes = ((queries, heads), (keys, kv_heads), (keys, kv_heads), (queries, heads))
    shapes = [(rows, length, count, size) for length, count in sizes]
    return [jnp.asarray(rng.normal(size=shape).astype(np.float32)) for shape in shapes]


@pytest.mark.parametrize(
    "queries, keys, size, causal",
    [(256, 256, 128, True), (128, 128, 104, False), (200, 200, 80, True), (64, 144, 80, False)],
    ids=["language", "vision of Qwen-VL", "lengths that are filled up", "adapter"],
)
def test_splash_equals_xla(queries: int, keys: int, size: int, causal: bool) -> None:
    """Forward and backward in float32, with two samples and padding in a row where it is causal; other orders of sums
    differ by some 2e-6."""
    q, k, v, weights = tensors(queries, keys, size)
    masks: dict = {"causal": causal}
    if causal:
        segments = np.repeat([1, 2, 0], [queries // 2, queries // 4, queries - queries // 2 - queries // 4])[None]
        masks |= {"query_segments": jnp.asarray(segments), "key_segments": jnp.asarray(segments)}
        weights = weights * (segments > 0)[..., None, None]
    expected = graded("xla", q, k, v, weights, **masks)
    with pltpu.force_tpu_interpret_mode():
        ours = graded("splash", q, k, v, weights, **masks)
    real = slice(None) if not causal else segments[0] > 0
    np.testing.assert_allclose(ours[0][:, real], expected[0][:, real], atol=1e-5)
    for a, b in zip(ours[1:], expected[1:]):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
    "config", [MeshConfig(1, 2, 2), MeshConfig(1, 1, 2, 2)], ids=["fsdp, tensor", "tensor, context"]
)
def test_splash_on_a_mesh_equals_one_device(config: MeshConfig) -> None:
    """Rows over fsdp and heads over tensor, and over context too, where the two heads of keys are there twice: each device
    runs the kernel on its own."""
    mesh = make_mesh(config, jax.devices()[:4])
    rows = config.fsdp  # one of a device: the interpreter has no grids with more
    q, k, v, weights = tensors(128, 128, 128, rows=rows, heads=4)
    segments = jnp.asarray(np.repeat([[1, 2]], 64, axis=1).repeat(rows, axis=0))
    masks = {"causal": True, "query_segments": segments, "key_segments": segments}
    expected = graded("xla", q, k, v, weights, **masks)
    with jax.set_mesh(mesh), pltpu.force_tpu_interpret_mode():
        ours = graded("splash", q, k, v, weights, **masks)
    for a, b in zip(ours, expected):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
    "implementation, length, causal",
    [("splash", 128, False), ("xla", 128, False), ("xla", 512, True), ("xla", 2048, True)],
    ids=["splash", "xla", "xla in blocks", "xla of a long row"],
)
def test_heads_that_come_filled_up(implementation: str, length: int, causal: bool) -> None:
    """Heads of 104 as projections fill them up to 128, with the scale of 104: what stands before the zeros is the same, and
    zeros stay zeros."""
    inputs = tensors(length, length, 104)
    expected = graded("xla", *inputs, causal=causal)
    filled_up = [jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 24))) for x in inputs]
    with pltpu.force_tpu_interpret_mode():
        ours = graded(implementation, *filled_up, causal=causal, scale=104**-0.5)
    for a, b in zip(ours, expected):
        np.testing.assert_allclose(a[..., :104], b, atol=2e-5)  # another order of sums, as above
        np.testing.assert_array_equal(a[..., 104:], 0.0)


def test_sizes_that_kernels_want() -> None:
    """Multiples of 128 where the TPU's kernel runs, the heads' own size elsewhere."""
    assert [kernel_head_size(size, "splash") for size in (80, 104, 128)] == [128] * 3
    assert kernel_head_size(104, "xla") == 104


def test_what_auto_means() -> None:
    """Splash on a TPU, XLA elsewhere; a wrong name is refused with those that exist."""
    assert [resolve_implementation("auto", platform) for platform in ("tpu", "gpu", "cpu")] == ["splash", "xla", "xla"]
    assert resolve_implementation("xla", "tpu") == "xla"
    with pytest.raises(ValueError, match=r"precision\.attention='flash' is none of auto, xla, splash, cudnn"):
        resolve_implementation("flash", "tpu")
