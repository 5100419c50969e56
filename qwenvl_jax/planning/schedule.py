"""How long a compiled program takes, read from its schedule.

Each operation costs the cycles that XLA estimates for it; loops count as often as they run. Collectives are priced by
their bytes over the links, Pallas kernels by their FLOPs at half the peak. Asynchronous collectives cost what the
computation between their start and their end does not cover. It is a compiler's opinion, not a stopwatch: good for comparing
programs.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from qwenvl_jax.planning.devices import Chip
from qwenvl_jax.planning.hlo import COLLECTIVES, Array, Instruction, Module
from qwenvl_jax.planning.kernels import kernel_flops
from qwenvl_jax.planning.parts import part_of

KERNEL_EFFICIENCY = 0.5
"""Of the peak, for Pallas kernels."""
MATMULS = ("convolution", "dot")
FREE = (
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "copy-done", "slice-done", "after-all",
    "partition-id", "replica-id", "while", "call", "conditional", "optimization-barrier", "call-start", "call-done",
)  # fmt: skip
"""Operations that move nothing themselves."""
READS = ("dynamic-slice", "gather")
UPDATES = {"dynamic-update-slice": 1, "scatter": 2}
"""What writes in place, and which operand it writes."""
VIEWS = ("bitcast", "reshape", "transpose")
"""Within a fusion: other names of the same memory."""


@dataclass
class Totals:
    """Of one device and one run of a computation.

    Attributes:
      seconds: from its start to its end.
      busy: seconds by (part, kind); kinds are matmul, kernel, elementwise, copy, and waiting (for collectives).
      traffic: bytes read and written in main memory, by part.
      collectives: (kind, asynchronous) -> calls.
      moved: kind -> bytes of results.
      link: seconds in which the network is busy.
    """

    seconds: float = 0.0
    busy: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    traffic: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    collectives: dict[tuple[str, bool], int] = field(default_factory=lambda: defaultdict(int))
    moved: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    link: float = 0.0

    def add(self, other: "Totals", times: int) -> None:
        """Another computation that runs so often within this one."""
        self.seconds += times * other.seconds
        self.link += times * other.link
        for name in ("busy", "traffic", "collectives", "moved"):
            mine, theirs = getattr(self, name), getattr(other, name)
            for key, value in theirs.items():
                mine[key] += times * value


def collective_seconds(kind: str, size: float, group: int, bandwidth: float) -> float:
    """A ring's time for a collective whose full array has `size` bytes; `bandwidth` bytes per second leave a device."""
    if group <= 1:
        return 0.0
    share = (group - 1) / group
    if kind == "all-reduce":
        return 2 * size * share / bandwidth
    return size * (share if kind != "collective-permute" else 1.0) / bandwidth


class Walk:
    """Adds a module's schedule up. `bandwidth(group)` is what a device can send within a group of that many devices."""

    def __init__(self, module: Module, chip: Chip, devices: int, bandwidth: Callable[[int], float]):
        self.module, self.chip, self.devices, self.bandwidth = module, chip, devices, bandwidth
        self._known: dict[tuple[str, frozenset[str]], Totals] = {}

    def run(self) -> Totals:
        return self._computation(self.module.entry, frozenset())

    def _computation(self, name: str, under_way: frozenset[str]) -> Totals:
        """`under_way`: keys of the collectives that started before, outside of this computation."""
        if (name, under_way) not in self._known:
            self._known[name, under_way] = self._walk(self.module.computations[name], under_way)
        return self._known[name, under_way]

    def _walk(self, instructions: list[Instruction], under_way: frozenset[str]) -> Totals:
        totals, free = Totals(), 0.0
        pending: dict[str, float] = {}
        results = {i.name: i.result for i in instructions}

        def wait(key: str, part: str) -> None:
            ends = pending.pop(key, 0.0)
            if ends > totals.seconds:
                totals.busy[part, "waiting"] += ends - totals.seconds
                totals.seconds = ends

        for i in instructions:
            part = part_of(i.scope)
            if i.opcode == "while":
                body = i.attribute(r"body=%?([\w.\-]+)") or ""
                totals.add(self._computation(body, under_way.union(pending)), self.module.trips(i))
                continue
            if i.opcode.endswith("-done") and i.operands and i.operands[0] in pending:
                wait(i.operands[0], part)
                continue
            moves = self._collectives(i)
            for kind, size, group, key, is_async in moves:
                seconds = collective_seconds(kind, size, group, self.bandwidth(group))
                # A later piece of a collective that was counted when it started; a loop may carry pieces in its turns.
                if key in pending or key in under_way:
                    if "done" in i.name:
                        wait(key, part)
                    continue
                totals.collectives[kind, is_async] += 1
                totals.moved[kind] += size
                totals.link += seconds
                if is_async:
                    free = max(totals.seconds, free) + seconds
                    pending[key] = free
                else:
                    totals.seconds += seconds
                    totals.busy[part, "waiting"] += seconds
            if i.opcode in ("call", "conditional"):
                inside = under_way.union(pending)
                longest = [self._computation(c, inside) for c in i.called if c in self.module.computations]
                totals.add(max(longest, key=lambda t: t.seconds, default=Totals()), 1)
                continue
            seconds, kind = self._seconds(i, results)
            if i.opcode not in FREE and not moves:
                traffic = self._traffic(i, results)
                totals.traffic[part] += traffic
                if any(x in ("gather", "scatter") for x in self._inside(i)):  # of which XLA has no estimate
                    seconds = max(seconds, traffic / self.chip.bandwidth)
            totals.seconds += seconds
            totals.busy[part, kind] += seconds
        return totals

    def _collectives(self, i: Instruction) -> list[tuple[str, float, int, str, bool]]:
        """(kind, bytes, group, key, asynchronous) of what an instruction starts or continues."""
        base = i.opcode.removesuffix("-start")
        if i.opcode.endswith("-done"):
            return []
        if base in COLLECTIVES:
            started = i.opcode.endswith("-start")
            sizes = [a.bytes for a in i.result] or [0.0]
            size = max(sizes) if started else sum(sizes)
            group = i.group_size or self.devices
            if base == "reduce-scatter" and not started:
                size *= group
            return [(base, size, group, i.name, started)]
        found = []
        for called in i.called if i.opcode in ("fusion", "call-start", "async-start") else ():
            for inner in self.module.computations.get(called, []):
                kind = inner.opcode.removesuffix("-start")
                if kind not in COLLECTIVES or inner.opcode.endswith("-done"):
                    continue
                size = sum(a.bytes for a in inner.result)
                scattered = (
                    kind == "all-reduce" and i.opcode == "fusion" and sum(a.bytes for a in i.result) < 0.6 * size
                )
                offloaded = i.opcode != "fusion"
                is_async = offloaded or "async" in i.name or "async" in called
                key = i.name if offloaded else inner.attribute(r"channel_id=(\d+)") or i.name
                kind = "reduce-scatter" if scattered else kind
                found.append((kind, size, inner.group_size or self.devices, key, is_async))
        return found

    def _seconds(self, i: Instruction, results: dict[str, tuple[Array, ...]]) -> tuple[float, str]:
        if i.opcode == "custom-call" and "tpu_custom_call" in i.text:
            shapes = [a.shape for name in i.operands for a in results.get(name, ())]
            flops = kernel_flops(i.name, i.scope, shapes, self.module.data_trips)
            return flops / (KERNEL_EFFICIENCY * self.chip.flops), "kernel"
        if i.opcode in MATMULS or any(opcode in MATMULS for opcode in self._inside(i)):
            kind = "matmul"
        else:
            kind = "copy" if "copy" in i.name else "elementwise"
        return i.cycles / self.chip.clock, kind

    def _inside(self, i: Instruction) -> list[str]:
        """Opcodes of what a fusion fuses."""
        called = i.called if i.opcode == "fusion" else ()
        return [x.opcode for c in called for x in self.module.computations.get(c, [])]

    def _traffic(self, i: Instruction, results: dict[str, tuple[Array, ...]]) -> float:
        """Bytes of main memory that an operation reads and writes; of what it slices or gathers from, and writes in place,
        the part that is touched."""
        inside = self.module.computations.get(i.called[0], []) if i.opcode == "fusion" and i.called else []
        parameters = [x for x in inside if x.opcode == "parameter"]
        total = sum(a.allocated for a in i.result if not a.space)
        updates = [x for x in inside if x.opcode in UPDATES]
        if updates:
            sizes = {x.name: sum(a.allocated for a in x.result) for x in inside}
            total = sum(sizes.get(x.operands[UPDATES[x.opcode]], 0.0) for x in updates)
        for place, name in enumerate(i.operands):
            size = sum(a.allocated for a in results.get(name, ()) if not a.space)
            if size and place < len(parameters):
                users = _users(parameters[place], inside)
                if users and all(x.opcode in (*READS, *UPDATES) for x in users):
                    size = sum(a.allocated for x in users if x.opcode in READS for a in x.result)
            total += size
        return total


def _users(value: Instruction, inside: list[Instruction]) -> list[Instruction]:
    """What uses a value within a fusion; views of it are looked through, but for one that is its result."""
    found = []
    for x in inside:
        if value.name in x.operands:
            found += (_users(x, inside) if x.opcode in VIEWS else None) or [x]
    return found
