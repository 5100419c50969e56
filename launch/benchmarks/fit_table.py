"""Writes docs/fit.md: plans of recipes and stages on topologies, one compiled program each.

    python -m launch.benchmarks.fit_table

Plans that were made before are kept in runs/plans as JSON and made again only with `--fresh`, or where the file is missing.
Each runs in a process of its own, so that the memory of one compilation is given back before the next.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PLANS, TABLE = Path("runs/plans"), Path("docs/fit.md")
FOUR_ROWS = ("--multitask.rows", "4")
CONTEXT = ("--mesh.fsdp", "1", "--mesh.context", "4")
IMAGES = ("--multitask.rows", "128", "--multitask.images-per-row", "4", "--precision.vision-remat", "attention")


@dataclass(frozen=True)
class Case:
    """One line of the table: what `qwenvl plan` is called with."""

    recipe: str
    stage: str
    topology: str
    fields: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[str]:
        return ["plan", self.recipe, "--stage", self.stage, "--topology", self.topology, *self.fields]

    @property
    def file(self) -> Path:
        words = [self.recipe, self.stage, self.topology, *self.fields]
        return PLANS / ("_".join(words).replace("*", "x").replace(":", "-").replace("--", "") + ".json")


CASES = (
    Case("qwen-7b", "text", "v5p:4x4x4"),
    Case("qwen-7b", "text", "v5p:4x4x4", ("--precision.remat", "matmuls")),
    Case("qwen-7b", "text", "v5p:4x4x4", ("--mesh.fsdp", "16", "--mesh.tensor", "4")),
    Case("qwen-7b", "text", "v5e:16x16", ("--text.rows", "256")),
    Case("qwen-7b", "text", "v5p:4x4x4", ("--model.language.layers", "24")),
    Case("qwen-7b", "text", "v5p:4x4x4", ("--model.language.layers", "48")),
    Case("qwen-vl", "multitask", "v5p:4x4x4", IMAGES),
    Case("qwen-vl", "multitask", "v5p:4x4x4", (*IMAGES, "--model.vision.layers", "24")),
    Case("qwen-vl", "pretrain", "v5p:4x4x4", ("--pretrain.accumulation", "10")),
    Case("qwen-vl", "multitask", "v5p:4x4x4"),
    Case("qwen-vl", "sft", "v5p:2x4x4"),
    Case("qwen2-vl-2b", "pretrain", "v5p:4x4x4", ("--pretrain.accumulation", "4")),
    Case("qwen2-vl-2b", "multitask", "v5p:4x4x4", ("--multitask.accumulation", "4")),
    Case("qwen2-vl-2b", "sft", "v5p:4x4x4"),
    Case("qwen2-vl-2b", "multitask", "v6e:16x16"),
    Case("qwen2-vl-7b", "pretrain", "v5p:4x4x4", ("--pretrain.accumulation", "4")),
    Case("qwen2-vl-7b", "multitask", "v5p:4x4x4", ("--multitask.accumulation", "4")),
    Case("qwen2-vl-7b", "sft", "v5p:4x4x4"),
    Case("qwen2-vl-72b", "multitask", "v5p:4x8x8"),
    Case("qwen2-vl-2b", "multitask", "v5p:2x2x1", (*FOUR_ROWS, "--mesh.fsdp", "4", "--multitask.accumulation", "1")),
    Case("qwen2-vl-2b", "multitask", "v5p:2x2x1", (*FOUR_ROWS, *CONTEXT, "--multitask.accumulation", "4")),
)

HEADING = """# What fits where, and how fast

Written by `python -m launch.benchmarks.fit_table`; each line is one `qwenvl plan`, compiled for the topology by libtpu on a
machine without a TPU. Peak and limit are of one device. Seconds are XLA's own cycles along the program's schedule, with
collectives priced by bytes and Pallas kernels at half of the peak: an opinion to compare programs by, not a measurement.
Rows of Qwen2-VL are taken as full of images of 672 x 672 pixels (2,304 patches); larger ones cost the vision tower more.
Seconds of compiling are of the machine that made each plan, here two cores; all lines were planned anew on one day, by the
same code (`--fresh`; without it, a line keeps the plan that was made first). The line that took 190 s took 165 another time,
with 3.6 GiB of memory. Program, MB is the length of the compiled program's text: layers are scanned, so that it is as long
with 24 of them as with 48.

"""
COLUMNS = (
    "recipe, stage", "topology", "fields", "peak (walked) / limit, GB", "step, s", "MFU", "tokens/s", "days",
    "gathered / reduced, GB", "compiled in, s", "program, MB",
)  # fmt: skip


def make(case: Case) -> None:
    """Plans a case in a process of its own."""
    started = time.monotonic()
    command = [sys.executable, "-m", "launch.main", *case.arguments, "--json", str(case.file)]
    finished = subprocess.run(command, capture_output=True, text=True)
    outcome = "planned" if finished.returncode == 0 else f"failed: {finished.stderr.strip().splitlines()[-1]}"
    print(f"{' '.join(case.arguments)}: {outcome} after {time.monotonic() - started:.0f} s", flush=True)


def row(case: Case) -> str:
    """The case's line of the table; a case that has no plan says so."""
    fields = " ".join(case.fields) or "as the recipe"
    start = f"| `{case.recipe}`, {case.stage} | {case.topology} | {fields} |"
    if not case.file.is_file():
        return f"{start} not planned | | | | | | | |"
    (plan,) = json.loads(case.file.read_text())
    memory = plan["memory"]
    if not plan["fits"]:
        return f"{start} {memory['peak'] / 1e9:.2f} / {memory['limit'] / 1e9:.1f}: **does not fit** | | | | | | | |"
    moved = plan["moved"]
    reduced = moved.get("all-reduce", 0) + moved.get("reduce-scatter", 0)
    return (
        f"{start} {memory['peak'] / 1e9:.2f} ({memory['peak_walked'] / 1e9:.2f}) / {memory['limit'] / 1e9:.1f} "
        f"| {plan['time']['step']:.3f} | {plan['mfu']:.1%} | {plan['tokens_per_second']:,.0f} | {plan['days']:.2f} "
        f"| {moved.get('all-gather', 0) / 1e9:.1f} / {reduced / 1e9:.1f} | {plan['compile_seconds']:.0f} "
        f"| {plan['program_bytes'] / 1e6:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="plan again what was planned before")
    parser.add_argument("--only", default="", help="plan only cases whose command contains this")
    options = parser.parse_args()
    PLANS.mkdir(parents=True, exist_ok=True)
    TABLE.parent.mkdir(exist_ok=True)
    header = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for case in CASES:
        if options.only in " ".join(case.arguments) and (options.fresh or not case.file.is_file()):
            make(case)
        TABLE.write_text(HEADING + "\n".join([*header, *map(row, CASES)]) + "\n")


if __name__ == "__main__":
    main()
