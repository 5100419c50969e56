"""A plan for people (lines of text) and for programs (JSON)."""

import json
import math
from typing import Any

from qwenvl_jax.planning.parts import OTHER, PARTS
from qwenvl_jax.planning.plan import Plan, what_would_fit

GB, TERA = 1e9, 1e12


def to_json(plan: Plan) -> dict[str, Any]:
    """Every figure, in bytes, seconds and FLOPs; what is unknown is null."""
    memory, spent = plan.memory, plan.time
    figures: dict[str, Any] = {
        "recipe": plan.recipe,
        "stage": plan.stage,
        "topology": plan.topology,
        "devices": plan.devices,
        "mesh": plan.mesh,
        "rows": plan.rows,
        "sequence_length": plan.sequence_length,
        "images_per_row": plan.images_per_row,
        "resolution": plan.resolution,
        "patches_per_row": plan.patches_per_row,
        "patches_per_slice": plan.patches_per_slice,
        "accumulation": plan.accumulation,
        "remat": plan.remat,
        "vision_remat": plan.vision_remat,
        "attention": plan.attention,
        "fits": memory.fits,
        "memory": {
            "parameters": memory.parameters,
            "optimizer": memory.optimizer,
            "batch": memory.batch,
            "temporaries": memory.temporaries,
            "peak": memory.peak,
            "peak_walked": memory.walked,
            "limit": memory.limit,
            "on_host": memory.on_host,
            "largest": [{"where": where, "type": kind, "bytes": size} for where, kind, size in memory.largest],
        },
        "compile_seconds": plan.compile_seconds,
        "program_bytes": plan.program_bytes,
        "flops": plan.flops,
        "executed_flops": plan.executed,
        "traffic": plan.traffic,
        "seconds_by_part": plan.seconds_by_part,
        "collectives": [
            {"kind": kind, "asynchronous": is_async, "calls": calls}
            for (kind, is_async), calls in sorted(plan.collectives.items())
        ],
        "moved": plan.moved,
    }
    if spent is not None:
        figures["time"] = {
            "compute": spent.compute, "memory": spent.memory, "interconnect": spent.interconnect,
            "waiting": spent.waiting, "step": spent.step, "binds": spent.binds, "from_schedule": spent.scheduled,
        }  # fmt: skip
        figures |= {
            "mfu": plan.mfu,
            "tokens_per_second": plan.rows * plan.sequence_length / spent.step,
            "images_per_second": plan.rows * plan.images_per_row / spent.step,
            "patches_per_second": plan.rows * plan.patches_per_row / spent.step,
            "days": plan.days,
        }
    cleaned: dict[str, Any] = json.loads(json.dumps(figures), parse_constant=lambda _: None)
    return cleaned


def to_text(plan: Plan) -> str:
    """The report that the command prints."""
    lines = [*_heading(plan), "", *_memory(plan)]
    if not plan.memory.fits:
        over = plan.memory.peak - plan.memory.limit
        lines += ["", f"DOES NOT FIT: {over / GB:.2f} GB too much on each device. What should make it fit:"]
        lines += [f"  {advice}" for advice in what_would_fit(plan)]
        lines += ["  qwenvl plan ... --fit tries meshes, rows and rematerialisation by compiling them"]
    if plan.time is not None:
        lines += ["", *_parts(plan), "", *_collectives(plan), "", *_speed(plan)]
    return "\n".join(lines)


def _heading(plan: Plan) -> list[str]:
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1) or "one device"
    slices = f" in {plan.accumulation} slices" if plan.accumulation > 1 else ""
    vision = f" ({plan.vision_remat} in the vision tower)" if plan.vision_remat != plan.remat else ""
    return [
        f"{plan.recipe}, stage {plan.stage}, on {plan.topology} ({plan.devices} devices; {mesh})",
        f"{plan.rows} rows of {plan.sequence_length} tokens{slices}, {_vision(plan)}; remat {plan.remat}{vision}, "
        f"attention {plan.attention}",
        f"compiled in {plan.compile_seconds:.0f} s"
        + (f", {plan.program_bytes / 1e6:.1f} MB of HLO" if plan.time else ""),
    ]


def _vision(plan: Plan) -> str:
    """What a row has room for."""
    if plan.patches_per_row:
        return f"{plan.patches_per_row} patches a row, as if in images of {plan.patches_per_slice}"
    return f"{plan.images_per_row} images a row at {plan.resolution} pixels" if plan.images_per_row else "text alone"


def _memory(plan: Plan) -> list[str]:
    memory = plan.memory
    rows = [
        ("parameters", memory.parameters),
        ("optimizer state", memory.optimizer),
        ("batch", memory.batch),
        ("activations, gradients, temporaries", memory.temporaries),
        ("peak", memory.peak),
        ("limit", memory.limit),
    ]
    if memory.on_host:
        rows.append(("moments on the host, not in the time", memory.on_host))
    lines = ["Memory of a device" + " " * 22 + "GB", *(f"  {name:36} {size / GB:8.3f}" for name, size in rows)]
    if not math.isnan(memory.walked):
        off = memory.walked / memory.peak - 1
        lines += [f"  the schedule, walked: {memory.walked / GB:.3f} GB at its fullest moment ({off:+.1%}), where lie"]
        lines += [f"    {size / GB:7.3f}  {kind:26} {_short(where)}" for where, kind, size in memory.largest[:8]]
    return lines


def _short(where: str) -> str:
    return where if len(where) <= 72 else f"...{where[-69:]}"


def _parts(plan: Plan) -> list[str]:
    """One line per part: FLOPs needed and executed, traffic and time."""
    lines = ["Part          model TFLOP   executed   GB of memory traffic   ms  (a device's share)"]
    named = [p for p in (*PARTS, OTHER) if p in plan.seconds_by_part or p in plan.flops]
    for part in named:
        needed, executed = (counted.get(part, 0.0) / plan.devices / TERA for counted in (plan.flops, plan.executed))
        traffic, spent = plan.traffic.get(part, 0.0) / GB, 1e3 * plan.seconds_by_part.get(part, 0.0)
        lines.append(f"  {part:10} {needed:12.3f} {executed:10.3f} {traffic:18.1f} {spent:9.1f}")
    return lines


def _collectives(plan: Plan) -> list[str]:
    lines = ["Collectives           calls   asynchronous     GB moved"]
    for kind, moved in sorted(plan.moved.items()):
        calls = {is_async: plan.collectives.get((kind, is_async), 0) for is_async in (False, True)}
        lines.append(f"  {kind:18} {sum(calls.values()):6} {calls[True]:14} {moved / GB:12.2f}")
    return lines if plan.moved else ["Collectives: none"]


def _speed(plan: Plan) -> list[str]:
    spent = plan.time
    assert spent is not None
    source = "XLA's cycles along its schedule" if spent.scheduled else "the longest roofline"
    seen = {"tokens": plan.sequence_length, "images": plan.images_per_row, "patches": plan.patches_per_row}
    speeds = ", ".join(f"{plan.rows * each / spent.step:,.0f} {name}/s" for name, each in seen.items() if each)
    return [
        f"Rooflines: compute {spent.compute:.3f} s, memory {spent.memory:.3f} s, interconnect {spent.interconnect:.3f} s: "
        f"{spent.binds} binds",
        f"Predicted step {spent.step:.3f} s ({source}; {spent.waiting:.3f} s of it waiting for others), MFU {plan.mfu:.1%}",
        f"{speeds}; {plan.steps:,} steps take {plan.days:.2f} days",
    ]
