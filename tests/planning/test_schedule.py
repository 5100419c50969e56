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


CARRIED = """HloModule jit_step, is_scheduled=true

%begins (b: f32[2,8]) -> (f32[2,8], f32[8,8]) {
  %b = f32[2,8] parameter(0)
  %whole = f32[8,8] all-gather(%b), channel_id=4, replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %begun = (f32[2,8], f32[8,8]) tuple(%b, %whole)
}

%goes_on (g: f32[2,8]) -> f32[8,8] {
  %g = f32[2,8] parameter(0)
  ROOT %piece = f32[8,8] all-gather(%g), channel_id=4, replica_groups=[2,4]<=[8], dimensions={0}
}

%ends (e: f32[2,8]) -> f32[8,8] {
  %e = f32[2,8] parameter(0)
  ROOT %rest = f32[8,8] all-gather(%e), channel_id=4, replica_groups=[2,4]<=[8], dimensions={0}
}

%body (p: (s32[], f32[2,8])) -> (s32[], f32[2,8]) {
  %p = (s32[], f32[2,8]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %x = f32[2,8] get-tuple-element(%p), index=1
  %y = f32[8,8] fusion(%x), kind=kOutput, calls=%goes_on, METADATA
  ROOT %out = (s32[], f32[2,8]) tuple(%next, %x)
}

%condition (p.1: (s32[], f32[2,8])) -> pred[] {
  %p.1 = (s32[], f32[2,8]) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %bound = s32[] constant(5)
  ROOT %less = pred[] compare(%i.1, %bound), direction=LT
}

ENTRY %main (a: f32[2,8]) -> f32[8,8] {
  %a = f32[2,8] parameter(0)
  %zero = s32[] constant(0)
  %async-collective-start.1 = (f32[2,8], f32[8,8]) fusion(%a), kind=kOutput, calls=%begins
  %start = (s32[], f32[2,8]) tuple(%zero, %a)
  %loop = (s32[], f32[2,8]) while(%start), condition=%condition, body=%body
  ROOT %async-collective-done.1 = f32[8,8] fusion(%a), kind=kOutput, calls=%ends
}
""".replace("METADATA", 'backend_config={"estimated_cycles":"700"}')


def test_a_collective_that_a_loop_carries_is_one() -> None:
    """It starts before the loop, goes on in each of five turns, and ends behind it: one gather of 256 bytes, of whose time
    the turns cover theirs."""
    totals = Walk(parse(CARRIED), CHIP, 8, lambda group: 1e3 * group).run()
    assert totals.collectives == {("all-gather", True): 1}
    assert totals.moved == {"all-gather": 256}
    assert abs(totals.seconds - 256 * 0.75 / 4e3) < 1e-9


GATHERED = """HloModule jit_step, is_scheduled=true

%taken (t: f32[1000,8,128], n: s32[2]) -> f32[2,8,128] {
  %t = f32[1000,8,128]{2,1,0} parameter(0)
  %n = s32[2]{0} parameter(1)
  %view = f32[1000,1024]{1,0} bitcast(%t)
  ROOT %rows = f32[2,8,128]{2,1,0} gather(%view, %n), offset_dims={1,2}
}

%put (p: f32[1000,8,128], m: s32[2], u: f32[2,8,128]) -> f32[1000,8,128] {
  %p = f32[1000,8,128]{2,1,0} parameter(0)
  %m = s32[2]{0} parameter(1)
  %u = f32[2,8,128]{2,1,0} parameter(2)
  ROOT %new = f32[1000,8,128]{2,1,0} scatter(%p, %m, %u), update_window_dims={1,2}, to_apply=%sum
}

ENTRY %main (a: f32[1000,8,128], i: s32[2]) -> f32[1000,8,128] {
  %a = f32[1000,8,128]{2,1,0} parameter(0)
  %i = s32[2]{0} parameter(1)
  %found = f32[2,8,128]{2,1,0} fusion(%a, %i), kind=kLoop, calls=%taken
  ROOT %result = f32[1000,8,128]{2,1,0} fusion(%a, %i, %found), kind=kLoop, calls=%put
}
"""


def test_gathers_and_scatters_touch_what_they_name() -> None:
    """Two of a thousand blocks are read and written, then two read and two written; XLA has no cycles for either, and they
    take what their bytes do."""
    totals = Walk(parse(GATHERED), CHIP, 8, lambda group: 1e3 * group).run()
    two = 2 * 8 * 128 * 4
    assert abs(totals.traffic["other"] - 4 * two) < 32  # and the numbers of the blocks
    assert totals.seconds == totals.traffic["other"] / CHIP.bandwidth


def test_memory_is_shared_as_xla_shares_it() -> None:
    """The loop's carry and the result lie in the donated argument's tile; only scalars come beside it."""
    assert memory.donations(TEXT) == {0: 0}
    tile = 8 * 128 * 4
    assert tile < memory.peak(parse(TEXT), memory.donations(TEXT)).bytes < tile + 64
    assert memory.peak(parse(TEXT), {}).bytes == 2 * tile


LOOPED = """HloModule jit_step, is_scheduled=true

%body (p: (s32[], f32[8,128], f32[8,128])) -> (s32[], f32[8,128], f32[8,128]) {
  %p = (s32[], f32[8,128], f32[8,128]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %x.1 = f32[8,128] get-tuple-element(%p), index=1
  %y.1 = f32[8,128] get-tuple-element(%p), index=2
  ROOT %out = (s32[], f32[8,128], f32[8,128]) tuple(%next, %x.1, %y.1)
}

%condition (p.1: (s32[], f32[8,128], f32[8,128])) -> pred[] {
  %p.1 = (s32[], f32[8,128], f32[8,128]) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %bound = s32[] constant(5)
  ROOT %less = pred[] compare(%i.1, %bound), direction=LT
}

ENTRY %main (a: f32[]) -> f32[8,128] {
  %a = f32[] parameter(0)
  %zero = s32[] constant(0)
  %x.0 = f32[8,128] broadcast(%a), dimensions={}
  %y.0 = f32[8,128] broadcast(%a), dimensions={}
  %start = (s32[], f32[8,128], f32[8,128]) tuple(%zero, %x.0, %y.0)
  %loop = (s32[], f32[8,128], f32[8,128]) while(%start), condition=%condition, body=%body
  %x = f32[8,128] get-tuple-element(%loop), index=1
  %once = f32[8,128] fusion(%x), kind=kOutput, calls=%work
  %twice = f32[8,128] fusion(%once), kind=kOutput, calls=%work
  %y = f32[8,128] get-tuple-element(%loop), index=2
  ROOT %sum = f32[8,128] add(%twice, %y)
}
"""


def test_a_loops_results_die_one_by_one() -> None:
    """`x` is free once `once` has read it, though `y` is taken later: three tiles lie there at a time, not four."""
    tile = 8 * 128 * 4
    assert 3 * tile < memory.peak(parse(LOOPED), {}).bytes < 3 * tile + 64


ELEMENTWISE = """HloModule jit_step, is_scheduled=true

ENTRY %main (a: f32[]) -> f32[8,128] {
  %a = f32[] parameter(0)
  %x = f32[8,128] broadcast(%a), dimensions={}
  %once = f32[8,128] fusion(%x), kind=kLoop, calls=%work
  ROOT %twice = f32[8,128] fusion(%once), kind=kLoop, calls=%work
}
"""


def test_nothing_is_written_over_what_it_is_made_from() -> None:
    """XLA for TPUs gives an elementwise result memory of its own, also where its operand is read for the last time."""
    tile = 8 * 128 * 4
    assert 2 * tile <= memory.peak(parse(ELEMENTWISE), {}).bytes < 2 * tile + 64


def test_kernels_skip_blocks_above_the_diagonal() -> None:
    """Splash attention forward: two products of queries, keys and head size, half of them where it is causal."""
    shapes = [(1, 4, 4), (2, 8, 256, 128), (2, 8, 512, 128), (2, 8, 512, 128)]
    whole = 2 * 2 * 2 * 8 * 256 * 512 * 128
    assert kernel_flops("splash_mha_fwd_residuals", "x/full_attention/y", shapes) == whole
    assert kernel_flops("splash_mha_fwd_residuals", "x/causal_attention/y", shapes) == whole / 2
    one_row = [(1, 4, 4), (1, 4, 4), (16, 256, 128), (2, 512, 128), (2, 512, 128), (512, 128)]
    assert kernel_flops("splash_mha_fwd_residuals", "x/full_attention/y", one_row) == whole
    assert kernel_flops("another_kernel", "", shapes) == 0


def test_kernels_inside_segments_compute_pairs() -> None:
    """Forward: two products of 256 queries, 256 keys and the head size of 80, which takes a register of 128, for 16 heads
    and each of 7 pairs."""
    shapes = [(), (2, 81), (16, 2048, 80), (16, 2048, 80), (16, 80, 2048), (8, 1, 256), (8, 256, 1)]
    whole = 2 * 2 * 7 * 256 * 256 * 128 * 16
    assert kernel_flops("segment_attention_forward", "", shapes, pairs=7) == whole
    assert kernel_flops("segment_attention_keys", "", shapes, pairs=7) == 2 * whole


def test_parts_of_scopes() -> None:
    """The outermost part, also through the wrappers of transformations; names within words are none."""
    assert part_of("jit(step)/transpose(jvp(language))/while/body/loss") == "language"
    assert part_of("jit(step)/optimizer/mul") == "optimizer"
    assert part_of("state.trained['language/head/kernel']") == "other"
    assert part_of("jit(step)/revision/mul") == "other"
