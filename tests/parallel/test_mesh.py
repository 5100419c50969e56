"""Promises of `qwenvl_jax.parallel.mesh` on eight forced host devices."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
from jax.sharding import PartitionSpec

from configs.qwen2_vl import MODEL_2B, MODEL_7B, MODEL_72B
from configs.qwen_vl import MODEL
from qwenvl_jax.batch import Batch, empty_batch, empty_patch_batch
from qwenvl_jax.config import MeshConfig, PrecisionConfig, Schedule, Stage
from qwenvl_jax.models.parameters import build
from qwenvl_jax.parallel import mesh as mesh_module
from qwenvl_jax.parallel.mesh import (
    AXES,
    POSITIONS,
    batch_sharding,
    batch_shardings,
    check_context,
    check_rows,
    make_mesh,
    own_rows,
    parameter_shardings,
    parameter_spec,
)


@pytest.mark.parametrize(
    "config, sizes",
    [
        (MeshConfig(), (8, 1, 1, 1)),
        (MeshConfig(data=1, fsdp=-1, tensor=2), (1, 4, 1, 2)),
        (MeshConfig(2, 2, 2), (2, 2, 1, 2)),
        (MeshConfig(data=1, fsdp=2, context=-1), (1, 2, 4, 1)),
    ],
)
def test_sizes(config: MeshConfig, sizes: tuple[int, ...]) -> None:
    """-1 takes the devices that remain."""
    mesh = make_mesh(config)
    assert mesh.axis_names == AXES
    assert mesh.devices.shape == sizes


@pytest.mark.parametrize(
    "config",
    [
        MeshConfig(3), MeshConfig(2, 2, 1), MeshConfig(-1, -1), MeshConfig(0), MeshConfig(-2), MeshConfig(16, -1),
        MeshConfig(4, context=4), MeshConfig(context=-1),
    ],
)  # fmt: skip
def test_sizes_that_do_not_cover_the_devices(config: MeshConfig) -> None:
    """One sentence names the mesh, the number of devices and the sizes that work."""
    with pytest.raises(ValueError, match=r"mesh data=.* does not cover 8 devices: take sizes of \[1, 2, 4, 8\]"):
        make_mesh(config)


def test_specs() -> None:
    """Matrices lie over context, fsdp and tensor, vectors everywhere, the axis of layers is never split."""
    mesh = make_mesh(MeshConfig(2, 2, 2))
    kernel = parameter_spec("k", ("layers", "embed", "heads", "head"), (3, 8, 2, 5), mesh)
    assert kernel == PartitionSpec(None, ("context", "fsdp"), "tensor", None)
    rows = parameter_spec("d", ("layers", "mlp_rows", "embed_out"), (3, 16, 6), mesh)
    assert rows == PartitionSpec(None, ("tensor", "context", "fsdp"), None)
    assert parameter_spec("n", ("layers", "embed"), (3, 8), mesh) == PartitionSpec(None, None)
    assert batch_sharding(mesh).spec == PartitionSpec(("data", "fsdp"))


@pytest.mark.parametrize(
    "axes, shape, sentence",
    [
        (("embed", "heads", "head"), (8, 3, 5), r"x/k: heads=3 .* mesh\.tensor=2; sizes that work: \[1, 3\]"),
        (("embed", "mlp"), (6, 8), r"x/k: embed=6 .* mesh\.context x mesh\.fsdp=4; sizes that work: \[1, 2, 3, 6\]"),
        (("embed", "depth"), (8, 8), r"x/k: logical axis 'depth' has no rule"),
        (("mlp", "vocab"), (8, 8), r"x/k: .* two dimensions on one mesh axis"),
    ],
)
def test_parameters_that_do_not_fit(axes: tuple[str, ...], shape: tuple[int, ...], sentence: str) -> None:
    """One sentence names the parameter, what does not fit, and the sizes that work."""
    with pytest.raises(ValueError, match=sentence):
        parameter_spec("x/k", axes, shape, make_mesh(MeshConfig(1, 2, 2, 2)))


def test_a_batch_is_split_over_rows_and_positions() -> None:
    """Tokens and patches of a row over context, whatever stands behind or before them; images whole; what a batch has not
    lies nowhere."""
    mesh = make_mesh(MeshConfig(2, 1, 1, 4))
    placed = batch_shardings(empty_patch_batch(4, 24, 32, 12, 0), mesh)
    assert placed.images is None
    assert placed.tokens.shard_shape((4, 24)) == (2, 6)
    assert placed.positions.shard_shape((4, 3, 24)) == (2, 3, 6)
    assert placed.patches.shard_shape((4, 32, 12)) == (2, 8, 12)
    assert placed.patch_segments.shard_shape((4, 32)) == (2, 8)
    placed = batch_shardings(empty_batch(4, 24, 3, 8, 0), mesh)
    assert placed.positions.shard_shape((4, 24)) == (2, 6)
    assert placed.images.shard_shape((4, 3, 8, 8, 3)) == (2, 3, 8, 8, 3)
    assert {*POSITIONS, "images"} == {*Batch._fields}


@pytest.mark.parametrize(
    "model, context, tensor, length, patches, sentence",
    [
        (MODEL_2B, 4, 1, 1002, 64, r"stage s: sequence_length=1002 .* mesh\.context=4; sizes that work: 1000, 1004$"),
        (MODEL_2B, 4, 1, 1000, 72, r"stage s: patches_per_row=72 .* in groups of 4 over .*; sizes that work: 64, 80$"),
        (
            MODEL_7B,
            8,
            1,
            1000,
            64,
            r"language: heads=28 .* mesh\.context=8 x mesh\.tensor=1; .* \[1, 2, 4, 7, 14, 28\]$",
        ),
        (
            MODEL_2B,
            4,
            2,
            1000,
            64,
            r"language: heads=12 .* mesh\.context=4 x mesh\.tensor=2; .* \[1, 2, 3, 4, 6, 12\]$",
        ),
    ],
)
def test_what_context_does_not_divide(model, context, tensor, length, patches, sentence) -> None:
    """One sentence names the sizes that work. Two heads of keys on four devices are no matter."""
    stage = Stage("s", 1, (), 8, length, Schedule(1, 1, 1), (), patches_per_row=patches)
    mesh = make_mesh(MeshConfig(-1, 1, tensor, context))
    with pytest.raises(ValueError, match=sentence):
        check_context(model, stage, mesh)
    fitting = dataclasses.replace(stage, sequence_length=1000, patches_per_row=64)
    check_context(model, fitting, make_mesh(MeshConfig(-1, context=4)))
    check_context(model, stage, make_mesh(MeshConfig(-1)))


def test_rows_that_do_not_fit() -> None:
    """Rows that the data shards or the accumulation do not divide are refused with the next numbers that work."""
    mesh = make_mesh(MeshConfig(2, 2, 2))
    check_rows(8, 2, mesh)
    with pytest.raises(ValueError, match=r"rows=10 .* 4 data shards .* accumulation=2; rows that work: 8, 16"):
        check_rows(10, 2, mesh)
    with pytest.raises(ValueError, match=r"rows that work: 4$"):
        check_rows(2, 1, mesh)


@pytest.mark.parametrize("model", [MODEL, MODEL_2B, MODEL_7B, MODEL_72B], ids=["qwen-vl", "2B", "7B", "72B"])
def test_full_models_fit_a_mesh(model) -> None:
    """Every parameter has a place on fsdp x tensor and on fsdp x context = 2 x 2; what is not split by four is under 1 %."""
    architecture = build(model, PrecisionConfig())
    for config in (MeshConfig(2, 2, 2), MeshConfig(2, 2, 1, 2)):
        shardings = parameter_shardings(architecture.axes, architecture.shapes, make_mesh(config))
        held = sum(math.prod(shardings[p].shard_shape(s.shape)) for p, s in architecture.shapes.items())
        assert architecture.size / 4 < held < 1.01 * architecture.size / 4


class Device:
    """A device of a process, as far as `own_rows` looks at it."""

    def __init__(self, process_index: int) -> None:
        self.process_index = process_index


@pytest.mark.parametrize(
    "owners, blocks, made, counted",
    [
        ((0, 0, 1, 1), 4, [(0, 1, 2, 3), (4, 5, 6, 7)], [(0, 1, 2, 3), (4, 5, 6, 7)]),
        ((0, 1, 1, 0), 4, [(0, 1, 6, 7), (2, 3, 4, 5)], [(0, 1, 6, 7), (2, 3, 4, 5)]),
        ((0, 1, 2, 3), 2, [(0, 1, 2, 3)] * 2 + [(4, 5, 6, 7)] * 2, [(0, 1, 2, 3), (), (4, 5, 6, 7), ()]),
    ],
)
def test_every_row_is_made_where_it_lies_and_counted_once(monkeypatch, owners, blocks, made, counted) -> None:
    """Whatever the order of the devices in the mesh, and where several processes hold one row."""
    size, copies = 8 // blocks, len(owners) // blocks
    indices = {Device(owner): (slice(d // copies * size, d // copies * size + size),) for d, owner in enumerate(owners)}
    monkeypatch.setattr(
        mesh_module, "batch_sharding", lambda mesh: SimpleNamespace(devices_indices_map=lambda _: indices)
    )
    for process in range(len(made)):
        monkeypatch.setattr(mesh_module.jax, "process_index", lambda process=process: process)
        assert own_rows(8, None) == (made[process], counted[process])


def test_one_process_makes_all_rows() -> None:
    """On any mesh."""
    assert own_rows(8, make_mesh(MeshConfig(2, 2, 2))) == (tuple(range(8)),) * 2
