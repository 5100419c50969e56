"""Promises of `qwenvl_jax.training.loss`: chunks change memory, not numbers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from qwenvl_jax.config import MeshConfig
from qwenvl_jax.parallel.mesh import make_mesh
from qwenvl_jax.training.loss import token_losses


def whole(hidden, head, targets):
    logits = hidden @ head
    found = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - found


@given(
    rows=st.integers(1, 3), length=st.integers(1, 4), width=st.integers(1, 5), chunks=st.integers(1, 4),
    slice_=st.integers(1, 6), scale=st.sampled_from([1e-3, 1.0, 60.0]), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=12, deadline=None)
def test_chunks_equal_the_whole(rows, length, width, chunks, slice_, scale, seed) -> None:
    """Values and gradients of any shape and any number of chunks, also where logits are far beyond exp's range."""
    rng = np.random.default_rng(seed)
    vocab = chunks * slice_
    hidden = jnp.asarray(rng.normal(size=(rows, length, width)).astype(np.float32))
    head = jnp.asarray(scale * rng.normal(size=(width, vocab)).astype(np.float32))
    targets = jnp.asarray(rng.integers(0, vocab, (rows, length)))
    weights = rng.random((rows, length)).astype(np.float32)

    def graded(hidden, head, function):
        losses, back = jax.vjp(function, hidden, head)
        return losses, *back(weights)

    @jax.jit
    def both(hidden, head):
        ours = graded(hidden, head, lambda h, w: token_losses(h, w, targets, chunks))
        return ours, graded(hidden, head, lambda h, w: whole(h, w, targets))

    # A logit of size `scale` is known to 1e-7 of it, and so is its probability, which is then multiplied with the head.
    atol = 1e-5 * max(scale, 1) + 1e-6 * scale**2
    for a, b in zip(*both(hidden, head)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol)


def test_chunks_must_divide_the_vocabulary() -> None:
    """The sentence names the field and both numbers."""
    with pytest.raises(ValueError, match=r"precision\.loss_chunks=3 does not divide the vocabulary's 8 rows"):
        token_losses(jnp.ones((1, 1, 2)), jnp.ones((2, 8)), jnp.zeros((1, 1), int), 3)


def test_bfloat16_losses_are_float32() -> None:
    """Logits come out of the matmul in float32: a loss of 8 would be rounded to 1 / 32 otherwise."""
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.bfloat16)
    head = jnp.asarray(np.random.default_rng(1).normal(size=(4, 12)), jnp.bfloat16).astype(jnp.float32)
    targets = jnp.zeros((2, 3), int)
    ours = token_losses(hidden, head, targets, 2)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, whole(hidden.astype(jnp.float32), head, targets), atol=1e-5)


def test_a_sharded_head_stays_where_it_is() -> None:
    """On fsdp x tensor no device ever receives another tensor shard's part of a chunk, nor of the head's gradient."""
    mesh, width, vocab, chunks = make_mesh(MeshConfig(1, 2, 4)), 16, 512, 4

    def shape(size, spec, dtype=np.float32):
        return jax.ShapeDtypeStruct(size, dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

    hidden, targets = shape((4, 8, width), ["fsdp"]), shape((4, 8), ["fsdp"], np.int32)
    head = shape((width, vocab), ["fsdp", "tensor"])
    graded = jax.grad(lambda h, w, t: token_losses(h, w, t, chunks).sum(), argnums=(0, 1))
    shardings = (hidden.sharding, head.sharding)
    with jax.set_mesh(mesh):
        text = jax.jit(graded, out_shardings=shardings).lower(hidden, head, targets).compile().as_text()
    moved = re.findall(r"= \w+\[([\d,]+)\]\S* (?:all-gather|all-to-all|collective-permute)\(", text)
    assert moved, "the head is gathered over fsdp"
    assert max(np.prod([int(n) for n in dims.split(",")]) for dims in moved) <= width * vocab // chunks // 4
