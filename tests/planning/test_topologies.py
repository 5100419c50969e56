"""Promises of plans for devices that are not there: names of topologies, and a program that libtpu compiles for one."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from launch.plan import without_a_tpu
from qwenvl_jax.config import MeshConfig
from qwenvl_jax.models.segment_attention import KERNEL_BLOCK, plan_attention, segment_attention
from qwenvl_jax.models.splash import LANES
from qwenvl_jax.parallel.mesh import make_mesh
from qwenvl_jax.planning import hlo, memory
from qwenvl_jax.planning.devices import describe
from qwenvl_jax.planning.flops import traced_flops
from qwenvl_jax.planning.plan import Memory, Plan, needed, slices_that_fit, what_would_fit
from qwenvl_jax.planning.report import to_json, to_text
from qwenvl_jax.planning.schedule import Walk

LAYERS, WIDTH, ROWS = 24, 1024, 512
LENGTH, HEADS, SIZE = 1024, 4, 80


@pytest.fixture(scope="module", autouse=True)
def _no_tpu():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("JAX_PLATFORMS", "TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD", "TPU_LIBRARY_PATH"):
            patch.setenv(name, "")  # so that they are what they were when the tests of this file end
            patch.delenv(name)
        without_a_tpu()
        yield


@pytest.mark.parametrize("name", ["v5p", "v7:4x4", "4x4", "v5p:4x4"])
def test_names_that_are_none(name: str) -> None:
    """One sentence with what to write."""
    with pytest.raises(ValueError, match=f"--topology .*{name}"):
        describe(name)


def test_a_scanned_program_on_four_chips() -> None:
    """Layers of a scan are counted one by one; the peak that the walk finds is XLA's within 5 %; fsdp gathers every layer
    in the forward pass and again in the backward pass."""
    topology = describe("v5p:2x2x1")
    mesh = make_mesh(MeshConfig(1, 4, 1), list(topology.devices))

    def shape(size, *axes):
        return jax.ShapeDtypeStruct(size, jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec(*axes)))

    def loss(kernels, x):
        body = jax.checkpoint(lambda x, kernel: (jnp.tanh(x @ kernel), None), prevent_cse=False)
        return jnp.square(jax.lax.scan(body, x, kernels)[0].astype(jnp.float32)).sum()

    step = jax.jit(jax.grad(loss), out_shardings=NamedSharding(mesh, PartitionSpec(None, "fsdp")))
    kernels, x = shape((LAYERS, WIDTH, WIDTH), None, "fsdp"), shape((ROWS, WIDTH), "fsdp")
    compiled = step.lower(kernels, x).compile()
    text = compiled.as_text()
    module = hlo.parse(text)
    walked = memory.peak(module, memory.donations(text)).bytes
    assert walked == pytest.approx(compiled.memory_analysis().peak_memory_in_bytes, rel=0.05)
    totals = Walk(module, topology.chip, 4, lambda group: topology.bandwidth(mesh, group)).run()
    layer = WIDTH * WIDTH * 2
    assert totals.moved["all-gather"] == pytest.approx(2 * LAYERS * layer, rel=0.1)
    ideal = 4 * 2 * LAYERS * ROWS * WIDTH * WIDTH / 4 / topology.chip.flops  # forward, forward again, two products back
    assert totals.seconds > ideal


@pytest.mark.parametrize("name", ["v5p:2x2x1", "v5e:2x2", "v6e:2x2"])
def test_kernels_inside_segments_compile(name: str) -> None:
    """A TPU's compiler takes them forward and backward in bfloat16, heads of 80, with a list whose length is data; what the
    program runs is counted by the pairs that are said."""
    topology = describe(name)
    mesh = make_mesh(MeshConfig(1, 2, 2), list(topology.devices))

    def shape(dtype, *size):
        return jax.ShapeDtypeStruct(size, dtype, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))

    def loss(q, k, v, segments):
        mixed = segment_attention(q, k, v, plan_attention(segments, "splash"))
        return jnp.square(mixed.astype(jnp.float32)).sum()

    x = shape(jnp.bfloat16, 2, LENGTH, HEADS, SIZE)
    with jax.set_mesh(mesh):
        traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(x, x, x, shape(jnp.int32, 2, LENGTH))
    compiled = traced.lower().compile()
    assert "segment_attention_keys" in compiled.as_text()
    once, twice = (sum(traced_flops(traced.jaxpr.jaxpr, pairs).values()) for pairs in (1, 2))
    pair = 2 * KERNEL_BLOCK**2 * LANES * HEADS * 2  # a product, of both rows
    assert twice - once == (2 + 3 + 4) * pair


def plan(peak: float) -> Plan:
    """A plan of 16 rows on 4 devices that holds 10 GB of parameters and moments."""
    found = Memory(parameters=4e9, optimizer=6e9, batch=0, peak=peak, walked=peak, limit=16e9)
    return Plan(
        recipe="r", stage="sft", topology="v5e:2x2", devices=4,
        mesh={"data": 1, "fsdp": 4, "context": 1, "tensor": 1}, rows=16, sequence_length=128,
        images_per_row=0, resolution=0, patches_per_row=0, patches_per_slice=0, accumulation=1, remat="nothing",
        vision_remat="nothing", attention="xla", steps=1, memory=found, flops={}, executed={},
    )  # fmt: skip


def test_what_would_fit() -> None:
    """20 GB beside parameters and moments where 6 are left: four slices. Where 50 GB lie there no slicing of four rows
    helps, but a slice for each row, on four devices, does; where 500 do, nothing."""
    assert slices_that_fit(plan(30e9)) == 4
    advice = what_would_fit(plan(30e9))
    assert advice[0].startswith("--sft.accumulation 4")
    assert advice[1].startswith("--sft.rows 4")
    assert "--precision.offload-moments: 6.00 GB" in advice[-2]
    assert "8 devices instead of 4" in advice[-1]
    assert slices_that_fit(plan(60e9)) is None
    assert what_would_fit(plan(60e9))[0].startswith("--mesh.context 4 --sft.accumulation 16: ")
    assert [line for line in what_would_fit(plan(510e9)) if "context" in line] == []
    assert "DOES NOT FIT: 14.00 GB too much on each device" in to_text(plan(30e9))


def test_what_the_vision_tower_keeps_is_said() -> None:
    """Where its layers keep more than the others, the report says so, and that they could keep nothing."""
    kept = dataclasses.replace(plan(30e9), vision_remat="attention")
    assert "remat nothing (attention in the vision tower), attention xla" in to_text(kept)
    assert any(line.startswith("--precision.vision-remat nothing") for line in what_would_fit(kept))
    assert not any("vision-remat" in line for line in what_would_fit(plan(30e9)))
    assert to_json(kept)["vision_remat"] == "attention"
    assert to_json(plan(30e9))["vision_remat"] == "nothing"


def test_refusals_of_the_compiler() -> None:
    """Both sentences of XLA name what was needed; another error is none of them."""
    first = "Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G."
    second = "the total memory required for HLO temporaries (298.00G) exceeds available HBM (95.74G)."
    assert needed(first) == 20.5 * 2**30
    assert needed(second) == 298 * 2**30
    assert needed("INTERNAL: a bug") is None
