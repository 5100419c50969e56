"""Reads the text of a compiled and scheduled HLO module: computations, instructions in order, buffers, trip counts.

The text is XLA's own (`compiled.as_text()`); the grammar is that of `HloModule` in xla/hlo/parser. Only what a plan needs is
kept: an instruction's result shapes, operands, called computations and a few attributes.
"""

import math
import re
from dataclasses import dataclass, field

WIDTHS = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "s64": 8, "u64": 8,
    "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "c64": 8, "f8e4m3fn": 1, "f8e5m2": 1,
}  # fmt: skip
"""Bytes of an element."""
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")

_ARRAY = re.compile(r"\b(" + "|".join(WIDTHS) + r")\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
_CALLED = re.compile(
    r"(?:calls|body|condition|to_apply|called_computation)=%?([\w.\-]+)|branch_computations=\{([^}]*)\}"
)


@dataclass(frozen=True)
class Array:
    """An array's type and layout.

    Attributes:
      order: dimensions from the fastest to the slowest.
      tile: the first tile of the layout, () where memory is linear.
      space: 0 is the device's main memory; others are on the chip.
    """

    dtype: str
    shape: tuple[int, ...]
    order: tuple[int, ...]
    tile: tuple[int, ...]
    space: int

    @property
    def bytes(self) -> float:
        """Without padding."""
        return math.prod(self.shape) * WIDTHS[self.dtype]

    @property
    def allocated(self) -> float:
        """With the padding that tiles need."""
        sizes = [self.shape[axis] for axis in self.order]
        for place, tile in enumerate(reversed(self.tile)):
            if place < len(sizes):
                sizes[place] = -(-sizes[place] // tile) * tile
        return math.prod(sizes) * WIDTHS[self.dtype]


def arrays(text: str) -> tuple[Array, ...]:
    """All array types in a piece of HLO text, in order."""
    found = []
    for dtype, shape, order, layout in _ARRAY.findall(text):
        sizes = tuple(int(n) for n in shape.split(",") if n)
        tile = re.match(r"T\(([\d,]+)\)", layout)
        space = re.search(r"S\((\d+)\)", layout)
        found.append(
            Array(
                dtype,
                sizes,
                tuple(int(n) for n in order.split(",") if n) or tuple(reversed(range(len(sizes)))),
                tuple(int(n) for n in tile.group(1).split(",")) if tile else (),
                int(space.group(1)) if space else 0,
            )
        )
    return tuple(found)


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    result: tuple[Array, ...]
    operands: tuple[str, ...]
    called: tuple[str, ...]
    text: str
    """Attributes behind the operands."""
    is_root: bool

    @property
    def scope(self) -> str:
        """Where in the traced program it comes from."""
        found = re.search(r'op_name="([^"]*)"', self.text)
        return found.group(1) if found else ""

    @property
    def cycles(self) -> int:
        """XLA's own estimate for one TPU core, 0 where it makes none."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.text)
        cycles = int(found.group(1)) if found else 0
        return cycles if cycles < 10**12 else 0  # what XLA writes for "unknown"

    def attribute(self, pattern: str) -> str | None:
        found = re.search(pattern, self.text)
        return found.group(1) if found else None

    @property
    def group_size(self) -> int:
        """Devices that take part in one group of a collective; 0: all."""
        if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", self.text):
            sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh.group(1)))
            return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh.group(2)))
        if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]", self.text):
            return int(iota.group(2))
        if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", self.text):
            return len(listed.group(1).split(","))
        return 2 if "source_target_pairs" in self.text else 0


@dataclass
class Module:
    """A scheduled program: the instructions of each computation in the order in which they run."""

    entry: str = ""
    computations: dict[str, list[Instruction]] = field(default_factory=dict)
    data_trips: int = 1
    """How often a loop runs whose bound is data, or pairs that a kernel computes: the vision tower's attention."""

    def trips(self, loop: Instruction) -> int:
        """How often a `while` runs: XLA's own note, the bound in the condition of a counted loop, or `data_trips`."""
        if known := loop.attribute(r'"known_trip_count":\{"n":"(\d+)"'):
            return int(known)
        condition, body = (loop.attribute(rf"{key}=%?([\w.\-]+)") or "" for key in ("condition", "body"))
        bounds = self._constants(condition)
        return -(-max(bounds) // self._stride(condition, body)) if bounds else self.data_trips

    def _constants(self, computation: str) -> list[int]:
        """Integers in a condition and in what it calls."""
        found: list[int] = []
        for instruction in self.computations.get(computation, []):
            if instruction.opcode == "constant" and instruction.result[0].dtype in ("s32", "u32"):
                found += [int(n) for n in re.findall(r"^\((\d+)\)", instruction.text)]
            for called in instruction.called:
                found += self._constants(called)
        return found

    def _stride(self, condition: str, body: str) -> int:
        """What one iteration adds to the loop's counter; 1 where it cannot be read."""
        index = next(
            (int(i.attribute(r"index=(\d+)") or 0) for i in self.computations[condition] if i.opcode == "get-tuple-element"),
            None,
        )  # fmt: skip
        by_name = {i.name: i for i in self.computations[body]}
        root = self.computations[body][-1]
        if index is None or root.opcode != "tuple" or index >= len(root.operands):
            return 1
        total, at = 0, by_name.get(root.operands[index])
        while at is not None and at.opcode in ("add", "copy", "bitcast"):
            following = None
            for name in at.operands:
                operand = by_name.get(name)
                if operand is not None and operand.opcode == "constant":
                    total += int(re.findall(r"^\((\d+)\)", operand.text)[0])
                else:
                    following = operand
            at = following
        return total or 1


def parse(text: str, data_trips: int = 1) -> Module:
    """The module of a compiled program's text."""
    module, current = Module(data_trips=data_trips), None
    for line in _lines(text):
        if not line.startswith(" "):
            if line.rstrip().endswith("{") and not line.startswith("HloModule"):
                header = re.match(r"(ENTRY )?%?([\w.\-]+)", line)
                assert header is not None
                current = module.computations.setdefault(header.group(2), [])
                module.entry = header.group(2) if header.group(1) else module.entry
            elif line.startswith("}"):
                current = None
            continue
        match = _INSTRUCTION.match(line)
        if match and current is not None:
            current.append(_instruction(match.group(1), line[match.end() :], line.lstrip().startswith("ROOT ")))
    return module


def _lines(text: str) -> list[str]:
    """Lines of the text; an attribute that holds line breaks is joined to its instruction."""
    joined: list[str] = []
    for line in text.splitlines():
        starts = line.startswith(("  ", "%", "ENTRY", "HloModule")) or line in ("}", "")
        if joined and not starts:
            joined[-1] += line
        else:
            joined.append(line)
    return joined


def _instruction(name: str, rest: str, is_root: bool) -> Instruction:
    """`type opcode(operands), attributes`."""
    kind, rest = _balanced(rest) if rest.startswith("(") else rest.split(" ", 1)
    opcode, rest = rest.lstrip().split("(", 1)
    operands, attributes = _balanced("(" + rest)
    body = operands[1:-1]
    names = tuple(re.findall(r"%([\w.\-]+)", body)) or tuple(
        re.findall(r"(?:^|, )(?:/\*[^*]*\*/)?([a-z_][\w.\-]*)", body)
    )
    called: list[str] = []
    for one, several in _CALLED.findall(attributes):
        called += [one] if one else re.findall(r"%?([\w.\-]+)", several)
    if opcode in ("constant", "parameter"):
        attributes, names = operands + attributes, ()
    return Instruction(name, opcode, arrays(kind), names, tuple(called), _trimmed(attributes), is_root)


def _balanced(text: str) -> tuple[str, str]:
    """Splits behind the bracket that closes the first one."""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[: at + 1], text[at + 1 :]
    return text, ""


def _trimmed(attributes: str) -> str:
    """Without the machine code of Pallas kernels, which is nine tenths of the text."""
    return re.sub(r'"body":"[^"]*"', '"body":""', attributes)
