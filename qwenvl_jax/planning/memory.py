"""What is alive at the fullest moment of a scheduled program.

XLA gives one number (`memory_analysis().peak_memory_in_bytes`). Walking the schedule with the same rules of sharing gives
it again, and says what it is made of: that is what one can change.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from qwenvl_jax.planning.hlo import Array, Instruction, Module

Leaves = list["Buffer"]

ALIASES = ("bitcast", "get-tuple-element", "tuple", "optimization-barrier", "while", "add-dependency")
"""Instructions whose result lies where their operands lie."""


@dataclass(eq=False)
class Buffer:
    """A piece of the device's main memory.

    Attributes:
      maker: the instruction that it was made for.
      last: place in its computation's schedule where it is read for the last time.
      given: it belongs to the caller, who counts it.
    """

    array: Array
    maker: Instruction
    last: int
    given: bool = False

    @property
    def size(self) -> float:
        return 0.0 if self.given or self.array.space else self.array.allocated


@dataclass(frozen=True)
class Moment:
    """The fullest moment of a computation.

    Attributes:
      bytes: alive then, without what the caller counts.
      alive: bytes by (where it comes from, type), the largest first.
    """

    bytes: float = 0.0
    alive: dict[tuple[str, str], float] = field(default_factory=dict)


def peak(module: Module, donated: dict[int, int]) -> Moment:
    """The program's fullest moment, arguments included.

    Args:
      donated: output -> the argument whose memory it takes.
    """
    entry = module.computations[module.entry]
    arguments = [i for i in entry if i.opcode == "parameter"]
    held = sum(a.allocated for i in arguments for a in i.result if not a.space)
    moment = _walk(module, module.entry, frozenset(donated), {})
    return Moment(held + moment.bytes, moment.alive)


def donations(text: str) -> dict[int, int]:
    """output -> argument, from the header of the module's text."""
    header = text[: text.index("\n")]
    return {int(out): int(argument) for out, argument in re.findall(r"\{(\d+)\}: \((\d+), \{\}", header)}


def _walk(module: Module, name: str, placed: frozenset[int], known: dict[str, Moment]) -> Moment:
    """Runs a computation's schedule; results whose place is in `placed` (the caller's memory) cost nothing."""
    if name in known:
        return known[name]
    instructions = module.computations[name]
    values = _values(module, instructions)
    root = next(i for i in instructions if i.is_root)
    whole = module.entry != name
    for place, buffer in enumerate(values[root.name]):
        if whole or place in placed:  # a loop's carry and donated arguments lie in the caller's memory
            buffer.given = True
        buffer.last = len(instructions)
    best = Moment()
    live: dict[int, Buffer] = {}
    total = 0.0
    for at, instruction in enumerate(instructions):
        for buffer in values[instruction.name]:
            if id(buffer) not in live and buffer.maker is instruction:
                live[id(buffer)] = buffer
                total += buffer.size
        inner = Moment()
        if instruction.opcode in ("while", "call", "conditional", "call-start", "async-start"):
            moments = [_walk(module, called, frozenset(), known) for called in instruction.called]
            inner = max(moments, key=lambda moment: moment.bytes, default=Moment())
        if total + inner.bytes > best.bytes:
            alive = defaultdict(float, inner.alive)
            for buffer in live.values():
                alive[_origin(buffer)] += buffer.size
            best = Moment(total + inner.bytes, dict(sorted(alive.items(), key=lambda item: -item[1])))
        for key in [key for key, buffer in live.items() if buffer.last <= at]:
            total -= live.pop(key).size
    known[name] = best
    return best


def _origin(buffer: Buffer) -> tuple[str, str]:
    array = buffer.array
    return buffer.maker.scope or buffer.maker.opcode, f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _values(module: Module, instructions: Sequence[Instruction]) -> dict[str, Leaves]:
    """The buffers of every instruction's result, with their last reads."""
    values: dict[str, Leaves] = {}
    # Taking a part out of a tuple reads nothing: who reads the part does, which is an alias. Else all that a loop was given
    # would live until the last of its results is taken.
    takes = "get-tuple-element"
    reads: dict[str, int] = {name: at for at, i in enumerate(instructions) if i.opcode != takes for name in i.operands}
    for at, instruction in enumerate(instructions):
        operands = [values[name] for name in instruction.operands if name in values]
        leaves = _leaves(module, instruction, operands, at)
        last = reads.get(instruction.name, at)
        for buffer in leaves:
            buffer.last = max(buffer.last, last)
        values[instruction.name] = leaves
    # Aliases are read later than the instruction that made the buffer.
    for instruction in reversed(instructions):
        last = reads.get(instruction.name, 0)
        for buffer in values[instruction.name]:
            buffer.last = max(buffer.last, last)
    return values


def _leaves(module: Module, instruction: Instruction, operands: list[Leaves], at: int) -> Leaves:
    """The result's buffers: new ones, or those of the operands."""
    opcode, result = instruction.opcode, instruction.result
    if opcode == "parameter":
        return [Buffer(array, instruction, at, given=True) for array in result]
    if opcode == "get-tuple-element":
        index = int(instruction.attribute(r"index=(\d+)") or 0)
        return operands[0][index : index + len(result)] if len(operands[0]) > index else _new(instruction, at)
    if opcode in ALIASES or opcode.endswith("-done"):
        flat = [buffer for leaves in operands for buffer in leaves]
        if opcode.endswith("-done"):
            flat = _matching(result, flat)
        return flat if len(flat) == len(result) else _new(instruction, at)
    return _shared(module, instruction, operands, at)


def _new(instruction: Instruction, at: int) -> Leaves:
    return [Buffer(array, instruction, at) for array in instruction.result]


def _matching(result: Sequence[Array], flat: Leaves) -> Leaves:
    """For each result the last operand of its type and memory."""
    return [next((b for b in reversed(flat) if b.array == array), Buffer(array, flat[0].maker, 0)) for array in result]


def _shared(module: Module, instruction: Instruction, operands: list[Leaves], at: int) -> Leaves:
    """New buffers, but for what is updated in place or passed through."""
    leaves = _new(instruction, at)
    flat = [buffer for leaves in operands for buffer in leaves]
    in_place = set()
    if aliasing := instruction.attribute(r"output_to_operand_aliasing=\{(.*?\))\}"):
        for out, operand in re.findall(r"\{([\d,]*)\}: \((\d+),", aliasing):
            place = int(out.split(",")[-1] or 0) if out else 0
            if place < len(leaves) and int(operand) < len(operands) and operands[int(operand)]:
                leaves[place] = operands[int(operand)][0]
                in_place.add(place)
    updates = instruction.opcode == "dynamic-update-slice" or any(
        inner.opcode == "dynamic-update-slice" for c in instruction.called for inner in module.computations.get(c, [])
    )
    starts = instruction.opcode.endswith("-start")
    for place, array in enumerate(instruction.result):
        if place in in_place:
            continue
        if updates or starts:
            leaves[place] = next((b for b in flat if b.array == array and b not in leaves), leaves[place])
    return leaves
