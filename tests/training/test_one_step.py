"""A stage of Qwen2-VL has one compiled step, whatever its rows hold; the run itself holds to it."""

from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from small_model import random_parameters
from small_qwen2_vl import CONFIG, PRECISION, random_batch, small_run, small_stage

from qwenvl_jax.batch import IGNORED
from qwenvl_jax.config import CheckpointConfig, MeshConfig
from qwenvl_jax.models.parameters import build
from qwenvl_jax.parallel.mesh import make_mesh
from qwenvl_jax.training import loop
from qwenvl_jax.training.json_lines import read_lines

STEPS = 60
"""`python -m launch.benchmarks.one_step` does a thousand, with the rows of a recipe."""
COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def train(tmp_path, monkeypatch):
    """(stream) -> lines of metrics of a whole stage."""
    monkeypatch.setattr(loop, "peak_flops", lambda: 1e12)
    architecture = build(CONFIG, PRECISION)
    stage = small_stage(name="multitask", steps=STEPS)
    run = small_run(stage, checkpoint=CheckpointConfig(every=1000, keep=1), log_every=STEPS // 2)
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])

    def train(stream):
        loop.train_stage(run, stage, architecture, partial(random_parameters, architecture), stream, mesh, tmp_path)
        return read_lines(tmp_path / "metrics.jsonl")

    return train


def info():
    return SimpleNamespace(fingerprint="0", replaced=0, dropped=0, records=(), windows=((0, 0, 0),))


def test_rows_of_all_kinds_run_through_one_compiled_step(train, monkeypatch) -> None:
    """Batches of text alone, of images, of videos and mixed ones: XLA compiles nothing behind the first line of metrics,
    and the loss stays finite."""
    compile_step, steps, compilations, seen = loop.compile_step, [], [], set()
    monkeypatch.setattr(loop, "compile_step", lambda *args: steps.append(1) or compile_step(*args))
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compilations.append(event) if event == COMPILED else None
    )
    counts = []

    def stream(start, _):
        for step in range(start, STEPS):
            counts.append(len(compilations))
            batch = random_batch(step)
            if step == 3:  # text alone in every row
                text = batch.vision_index == IGNORED
                batch = batch._replace(
                    vision_index=np.full_like(batch.vision_index, IGNORED),
                    loss_weights=batch.loss_weights * text,
                    patch_segments=np.zeros_like(batch.patch_segments),
                )
            for row in range(len(batch.tokens)):
                seen.add(((batch.vision_index[row] == IGNORED).all(), int(batch.patch_segments[row].max())))
            yield batch, info()

    lines = train(stream)
    assert len(steps) == 1
    # Beside the step, the first batches compile what moves arrays and reads metrics.
    assert counts[0] < counts[STEPS // 2 + 2] == counts[-1]
    assert {text for text, _ in seen} == {True, False}
    assert len({segments for _, segments in seen}) > 4
    assert all(np.isfinite(line["loss"]) for line in lines)


@pytest.mark.parametrize("name", ["tokens", "positions", "patches", "patch_segments"])
def test_another_shape_stops_the_run_with_its_name(train, name: str) -> None:
    """Nothing is compiled again in silence: the sentence names the array."""

    def stream(start, _):
        yield random_batch(0), info()
        batch = random_batch(1)
        yield batch._replace(**{name: np.repeat(getattr(batch, name), 2, axis=-1)}), info()

    with pytest.raises(ValueError, match=rf"batch\.{name} is .* would have to be compiled again"):
        train(stream)


def test_another_type_stops_the_run(train) -> None:
    """Pixels that someone normalised on the host are another program too."""

    def stream(start, _):
        batch = random_batch(0)
        yield batch._replace(patches=batch.patches.astype(np.float32)), info()

    with pytest.raises(ValueError, match=r"batch\.patches is float32"):
        train(stream)
