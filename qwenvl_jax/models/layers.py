"""Pieces that every model shares: parameters with logical axes, norms, rotary positions, the scan over layers.

Shape legend: B rows, S positions, D width, N heads, H head size, F mlp width, L layers.

Parameters carry logical axis names (`parameter.axes`); `qwenvl_jax.parallel` maps them to mesh axes. Models know no mesh.
Stacked layers hold one array with a leading axis "layers", so that compile time does not grow with depth.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

from qwenvl_jax.parallel.activations import constrain, reduced, shards, split_stream

Initializer = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]

normal = jax.nn.initializers.normal
zeros = jax.nn.initializers.zeros
ones = jax.nn.initializers.ones
truncated_normal = jax.nn.initializers.truncated_normal

saved = jax.checkpoint_policies.save_only_these_names
REMAT_POLICIES: dict[str, Callable | None] = {
    # name: what a layer keeps for its backward pass, from the least to the most
    "nothing": saved(),
    "attention": saved("attention_output"),
    "projections": saved("attention_output", "attention_input"),
    "matmuls": saved("attention_output", "attention_input", "mlp_hidden"),
    "everything": None,
}


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU by erf, as torch's; `jax.nn.gelu` takes erfc, whose two branches cost 0.7 ms a layer on a v5p."""
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1 + jax.lax.erf(wide * 2**-0.5))).astype(x.dtype)


def _gelu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gelu(x), x


def _gelu_backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    """Written once, as in `_gated_backward`. The derivative is the normal distribution's Phi(x) + x phi(x)."""
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    wide = x.astype(jnp.float32)
    slope = 0.5 * (1 + jax.lax.erf(wide * 2**-0.5)) + wide * jnp.exp(-0.5 * wide * wide) * (2 * math.pi) ** -0.5
    return (jax.lax.optimization_barrier((gradient * slope).astype(x.dtype)),)


gelu.defvjp(_gelu_forward, _gelu_backward)

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
}


def parameter(
    rngs: nnx.Rngs, init: Initializer, shape: tuple[int, ...], axes: tuple[str, ...], layers: int = 0
) -> nnx.Param:
    """A float32 parameter with its logical axes; `layers` > 0 stacks that many along a leading axis."""
    if layers:
        shape, axes = (layers, *shape), ("layers", *axes)
    return nnx.Param(init(rngs.params(), shape, jnp.float32), axes=axes)


class LayerNorm(nnx.Module):
    """torch's LayerNorm: statistics in float32, result in the input's type. eps 1e-6 everywhere in Qwen-VL."""

    def __init__(self, width: int, rngs: nnx.Rngs, layers: int = 0, axis: str = "embed", eps: float = 1e-6):
        self.scale = parameter(rngs, ones, (width,), (axis,), layers)
        self.bias = parameter(rngs, zeros, (width,), (axis,), layers)
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.eps)
        return (normed * self.scale[...] + self.bias[...]).astype(x.dtype)


class RMSNorm(nnx.Module):
    """RMSNorm of Qwen and Qwen2: cast back to the input's type before the weight is applied."""

    def __init__(self, width: int, rngs: nnx.Rngs, layers: int = 0, eps: float = 1e-6):
        self.scale = parameter(rngs, ones, (width,), ("embed",), layers)
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.eps)
        return normed.astype(x.dtype) * self.scale[...].astype(x.dtype)


def summed_axes(equation: str) -> int:
    """How many of the kernel's axes the equation sums over; they are its first ones and the input's last ones.

    Raises:
      ValueError: they are not.
    """
    inputs, output = equation.split("->")
    x, kernel = inputs.split(",")
    count = sum(letter not in output for letter in kernel)
    if x[len(x) - count :] != kernel[:count] or output != x[: len(x) - count] + kernel[count:]:
        raise ValueError(f"the projection {equation!r} does not sum the input's last axes with the kernel's first ones")
    return count


def output_axes(equation: str, axes: tuple[str, ...]) -> tuple[str | None, ...]:
    """Logical axes of a projection's result: those of the kernel, rows for `b`, and for the letter behind it the positions
    of the residual stream, unless the result is wide (heads, mlp): then heads or mlp lie where these positions were split.
    """
    inputs, output = equation.split("->")
    named = dict(zip(inputs.split(",")[1], axes))
    wide = any(named.get(letter) in ("heads", "mlp", "vocab") for letter in output)
    result: list[str | None] = [named.get(letter) for letter in output]
    if output[0] == "b":
        result[:2] = ["rows", "sequence" if wide else "stream"]
    return tuple(result)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(x: jax.Array, matrix: jax.Array, axes: tuple[str, ...] | None = None) -> jax.Array:
    """[..., I] @ [I, O]. See `_matmul_backward` for why it has its own backward pass.

    Args:
      axes: of the matrix, where its gradient shall be reduced before x's goes on.
    """
    return x @ matrix


def _matmul_forward(x: Any, matrix: Any, axes: Any) -> tuple[jax.Array, tuple[jax.Array | None, jax.Array | None]]:
    """A frozen matrix costs neither its gradient nor the memory of x; an x without gradient no product with the matrix."""
    return x.value @ matrix.value, (x.value if matrix.perturbed else None, matrix.value if x.perturbed else None)


def _matmul_backward(
    axes: tuple[str, ...] | None, kept: tuple[jax.Array | None, jax.Array | None], gradient: Any
) -> tuple[jax.Array | None, jax.Array | None]:
    """The matrix's gradient is x^T g as it is written. JAX's own is (g^T x)^T, for which XLA on a CPU computes g a second
    time, transposed: a decoder of 6 layers of width 128 took 1.1 to 1.3 times as long.
    """
    x, matrix = kept
    if isinstance(gradient, SymbolicZero):
        return None, None
    rows = tuple(range(gradient.ndim - 1))
    of_x = None if matrix is None else gradient @ matrix.T
    of_matrix = None if x is None else jnp.tensordot(x, gradient, (rows, rows))
    if axes is None or of_x is None or of_matrix is None:
        return of_x, of_matrix
    return jax.lax.optimization_barrier((of_x, reduced(of_matrix, axes)))


matmul.defvjp(_matmul_forward, _matmul_backward, symbolic_zeros=True)


@jax.custom_vjp
def biased(y: jax.Array, bias: jax.Array) -> jax.Array:
    """[..., *O] + [*O], in the type of y; the bias's gradient is summed in float32."""
    return y + bias.astype(y.dtype)


def _biased_forward(y: Any, bias: Any) -> tuple[jax.Array, jax.Array | None]:
    return y.value + bias.value.astype(y.value.dtype), bias.value if bias.perturbed else None


def _biased_backward(bias: jax.Array | None, gradient: Any) -> tuple[Any, jax.Array | None]:
    """On a TPU the sum over all rows is a product with ones: the matrix unit of a v5p takes a sixth of the time that XLA's
    sum does, 27 ms a step of the 48 layers of ViT-bigG. On a CPU it takes longer: 0.198 s a step of stage `multitask` of
    `tiny-qwen2`, 0.184 with a sum.
    """
    if bias is None or isinstance(gradient, SymbolicZero):
        return gradient, None
    rows = gradient.ndim - bias.ndim
    summed = jax.lax.platform_dependent(
        gradient,
        tpu=partial(sum_by_product, axes=rows),
        default=partial(jnp.sum, axis=tuple(range(rows)), dtype=jnp.float32),
    )
    return gradient, summed.astype(bias.dtype)


def sum_by_product(x: jax.Array, axes: int) -> jax.Array:
    """The sum over the first axes, as a product with ones: eight rows of them, as XLA makes a sum of a product with one."""
    rows = tuple(range(axes))
    ones = jnp.ones((8, *x.shape[:axes]), x.dtype)
    summed = jax.lax.dot_general(
        ones, x, (((tuple(1 + axis for axis in rows), rows)), ((), ())),
        precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32,
    )  # fmt: skip
    return summed[0]


biased.defvjp(_biased_forward, _biased_backward, symbolic_zeros=True)


def filled(x: jax.Array, axis: int, size: int) -> jax.Array:
    """x with zeros behind an axis up to a size."""
    missing = size - x.shape[axis]
    return jnp.pad(x, [(0, missing if number == axis else 0) for number in range(x.ndim)]) if missing else x


class Projection(nnx.Module):
    """`einsum(equation, x, kernel) + bias`; the equation shows the shapes.

    The kernel is cast to the input's type: trained parameters stay float32, matmuls run in the compute type.
    """

    def __init__(
        self,
        equation: str,
        shape: tuple[int, ...],
        axes: tuple[str, ...],
        rngs: nnx.Rngs,
        *,
        bias: tuple[int, ...] = (),
        layers: int = 0,
        init: Initializer | None = None,
    ):
        """`bias` lists the kernel's axes that the bias has; () means no bias.

        `init` defaults to N(0, 1 / fan-in): 0.0156 at Qwen-7B's width, where the original has 0.02, and still gives
        scores of order one at a width of 128, where 0.02 starts with scores below 0.1: flat attention.
        """
        self.equation = equation
        self.output_axes = output_axes(equation, axes)
        self.sums_heads = axes[summed_axes(equation) - 1] == "head"
        self.axes = axes
        self.sums_shards = axes[0] in ("heads", "mlp", "mlp_rows") and "stream" in self.output_axes
        self.kernel = parameter(
            rngs, init or normal(math.prod(shape[: summed_axes(equation)]) ** -0.5), shape, axes, layers
        )
        bias_shape, bias_axes = tuple(shape[i] for i in bias), tuple(axes[i] for i in bias)
        self.bias = parameter(rngs, zeros, bias_shape, bias_axes, layers) if bias else None

    def __call__(self, x: jax.Array, head_size: int = 0) -> jax.Array:
        """Heads of x that are larger than the kernel's meet zeros there.

        Args:
          head_size: that the heads of the result are filled up to with zeros; 0 for that of the kernel.
        """
        kernel, summed = self.kernel[...].astype(x.dtype), summed_axes(self.equation)
        bias = None if self.bias is None else self.bias[...]
        if self.sums_heads:
            kernel = filled(kernel, summed - 1, x.shape[-1])
        if head_size:
            kernel = filled(kernel, kernel.ndim - 1, head_size)
            bias = None if bias is None else filled(bias, bias.ndim - 1, head_size)
        # As one matrix: with two axes of heads XLA lays the whole gathered kernel out anew, 0.1 ms a layer on a v5p.
        inward, outward = kernel.shape[:summed], kernel.shape[summed:]
        x, matrix = x.reshape(*x.shape[: x.ndim - summed], math.prod(inward)), kernel.reshape(math.prod(inward), -1)
        y = matmul(x, matrix, self.axes if self.outweighs(x) else None)
        y = y.reshape(*y.shape[:-1], *outward)
        y = split_stream(y) if self.sums_shards else constrain(y, *self.output_axes)
        y = y if bias is None else biased(y, bias)
        return checkpoint_name(y, "mlp_hidden") if "mlp" in self.output_axes else y

    def outweighs(self, x: jax.Array) -> bool:
        """Whether this is the last matrix of an MLP, and on a device its gradient, before it is summed over devices, larger
        than x [B, S, F]. It is then reduced before those of the MLP's other matrices are computed, instead of lying beside
        them: v5e:16x16 with a row of 2,048 on each needs 1.69 GB for Qwen-7B instead of 1.78. Where a device has as many
        positions as the width, and so x and its gradient to keep meanwhile, v5p:4x4x4 needs 4.13 GB instead of 4.04.
        """
        if self.axes[0] != "mlp" or shards("rows") == 1:
            return False
        return math.prod(x.shape[:-1]) // (shards("rows") * shards("sequence")) < self.kernel.shape[-1]


def rotary_frequencies(head_size: int, base: float) -> np.ndarray:
    """[H/2] radians per position, rounded once to float32."""
    return (base ** (-np.arange(0, head_size, 2, dtype=np.float64) / head_size)).astype(np.float32)


def rotary_angles(positions: jax.Array, frequencies: Any) -> tuple[jax.Array, jax.Array]:
    """cos and sin [..., 1, H/2] in float32 of positions [...]; the head axis broadcasts.

    Args:
      frequencies: [H/2], or anything that broadcasts to [..., 1, H/2].
    """
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def apply_rotary(x: jax.Array, angles: tuple[jax.Array, jax.Array], lanes: bool = False) -> jax.Array:
    """Rotates [..., N, H] by halves (NeoX order), in float32, result in the input's type.

    Args:
      lanes: exchange the halves by a product with a permutation. It is exact, and on a TPU a tenth of the time that it
        takes to move half a register: 0.6 ms a layer of Qwen-7B, forward and backward. Elsewhere it is a waste.
    """
    cos, sin = (jnp.concatenate([part, part], axis=-1) for part in angles)
    if lanes:
        half = x.shape[-1] // 2
        turned = x @ jnp.asarray(np.eye(2 * half, k=half) - np.eye(2 * half, k=-half), x.dtype)
    else:
        a, b = jnp.split(x, 2, axis=-1)
        turned = jnp.concatenate([-b, a], axis=-1)
    return (x.astype(jnp.float32) * cos + turned.astype(jnp.float32) * sin).astype(x.dtype)


@jax.custom_vjp
def gated(up: jax.Array, gate: jax.Array) -> jax.Array:
    """up * silu(gate), SwiGLU's middle. See `_gated_backward` for why it has its own backward pass."""
    return up * jax.nn.silu(gate)


def _gated_forward(up: jax.Array, gate: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return gated(up, gate), (up, gate)


def _gated_backward(inputs: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both gradients are written once, by an operation of their own. Left to itself, XLA computes their exponentials in
    each of the four matmuls that read them, and a matmul with an exponential behind it takes twice its time.
    """
    inputs, gradient = jax.lax.optimization_barrier((inputs, gradient))
    _, pull = jax.vjp(lambda up, gate: up * jax.nn.silu(gate), *inputs)
    return jax.lax.optimization_barrier(pull(gradient))


gated.defvjp(_gated_forward, _gated_backward)


def scan_layers(
    stacked: nnx.Module, x: jax.Array, *shared: Any, remat: str, unroll: int, carried: Any = None
) -> tuple[jax.Array, Any]:
    """Runs `x, carried = layer(x, *shared, (number, carried))` over the leading axis of the stacked module's parameters.

    Args:
      remat: a name of REMAT_POLICIES.
      unroll: layers per iteration of the scan.
      carried: what every layer reads and writes (a KV cache of all layers), so that it is updated in place: as inputs and
        outputs of the scan, slices of it were copied twice. None: layers get None, and give it back.

    Returns:
      The last x and the last `carried`.
    """
    graphdef, state = nnx.split(stacked)
    numbers = None if carried is None else jnp.arange(len(jax.tree.leaves(state)[0]))

    def body(carry: tuple[jax.Array, Any], inputs: Any) -> tuple[tuple[jax.Array, Any], None]:
        x, carried = carry
        layer, number = inputs
        extra = None if carried is None else (number, carried)
        x, carried = nnx.merge(graphdef, layer)(constrain(x, "rows", "stream", None), *shared, extra)
        return (constrain(x, "rows", "stream", None), carried), None

    policy = REMAT_POLICIES[remat]
    if policy is not None:
        body = jax.checkpoint(body, policy=policy, prevent_cse=False)
    (x, carried), _ = jax.lax.scan(body, (x, carried), (state, numbers), unroll=unroll)
    return x, carried
