"""The search for the fastest step that fits: mesh x rows at a time x rematerialisation.

Compiling takes a minute or more, so few candidates are compiled: on each mesh the smallest first (everything computed
again), with as few slices of the batch as its memory allows; then what keeps more, until it no longer fits. Meshes with a
tensor axis are tried while none has fitted, or while the network binds. The context axis stays as the run has it.
"""

import dataclasses
import math
from collections.abc import Callable

from qwenvl_jax.config import MeshConfig, Run, Stage
from qwenvl_jax.planning.devices import Topology
from qwenvl_jax.planning.plan import Plan, make_plan, slices_that_fit

REMAT = ("nothing", "attention", "projections", "matmuls")
"""What a layer keeps, from the least to the most."""
TENSOR = (1, 2, 4, 8)


def meshes(run: Run, stage: Stage, topology: Topology) -> list[MeshConfig]:
    """Meshes over which heads and rows divide: `tensor` as small as that allows, `data` over the slices."""
    language, context = run.model.language, max(1, run.mesh.context)
    heads = math.gcd(*(part.heads for part in vars(run.model).values()))
    devices = len(topology.devices)
    found = [
        MeshConfig(
            data=topology.slices, fsdp=devices // (topology.slices * tensor * context), tensor=tensor, context=context
        )
        for tensor in TENSOR
        if heads % (tensor * context)
        == language.kv_heads % tensor
        == devices % (topology.slices * tensor * context)
        == 0
    ]
    return [mesh for mesh in found if stage.rows % (mesh.data * mesh.fsdp) == 0]


def fastest(run: Run, stage: Stage, topology: Topology, say: Callable[[str], None]) -> Plan:
    """The plan with the shortest step among those that fit; where none fits, the one that misses by the least.

    Args:
      say: told of every candidate.

    Raises:
      ValueError: the rows divide over no mesh of the topology.
    """
    tried: list[Plan] = []

    def compile_one(mesh: MeshConfig, remat: str, accumulation: int) -> Plan:
        precision = dataclasses.replace(run.precision, remat=remat)
        changed = dataclasses.replace(run, mesh=mesh, precision=precision)
        plan = make_plan(changed, dataclasses.replace(stage, accumulation=accumulation), topology)
        tried.append(plan)
        step = "" if plan.time is None else f", {plan.time.step:.3f} s a step"
        say(
            f"  fsdp {mesh.fsdp} x tensor {mesh.tensor} x context {mesh.context}, remat {remat}, accumulation "
            f"{accumulation}: {plan.memory.peak / 1e9:.2f} GB of {plan.memory.limit / 1e9:.2f}{step}"
        )
        return plan

    possible = meshes(run, stage, topology)
    if not possible:
        raise ValueError(
            f"stage {stage.name}: {stage.rows} rows divide over no mesh of {len(topology.devices)} devices"
            f" with context {max(1, run.mesh.context)}; take a multiple of {len(topology.devices)}"
        )
    for mesh in possible:
        plan = compile_one(mesh, REMAT[0], 1)
        if not plan.memory.fits and (slices := slices_that_fit(plan)):
            plan = compile_one(mesh, REMAT[0], slices)
        if not plan.memory.fits:
            continue
        for remat in REMAT[1:]:
            if not compile_one(mesh, remat, plan.accumulation).memory.fits:
                break
        if plan.time is not None and plan.time.binds != "interconnect":
            break
    fitting = [plan for plan in tried if plan.memory.fits and plan.time is not None]
    if fitting:
        return min(fitting, key=lambda plan: plan.time.step if plan.time else math.inf)
    return min(tried, key=lambda plan: plan.memory.peak)
