"""Promises of the walks over a schedule: time by part, memory, and the FLOPs of kernels."""

from test_hlo import TEXT

from qwenvl_jax.planning import memory
from qwenvl_jax.planning.devices import Chip
from qwenvl_jax.planning.hlo import parse
from qwenvl_jax.planning.kernels import kernel_flops
from qwenvl_jax.planning.parts import part_of
from qwenvl_jax.planning.schedule import Walk

CHIP = Chip("a chip", flops=1e12, clock=1e9, memory=1e9, bandwidth=1e11, link=1e10, torus=1)


def test_time_is_cycles_and_collectives() -> None:
    """Six times 700 cycles in the vision part, and an all-reduce of 128 bytes in groups of 4: twice three quarters."""
    totals = Walk(parse(TEXT), CHIP, 8, lambda group: 1e3 * group).run()
    assert totals.busy["vision", "elementwise"] == 6 * 700 / 1e9
    assert totals.moved == {"all-reduce": 128}
    assert totals.collectives == {("all-reduce", False): 1}
    waiting = 2 * 128 * 0.75 / 4e3
    assert abs(totals.seconds - waiting - 6 * 700 / 1e9) < 1e-12
    # A fusion reads and writes one padded tile of 8 x 128.
    assert totals.traffic["vision"] == 6 * 2 * 8 * 128 * 4


def test_memory_is_shared_as_xla_shares_it() -> None:
    """The loop's carry and the result lie in the donated argument's tile; only scalars come beside it."""
    assert memory.donations(TEXT) == {0: 0}
    tile = 8 * 128 * 4
    assert tile < memory.peak(parse(TEXT), memory.donations(TEXT)).bytes < tile + 64
    assert memory.peak(parse(TEXT), {}).bytes == 2 * tile


def test_kernels_skip_blocks_above_the_diagonal() -> None:
    """Splash attention forward: two products of queries, keys and head size, half of them where it is causal."""
    shapes = [(1, 4, 4), (2, 8, 256, 128), (2, 8, 512, 128), (2, 8, 512, 128)]
    whole = 2 * 2 * 2 * 8 * 256 * 512 * 128
    assert kernel_flops("splash_mha_fwd_residuals", "x/full_attention/y", shapes) == whole
    assert kernel_flops("splash_mha_fwd_residuals", "x/causal_attention/y", shapes) == whole / 2
    assert kernel_flops("another_kernel", "", shapes) == 0


def test_parts_of_scopes() -> None:
    """The outermost part, also through the wrappers of transformations; names within words are none."""
    assert part_of("jit(step)/transpose(jvp(language))/while/body/loss") == "language"
    assert part_of("jit(step)/optimizer/mul") == "optimizer"
    assert part_of("state.trained['language/head/kernel']") == "other"
    assert part_of("jit(step)/revision/mul") == "other"
