"""The plan of a stage: its step, compiled for a topology from shapes alone, and what the compiler says of it."""

import dataclasses
import math
import re
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from qwenvl_jax.config import Run, Stage
from qwenvl_jax.models.parameters import build
from qwenvl_jax.models.segment_attention import computed_scores, turns_of
from qwenvl_jax.parallel.memory import device_bytes, host_bytes
from qwenvl_jax.parallel.mesh import BATCH_AXES, make_mesh
from qwenvl_jax.planning import hlo, memory
from qwenvl_jax.planning.devices import Topology
from qwenvl_jax.planning.flops import traced_flops
from qwenvl_jax.planning.schedule import Walk
from qwenvl_jax.training.compilation import abstract_batch, abstract_state, compile_step, on_devices, trace_step
from qwenvl_jax.training.flops import step_flops

DAY = 86400.0
SLICE = 2304
"""Patches of each image (672 x 672 pixels), or of two frames of a video, that a plan fills rows with: the cost of the vision
tower's attention follows what lies in the rows."""
LARGEST = 16
"""Buffers that a plan names."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
      parameters: masters and frozen parameters.
      optimizer: moments, where they lie on the devices.
      batch: the step's input.
      temporaries: what the peak holds beside them: activations, gathered weights, gradients.
      peak: XLA's own figure where the step was compiled, else what the compiler said that it needed.
      walked: the peak found by walking the schedule; nan where the step did not compile.
      limit: what a program may use.
      on_host: moments in the memory of a device's host, which are carried there and back in every step.
      largest: (where it was made, type, bytes) of what is alive at the peak.
    """

    parameters: float
    optimizer: float
    batch: float
    peak: float
    walked: float
    limit: float
    on_host: float = 0.0
    largest: tuple[tuple[str, str, float], ...] = ()

    @property
    def temporaries(self) -> float:
        return self.peak - self.parameters - self.optimizer - self.batch

    @property
    def fits(self) -> bool:
        return self.peak <= self.limit


@dataclass(frozen=True)
class Time:
    """Seconds of one step, by three rooflines and by the compiler's schedule.

    Attributes:
      compute: executed FLOPs over the peak.
      memory: bytes read and written in main memory over its bandwidth.
      interconnect: collectives' bytes over the links.
      step: the schedule's length; where the compiler gives no cycles (CPU, GPU), the longest of the three.
      waiting: of that, for collectives that nothing covers.
      scheduled: whether `step` comes from the schedule.
    """

    compute: float
    memory: float
    interconnect: float
    step: float
    waiting: float
    scheduled: bool

    @property
    def binds(self) -> str:
        """The longest roofline; the network where its waiting is what the others leave."""
        roofs = {"compute": self.compute, "memory": self.memory, "interconnect": self.interconnect}
        return max(roofs, key=lambda name: roofs[name])


@dataclass(frozen=True)
class Plan:
    """What is known of a stage's step on a topology before it has run.

    Attributes:
      mesh: axis -> size.
      flops: part -> FLOPs that the model needs, of the whole mesh.
      executed: part -> FLOPs that the program runs (with what it recomputes), of the whole mesh.
      traffic: part -> bytes of main memory, per device.
      collectives: (kind, asynchronous) -> calls per device.
      moved: kind -> bytes of the results, per device.
      vision_remat: `remat` of the vision tower.
      time: None where the step did not compile.
      seconds_by_part: part -> seconds.
      patches_per_slice: that rows are assumed to hold, of each image or two frames; 0 where there are no patches.
      program_bytes: length of the compiled program's text, a measure of its size.
    """

    recipe: str
    stage: str
    topology: str
    devices: int
    mesh: dict[str, int]
    rows: int
    sequence_length: int
    images_per_row: int
    resolution: int
    patches_per_row: int
    patches_per_slice: int
    accumulation: int
    remat: str
    vision_remat: str
    attention: str
    steps: int
    memory: Memory
    flops: dict[str, float]
    executed: dict[str, float]
    traffic: dict[str, float] = field(default_factory=dict)
    collectives: dict[tuple[str, bool], int] = field(default_factory=dict)
    moved: dict[str, float] = field(default_factory=dict)
    time: Time | None = None
    seconds_by_part: dict[str, float] = field(default_factory=dict)
    compile_seconds: float = math.nan
    program_bytes: int = 0
    peak_flops: float = math.nan

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation: without what is recomputed."""
        return math.nan if self.time is None else sum(self.flops.values()) / (self.time.step * self.peak_flops)

    @property
    def days(self) -> float:
        return math.nan if self.time is None else self.steps * self.time.step / DAY


def make_plan(run: Run, stage: Stage, topology: Topology) -> Plan:
    """Compiles the stage's step for the topology. No array is made, no parameter read.

    Raises:
      ValueError: the mesh does not cover the topology, an axis or the rows do not divide, the table leaves parameters out.
    """
    mesh = make_mesh(run.mesh, list(topology.devices))
    run = on_devices(run, mesh)
    architecture = build(run.model, run.precision)
    state, table = abstract_state(run, stage, architecture, mesh)
    batch = abstract_batch(run, stage, mesh)
    traced = trace_step(run, stage, architecture, table, state, batch, mesh)
    turns, scores = vision_attention(stage, run.precision.attention)
    held = ((state.trained, state.frozen), state.optimizer, batch)
    parameters, moments, rows = (float(device_bytes(part)) for part in held)
    chip = topology.chip
    plan = Plan(
        recipe=run.name, stage=stage.name, topology=topology.name, devices=mesh.size, mesh=dict(mesh.shape),
        rows=stage.rows, sequence_length=stage.sequence_length, images_per_row=stage.images_per_row,
        resolution=stage.resolution, patches_per_row=stage.patches_per_row,
        patches_per_slice=min(SLICE, stage.patches_per_row), accumulation=stage.accumulation,
        remat=run.precision.remat, vision_remat=run.precision.remat_of_vision,
        attention=run.precision.attention, steps=stage.steps,
        memory=Memory(parameters, moments, rows, math.nan, math.nan, chip.memory, float(host_bytes(state.optimizer))),
        flops=step_flops(run.model, stage, table.trained, scores),
        executed=dict(traced_flops(traced.jaxpr.jaxpr, turns)),
        peak_flops=chip.flops * mesh.size,
    )  # fmt: skip
    began = time.perf_counter()
    try:
        compiled = compile_step(traced, mesh)
    except jax.errors.JaxRuntimeError as error:
        wanted = needed(str(error))
        if wanted is None:
            raise
        found = dataclasses.replace(plan.memory, peak=wanted)
        return dataclasses.replace(plan, memory=found, compile_seconds=time.perf_counter() - began)
    return _complete(plan, compiled, turns, topology, mesh, time.perf_counter() - began)


def vision_attention(stage: Stage, attention: str) -> tuple[int, float | None]:
    """Turns of the loop over the work list, or pairs of the kernels, and scores of all rows, where rows are full of slices
    of `SLICE` patches; of a stage without patches 1 and None."""
    if not stage.patches_per_row:
        return 1, None
    segments = np.arange(stage.patches_per_row)[None] // SLICE + 1
    return turns_of(segments, attention), float(stage.rows * computed_scores(segments, attention))


def _complete(
    plan: Plan, compiled: jax.stages.Compiled, turns: int, topology: Topology, mesh: Mesh, seconds: float
) -> Plan:
    """The plan with what the compiled program says."""
    text, chip = compiled.as_text() or "", topology.chip
    module = hlo.parse(text, turns)
    moment = memory.peak(module, memory.donations(text))
    totals = Walk(module, chip, mesh.size, lambda group: topology.bandwidth(mesh, group)).run()
    analysis: Any = compiled.memory_analysis()
    largest = tuple((scope, kind, size) for (scope, kind), size in list(moment.alive.items())[:LARGEST])
    by_part: dict[str, float] = defaultdict(float)
    for (part, _), spent in totals.busy.items():
        by_part[part] += spent
    waiting = sum(spent for (_, kind), spent in totals.busy.items() if kind == "waiting")
    compute = sum(plan.executed.values()) / plan.peak_flops
    traffic = sum(totals.traffic.values()) / chip.bandwidth
    scheduled = topology.chip.clock > 0
    step = totals.seconds if scheduled else max(compute, traffic, totals.link)
    found = dataclasses.replace(
        plan.memory, peak=float(analysis.peak_memory_in_bytes), walked=moment.bytes, largest=largest
    )
    return dataclasses.replace(
        plan, memory=found, traffic=dict(totals.traffic), collectives=dict(totals.collectives), moved=dict(totals.moved),
        time=Time(compute, traffic, totals.link, step, waiting, scheduled), seconds_by_part=dict(by_part),
        compile_seconds=seconds, program_bytes=len(text),
    )  # fmt: skip


def needed(message: str) -> float | None:
    """Bytes that the compiler wanted, from its refusal; None for another error."""
    units = {"G": 2**30, "M": 2**20, "K": 2**10, "T": 2**40}
    for pattern in (r"Used ([\d.]+)([KMGT]) of", r"required[^(]*\(([\d.]+)([KMGT])\) exceeds"):
        if found := re.search(pattern, message):
            return float(found.group(1)) * units[found.group(2)]
    return None


def what_would_fit(plan: Plan) -> list[str]:
    """Changes after which the step should fit, from the share of its memory that each of them divides."""
    advice = []
    if slices := slices_that_fit(plan):
        advice.append(f"--{plan.stage}.accumulation {slices}: the batch in {slices} slices, one behind the other")
        advice.append(f"--{plan.stage}.rows {plan.rows * plan.accumulation // slices}: a smaller global batch")
    elif context := context_that_fits(plan):
        slices = _rows_of_a_device(plan) * context
        advice.append(
            f"--mesh.context {plan.mesh['context'] * context} --{plan.stage}.accumulation {slices}: one row at a time on "
            f"{context} times as many devices; context x tensor must divide the heads of every part"
        )
    if plan.remat != "nothing":
        advice.append("--precision.remat nothing: every layer is computed again in the backward pass")
    if plan.vision_remat not in (plan.remat, "nothing"):
        advice.append("--precision.vision-remat nothing: the same for the layers of the vision tower")
    if plan.memory.optimizer:
        carried = f"{plan.memory.optimizer / 1e9:.2f} GB of moments lie on the hosts, and are carried there and back"
        advice.append(f"--precision.offload-moments: {carried}")
    times = 2 ** math.ceil(math.log2(plan.memory.peak / plan.memory.limit))
    advice.append(f"{plan.devices * times} devices instead of {plan.devices}, the new ones along mesh.fsdp")
    return advice


def slices_that_fit(plan: Plan) -> int | None:
    """The smallest accumulation whose peak should fit: beside parameters and moments, memory grows with the rows at a time.

    None: no number of slices would do.
    """
    rows = _rows_of_a_device(plan)
    return next((n for n in range(plan.accumulation, rows + 1) if rows % n == 0 and _fits_in(plan, n)), None)


def context_that_fits(plan: Plan) -> int | None:
    """How many times as many devices should hold a row, taken from fsdp, where one row at a time is still too much; None: no
    number of them would do. Parameters and moments are split as before."""
    numbers = (n for n in range(2, plan.mesh["fsdp"] + 1) if plan.mesh["fsdp"] % n == 0)
    return next((n for n in numbers if _fits_in(plan, _rows_of_a_device(plan) * n)), None)


def _rows_of_a_device(plan: Plan) -> int:
    return plan.rows // math.prod(plan.mesh[axis] for axis in BATCH_AXES)


def _fits_in(plan: Plan, slices: int) -> bool:
    """Whether the peak should fit with so many slices of what lies beside parameters and moments."""
    held = plan.memory.parameters + plan.memory.optimizer
    return held + (plan.memory.peak - held) * plan.accumulation / slices <= plan.memory.limit
