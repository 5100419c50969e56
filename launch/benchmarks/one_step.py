"""One compiled step for a thousand batches of Qwen2-VL: `python -m launch.benchmarks.one_step [--data DIR] [--steps N]`.

Trains stage `multitask` of `tiny-qwen2`, with a model so narrow that reading is most of the work, and counts what XLA
compiles. Rows hold pictures of many sizes, small print, videos, episodes and pure text in every mixture that packing makes.
"""

import dataclasses
import tempfile
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import tyro

from configs.tiny_qwen2 import MODEL, tiny_qwen2
from data_pipelines.loader import open_loader
from qwenvl_jax.config import CheckpointConfig, MeshConfig, ParameterRule, Qwen2VLConfig
from qwenvl_jax.models.parameters import build, initialize
from qwenvl_jax.parallel.mesh import make_mesh
from qwenvl_jax.training.compilation import on_devices
from qwenvl_jax.training.loop import Batches, train_stage

COMPILED = "/jax/core/compile/backend_compile_duration"
TRAIN_ALL = (ParameterRule(".*"),)


@dataclass(frozen=True)
class Options:
    """Trains a narrow Qwen2-VL on packed rows and counts compilations."""

    data: Path = Path("data/tiny-qwen2")
    """The native world."""
    steps: int = 1000


def main() -> None:
    options = tyro.cli(Options)
    run = tiny_qwen2()
    vision = dataclasses.replace(MODEL.vision, width=32, layers=1, heads=1, mlp_width=32)
    language = dataclasses.replace(
        MODEL.language, width=32, layers=1, heads=2, kv_heads=1, mlp_width=32, mrope_sections=(2, 3, 3)
    )
    stage = next(stage for stage in run.stages if stage.name == "multitask")
    stage = dataclasses.replace(stage, steps=options.steps, parameters=TRAIN_ALL)
    run = dataclasses.replace(
        run,
        model=Qwen2VLConfig(vision, language),
        stages=(stage,),
        data=dataclasses.replace(run.data, root=str(options.data)),
        mesh=MeshConfig(1, 1, 1),
        checkpoint=CheckpointConfig(every=options.steps, keep=1),
        log_every=max(1, options.steps // 10),
    )
    mesh = make_mesh(run.mesh, jax.devices()[:1])
    run = on_devices(run, mesh)
    compilations: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compilations.append(event) if event == COMPILED else None
    )
    counts: list[int] = []
    rows: Counter[tuple[int, ...]] = Counter()

    def batches(start: int, _: object) -> Batches:
        with closing(open_loader(run, stage, start)) as loader:
            for batch, info in loader:
                counts.append(len(compilations))
                rows.update(
                    tuple(sorted(set(tasks[used > 0]))) for tasks, used in zip(batch.task_ids, batch.segment_ids)
                )
                yield batch, info

    with tempfile.TemporaryDirectory() as workdir:
        parameters = partial(initialize, run.model, run.precision, 0)
        train_stage(run, stage, build(run.model, run.precision), parameters, batches, mesh, Path(workdir))
    # The first two lines of metrics compile what they read; everything else is compiled before the second batch.
    settled = 2 * run.log_every
    print(
        f"{len(counts)} batches, {rows.total()} rows of {len(rows)} different sets of components; programs that XLA "
        f"compiled before batch 2: {counts[1]}, up to batch {settled}: {counts[settled - 1] - counts[1]}, behind it: "
        f"{len(compilations) - counts[settled - 1]}"
    )


if __name__ == "__main__":
    main()
