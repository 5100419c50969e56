"""Cross-entropy of patch labels: what the ViT learns where it is trained alone.

Shape legend: N pictures (or rows of several), P patches, D vision width, K kinds of labels, C classes of all kinds together.
"""

import jax
import jax.numpy as jnp


def patch_losses(features: jax.Array, targets: jax.Array, classes: tuple[int, ...]) -> jax.Array:
    """-log p(label) of every patch and kind, each kind with a softmax of its own.

    The classes are read along fixed random directions, so nothing but the ViT has parameters that learn: in D = 192
    dimensions 88 such directions are nearly orthogonal.

    Args:
      features: [N, P, D] of the ViT.
      targets: [N, P, K] int, the class within its kind.
      classes: K numbers of classes.

    Returns:
      [N, P, K] float32.
    """
    wide = features.astype(jnp.float32)
    centred = wide - wide.mean(-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)
    width = features.shape[-1]
    directions = jax.random.normal(jax.random.key(0), (width, sum(classes))) * width**-0.5
    logits = jnp.einsum("npd,dc->npc", normed, directions)
    ends = [sum(classes[: k + 1]) for k in range(len(classes))]
    losses = [
        -jnp.take_along_axis(jax.nn.log_softmax(logits[..., end - size : end]), targets[..., k, None], axis=-1)[..., 0]
        for k, (end, size) in enumerate(zip(ends, classes))
    ]
    return jnp.stack(losses, axis=-1)
