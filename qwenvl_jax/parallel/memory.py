"""Memory of devices and of their hosts: how much there is, and what lies in which."""

import math
import os
from typing import Any

import jax
from jax.sharding import NamedSharding

HOST = "pinned_host"
"""JAX's name of the memory beside a device that it reads and writes by itself."""


def memory_limit(device: jax.Device) -> float:
    """Bytes that a program may use on a device of this machine: of a CPU, its share of the machine's memory; infinite where
    the device does not tell."""
    if device.platform == "cpu":
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / jax.local_device_count()
    return float((device.memory_stats() or {}).get("bytes_limit", 0)) or math.inf


def on_host(sharding: NamedSharding) -> NamedSharding:
    """The same parts, each in the memory of its device's host."""
    return sharding.with_memory_kind(HOST)


def device_bytes(tree: Any) -> int:
    """Bytes that arrays, or shapes with shardings, take in the memory of one device, without the padding of tiles."""
    return sum(_shard_bytes(leaf) for leaf in jax.tree.leaves(tree) if leaf.sharding.memory_kind != HOST)


def host_bytes(tree: Any) -> int:
    """Bytes that they take in the host's memory, for one device."""
    return sum(_shard_bytes(leaf) for leaf in jax.tree.leaves(tree) if leaf.sharding.memory_kind == HOST)


def _shard_bytes(leaf: Any) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * int(leaf.dtype.itemsize)
