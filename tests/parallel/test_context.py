"""Promises of the mesh axis `context`: a row that lies on several devices is learned from as on one, and never whole.

The small models get four heads, and Qwen2-VL two of keys and values: on context x tensor = 4 each of these is there twice.
"""

import dataclasses
import re
from functools import partial

import jax
import numpy as np
import pytest
import small_model
import small_qwen2_vl

from qwenvl_jax.config import MeshConfig, ModelConfig
from qwenvl_jax.models.parameters import build
from qwenvl_jax.parallel.mesh import make_mesh, parameter_shardings, place
from qwenvl_jax.processing.patches import Grid
from qwenvl_jax.training.compilation import abstract_batch, abstract_state, compile_step, trace_step
from qwenvl_jax.training.loop import put_batch
from qwenvl_jax.training.step import batch_loss

HEADS = 4
MESHES = (MeshConfig(1, 2, 2, 2), MeshConfig(2, 1, 1, 4))


def pictures(images: int):
    """Rows of two samples; the first has so many of the row's two images."""
    rng = np.random.default_rng(images)
    samples = [[small_model.random_sample(rng, images, 10), small_model.random_sample(rng, 0, 8)] for _ in range(8)]
    return small_model.pack(samples, 48, 2)


def natives(*grids: Grid):
    """Rows of two samples; the first has these images and videos."""
    rng = np.random.default_rng(len(grids))
    samples = [[small_qwen2_vl.make_sample(rng, 4, *grids, 9), small_qwen2_vl.make_sample(rng, 8)] for _ in range(8)]
    return small_qwen2_vl.pack(samples, small_qwen2_vl.LENGTH, small_qwen2_vl.PATCHES)


FAMILIES = {
    "qwen_vl": (small_model, {"text": lambda: pictures(0), "images": lambda: pictures(2)}),
    "qwen2_vl": (
        small_qwen2_vl,
        {
            "text": natives,
            "images": lambda: natives(Grid(1, 4, 6), Grid(1, 2, 4)),
            "video": lambda: natives(Grid(3, 4, 4)),
        },
    ),
}


def with_heads(config: ModelConfig) -> ModelConfig:
    """Every part with HEADS heads."""
    return dataclasses.replace(
        config, **{name: dataclasses.replace(part, heads=HEADS) for name, part in vars(config).items()}
    )


@pytest.fixture(scope="module", params=FAMILIES)
def graded(request):
    """A function of a mesh: kind of batch -> (sum of the losses, path -> gradient)."""
    family, kinds = FAMILIES[request.param]
    architecture = build(with_heads(family.CONFIG), family.PRECISION)
    parameters = small_model.random_parameters(architecture)
    stage = family.small_stage()

    def on(config: MeshConfig) -> dict[str, tuple[float, dict[str, np.ndarray]]]:
        mesh = make_mesh(config, jax.devices()[: config.data * config.fsdp * config.tensor * config.context])
        shardings = parameter_shardings(architecture.axes, architecture.shapes, mesh)
        placed = {path: place(parameters[path], shardings[path]) for path in parameters}
        loss = partial(batch_loss, architecture, family.PRECISION, stage)
        function = jax.jit(jax.value_and_grad(loss, has_aux=True))
        results = {}
        with jax.set_mesh(mesh):
            for kind, batch in kinds.items():
                (value, _), gradients = function(placed, put_batch(batch(), 8, mesh))
                results[kind] = float(value), {path: np.asarray(g) for path, g in gradients.items()}
        assert function._cache_size() == 1
        return results

    return on, on(MeshConfig(1, 1, 1, 1))


@pytest.mark.parametrize("config", MESHES, ids=["fsdp 2, tensor 2, context 2", "data 2, context 4"])
def test_a_split_row_equals_one_device(graded, config: MeshConfig) -> None:
    """Losses and the gradients of all parameters, for text, images and videos. Only the order of float32 sums differs: by
    3.3e-6 of a gradient's norm where it was measured; a gradient that is zero but for rounding is held to that of all."""
    on, one = graded
    for kind, (value, gradients) in on(config).items():
        expected, theirs = one[kind]
        assert value == pytest.approx(expected, rel=1e-6), kind
        whole = np.sqrt(sum(np.square(g).sum() for g in theirs.values()))
        for path, gradient in gradients.items():
            difference = np.linalg.norm(gradient - theirs[path])
            assert difference <= 1e-5 * np.linalg.norm(theirs[path]) + 1e-7 * whole, (kind, path)


LENGTH, PATCHES, VOCABULARY = 704, 1408, 320
"""Of a long row: neither they nor their quarters are widths of the small models."""


def long_row(config: MeshConfig, rows: int) -> jax.stages.Compiled:
    """The step of a small Qwen2-VL on long rows."""
    stage = small_qwen2_vl.small_stage(rows=rows, sequence_length=LENGTH, patches_per_row=PATCHES)
    run = small_qwen2_vl.small_run(stage, model=with_heads(small_qwen2_vl.CONFIG))
    mesh = make_mesh(config, jax.devices()[: config.data * config.fsdp * config.tensor * config.context])
    architecture = build(run.model, run.precision)
    state, table = abstract_state(run, stage, architecture, mesh)
    batch = abstract_batch(run, stage, mesh)
    return compile_step(trace_step(run, stage, architecture, table, state, batch, mesh), mesh)


def arrays(lines: list[str]) -> list[tuple[str, tuple[int, ...]]]:
    """(type, shape) of all results."""
    found = re.findall(r"(\w+)\[([\d,]+)\]", "\n".join(line.partition(" = ")[2].partition("(%")[0] for line in lines))
    return [(kind, tuple(int(n) for n in shape.split(","))) for kind, shape in found]


def test_a_row_is_never_whole() -> None:
    """On four devices, a row's stream lies in four parts; heads are exchanged for positions in one all-to-all for each of
    queries, keys, values and result, weights alone are gathered, and nothing is exchanged within the tower's attention."""
    text = long_row(MeshConfig(1, 1, 1, 4), rows=1).as_text()
    lines = text.splitlines()
    width, tower = small_qwen2_vl.CONFIG.language.width, small_qwen2_vl.CONFIG.vision.width
    shapes = {shape for kind, shape in arrays(lines) if kind == "f32"}
    assert (1, LENGTH // 4, width) in shapes
    assert (1, PATCHES // 4, tower) in shapes
    for forbidden in ({LENGTH, width}, {PATCHES, tower}, {LENGTH, VOCABULARY}):
        assert not [shape for shape in shapes if forbidden <= set(shape)]

    def collectives(kind: str, scope: str) -> list[str]:
        return [line for line in lines if re.search(rf" {kind}(-start)?\(", line) and scope in line]

    for part in ("jvp(language)", "jvp(vision)"):
        exchanged = collectives("all-to-all", f"/{part}/while/body")
        assert len(exchanged) == 4, exchanged
    gathered = {shape for kind, shape in arrays(collectives("all-gather", "")) if kind == "f32"}
    assert gathered
    assert not [s for s in gathered if {LENGTH, LENGTH // 4, PATCHES, PATCHES // 4} & set(s)]
    every = "(all-to-all|all-gather|all-reduce|reduce-scatter|collective-permute)"
    assert not [line for line in collectives(every, "(vision)") if line.count("while/body") > 1]


def test_memory_falls_with_the_parts_of_a_row() -> None:
    """What one row takes beside the state: a quarter on four devices, and the weights that are gathered."""
    one, four = (
        long_row(MeshConfig(1, 1, 1, context), rows=1).memory_analysis().temp_size_in_bytes for context in (1, 4)
    )
    assert four < 0.35 * one
