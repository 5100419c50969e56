"""Promises of `qwenvl_jax.planning.hlo`: the text of a scheduled module is read as XLA means it."""

from qwenvl_jax.planning.hlo import arrays, parse

TEXT = """HloModule jit_step, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias) }

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p = (s32[], f32[4,8]{1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %two = s32[] constant(2)
  %next = s32[] add(%i, %two)
  %x = f32[4,8]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %y = f32[4,8]{1,0:T(8,128)} fusion(%x), kind=kLoop, calls=%work, METADATA
  ROOT %out = (s32[], f32[4,8]{1,0:T(8,128)}) tuple(%next, %y)
}

%condition (p.1: (s32[], f32[4,8])) -> pred[] {
  %p.1 = (s32[], f32[4,8]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %bound = s32[] constant(12)
  ROOT %less = pred[] compare(%i.1, %bound), direction=LT
}

%work (w: f32[4,8]) -> f32[4,8] {
  %w = f32[4,8]{1,0:T(8,128)} parameter(0)
  ROOT %m = f32[4,8]{1,0:T(8,128)} multiply(%w, %w)
}

ENTRY %main (a: f32[4,8]) -> f32[4,8] {
  %a = f32[4,8]{1,0:T(8,128)} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[4,8]{1,0:T(8,128)}) tuple(%zero, %a)
  %loop = (s32[], f32[4,8]{1,0:T(8,128)}) while(%start), condition=%condition, body=%body
  %last = f32[4,8]{1,0:T(8,128)} get-tuple-element(%loop), index=1
  ROOT %sum = f32[4,8]{1,0:T(8,128)} all-reduce(%last), replica_groups=[2,4]<=[8], to_apply=%work
}
""".replace(
    "METADATA", 'metadata={op_name="jit(step)/jvp(vision)/while/mul"}, backend_config={"estimated_cycles":"700"}'
)


def test_tiles_and_memory_spaces() -> None:
    """Tiles pad the two fastest dimensions of the layout's order; the space says which memory."""
    padded, turned, on_chip = arrays(
        "(bf16[3,5,64]{2,1,0:T(8,128)(2,1)}, f32[130,8]{0,1:T(8,128)}, f32[8]{0:T(256)S(1)})"
    )
    assert (padded.bytes, padded.allocated) == (3 * 5 * 64 * 2, 3 * 8 * 128 * 2)
    assert turned.allocated == 256 * 8 * 4
    assert (padded.space, on_chip.space) == (0, 1)


def test_loops_run_as_often_as_their_counter_says() -> None:
    """From 0 by 2 below 12: six times."""
    module = parse(TEXT)
    (loop,) = [i for i in module.computations[module.entry] if i.opcode == "while"]
    assert module.trips(loop) == 6


def test_a_bound_that_is_data_is_given() -> None:
    """A condition without a number says nothing of how often; what the caller knows of the work list counts."""
    text = TEXT.replace("%bound = s32[] constant(12)", "%bound = s32[] get-tuple-element(%p.1), index=0")
    module = parse(text, data_trips=9)
    (loop,) = [i for i in module.computations[module.entry] if i.opcode == "while"]
    assert module.trips(loop) == 9
    assert parse(TEXT, data_trips=9).trips(loop) == 6


def test_instructions() -> None:
    """Operands, called computations, scope, cycles and the size of a collective's groups."""
    module = parse(TEXT)
    (fusion,) = [i for i in module.computations["body"] if i.opcode == "fusion"]
    assert (fusion.operands, fusion.called, fusion.cycles) == (("x",), ("work",), 700)
    assert fusion.scope.endswith("jvp(vision)/while/mul")
    root = module.computations[module.entry][-1]
    assert root.is_root
    assert root.group_size == 4
