"""Devices that a plan can be made for: what they can do, and the meshes that libtpu describes without one of them."""

import math
import re
import time
from dataclasses import dataclass
from itertools import combinations

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from qwenvl_jax.parallel.memory import memory_limit
from qwenvl_jax.training.flops import PEAK_FLOPS, peak_flops

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One device, from its maker's data sheet.

    Attributes:
      kind: jax's `device_kind`.
      flops: dense bf16 FLOP/s.
      clock: Hz, of the cycles that XLA estimates; 0 where it estimates none.
      memory: bytes that a program may use.
      bandwidth: bytes per second of the main memory.
      link: bytes per second of one link to a neighbour, one way.
      torus: dimensions of the network.
    """

    kind: str
    flops: float
    clock: float
    memory: float
    bandwidth: float
    link: float
    torus: int


def _tpu(kind: str, clock: float, memory: float, bandwidth: float, link: float, torus: int) -> Chip:
    return Chip(kind, PEAK_FLOPS[kind], clock, memory, bandwidth, link, torus)


CHIPS: dict[str, Chip] = {
    # Name in a topology -> chip. Memory is what libtpu refuses programs by, below the data sheet's 32, 16, 95 and 32 GiB.
    "v4": _tpu("TPU v4", 1.05e9, 30.75 * GIB, 1.2e12, 4.5e10, 3),
    "v5e": _tpu("TPU v5 lite", 1.5e9, 15.75 * GIB, 8.1e11, 4.5e10, 2),
    "v5p": _tpu("TPU v5", 1.75e9, 95.74 * GIB, 2.765e12, 9e10, 3),
    "v6e": _tpu("TPU v6 lite", 1.75e9, 31.25 * GIB, 1.64e12, 9e10, 2),
}

BETWEEN_SLICES = 6.25e9
"""Bytes per second of one chip over the network between slices: 200 Gbit/s of a host, shared by four chips."""
LARGEST_UNWRAPPED = 3
"""A side of 4 chips or more can close to a ring: through the optical switches of a cube, or round the whole of a v5e pod."""


@dataclass(frozen=True)
class Topology:
    """Chips that one program runs on.

    Attributes:
      name: as the user wrote it.
      sides: chips along each dimension; () for the devices of this machine.
      slices: how often that stands beside each other on the slower network.
      wraps: dimensions whose links close to a ring.
    """

    name: str
    chip: Chip
    sides: tuple[int, ...]
    slices: int
    wraps: tuple[bool, ...]
    devices: tuple[jax.Device, ...]

    def bandwidth(self, mesh: Mesh, group: int) -> float:
        """Bytes per second that leave a device for a collective in groups of that many devices.

        Both directions of every dimension of the network that the group spans are used. A group is taken to span as few of
        the mesh axes as have its size together, the innermost first.
        """
        if not self.sides:
            return self.chip.link
        if self.slices > 1 and group == self.slices:
            return BETWEEN_SLICES
        axes = [axis for axis in reversed(mesh.axis_names) if mesh.shape[axis] > 1]
        sets = (chosen for count in range(len(axes) + 1) for chosen in combinations(axes, count))
        chosen = next((s for s in sets if math.prod(mesh.shape[axis] for axis in s) == group), axes)
        spanned = {dimension for axis in chosen for dimension in self._spanned(mesh, axis)}
        return 2 * self.chip.link * max(1, len(spanned))

    def _spanned(self, mesh: Mesh, axis: str) -> set[int]:
        """Dimensions of the network along which a mesh axis moves."""
        place = mesh.axis_names.index(axis)
        line = np.moveaxis(mesh.devices, place, 0).reshape(mesh.shape[axis], -1)[:, 0]
        places = np.array([device.coords for device in line])
        return {int(d) for d in range(places.shape[1]) if len(set(places[:, d])) > 1}


def describe(name: str) -> Topology:
    """The topology of a name: `v5p:4x4x4`, `2*v5e:16x16` for two slices, or `local` for the devices of this machine.

    Raises:
      ValueError: the name is none, libtpu knows no such shape, or libtpu is not installed.
    """
    if name == "local":
        return _this_machine()
    match = re.fullmatch(r"(?:(\d+)\*)?(\w+):(\d+(?:x\d+)+)", name)
    if match is None or match.group(2) not in CHIPS:
        known = ", ".join(CHIPS)
        raise ValueError(
            f"--topology {name!r} is none: write CHIP:XxYxZ (v4, v5p) or CHIP:XxY (v5e, v6e), 2*v5p:4x4x4 for two "
            f"slices, or local for this machine; chips: {known}"
        )
    slices, kind = int(match.group(1) or 1), match.group(2)
    sides = tuple(int(side) for side in match.group(3).split("x"))
    chip = CHIPS[kind]
    if len(sides) != chip.torus:
        raise ValueError(f"--topology {name}: the network of a {kind} has {chip.torus} dimensions, not {len(sides)}")
    wraps = tuple(side > LARGEST_UNWRAPPED and (chip.torus == 3 or side == 16) for side in sides)
    return Topology(name, chip, sides, slices, wraps, _tpu_devices(name, kind, match.group(3), slices, wraps))


def _tpu_devices(name: str, kind: str, shape: str, slices: int, wraps: tuple[bool, ...]) -> tuple[jax.Device, ...]:
    options: dict = {"wrap": (*wraps, *(False,) * (3 - len(wraps)))}
    if slices > 1:
        options["num_slices"] = slices
    if kind == "v4":  # two cores a chip, one device, as JAX presents them on the machine
        options |= {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1)}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=f"{kind}:{shape}", **options)
    except Exception as error:  # libtpu raises several types; each says in its first line what it misses
        reason = str(error).splitlines()[0]
        if "not installed" in reason:
            reason = "libtpu is not installed: pip install --target .venv/plan -r launch/plan-requirements.txt"
        raise ValueError(f"--topology {name}: {reason}") from error
    return tuple(found.devices)


GPUS: dict[str, tuple[float, float]] = {
    # device_kind -> bytes per second of its memory, and of its links to the others of a machine, one way
    "NVIDIA A100-SXM4-80GB": (2.04e12, 3e11),
    "NVIDIA H100 80GB HBM3": (3.35e12, 4.5e11),
    "NVIDIA H200": (4.8e12, 4.5e11),
}


def _this_machine() -> Topology:
    """The devices of this process, with the local compiler. A CPU's speeds are measured."""
    devices = jax.devices()
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        bandwidth = _copying_speed()
        chip = Chip(kind, peak_flops() / len(devices), 0.0, memory_limit(devices[0]), bandwidth, bandwidth, 1)
    elif kind in GPUS:
        chip = Chip(kind, PEAK_FLOPS[kind], 0.0, memory_limit(devices[0]), *GPUS[kind], 1)
    else:
        raise ValueError(f"--topology local: nothing is known of {kind!r}; add it to qwenvl_jax.planning.devices")
    return Topology("local", chip, (), 1, (), tuple(devices))


def _copying_speed() -> float:
    """Bytes per second that this CPU reads and writes when it copies."""
    source = np.ones(2**24, np.float32)
    target, best = np.empty_like(source), float("inf")
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    return 2 * source.nbytes / best
