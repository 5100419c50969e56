"""Memory in which worker processes hand their batches over, used again and again.

A page of new shared memory costs 3.3 microseconds where it is first written and 1.1 where it is given back, a page that was
written before 0.2 (a busy virtual machine; a row of 65,536 patches has 18,816 pages). grain makes new memory for every
batch. Here a worker process writes into a block of its own that the training process has done with, and makes a new one
where there is none. The training process opens a block once and removes its name, so that nothing is left behind however
processes end.
"""

import math
import os
import secrets
import weakref
from contextlib import suppress
from multiprocessing import util
from multiprocessing.shared_memory import SharedMemory
from typing import Any, NamedTuple

import numpy as np

HEADER = 4096
"""Bytes in front of the array, whose first tells whether the block is in use: a page, so that arrays are aligned to one."""
FREE, TAKEN = 0, 1


class _Block:
    """A block as a process has it mapped. `state` [1] uint8 is FREE or TAKEN."""

    def __init__(self, memory: SharedMemory) -> None:
        self.memory = memory
        self.state: np.ndarray = np.ndarray(1, np.uint8, memory.buf)

    def array(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Does not keep the memory mapped by itself."""
        return np.ndarray(shape, dtype, self.memory.buf, HEADER)


_opened: dict[str, _Block] = {}
"""Of the training process: the blocks of its loaders by their names."""


class Handed(NamedTuple):
    """An array on its way: pickled in a worker process, it is the array itself in the training process."""

    block: str
    shape: tuple[int, ...]
    dtype: str

    def __reduce__(self) -> tuple:
        return open_block, tuple(self)


class _Lender:
    """The base of an array over a block, and of all its views: when the last of them is gone, the block is free."""

    def __init__(self, block: _Block, shape: tuple[int, ...], dtype: str) -> None:
        self.__array_interface__ = block.array(shape, dtype).__array_interface__
        # Keeps the memory mapped too.
        weakref.finalize(self, _give_back, block).atexit = False


def _give_back(block: _Block) -> None:
    block.state[0] = FREE


def open_block(name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray | None:
    """The array in a block; None where its worker has ended, which is so only when nobody waits for the batch."""
    block = _opened.get(name)
    if block is None:
        try:
            block = _opened[name] = _Block(SharedMemory(name))
        except FileNotFoundError:
            return None
        block.memory.unlink()
    return np.asarray(_Lender(block, shape, dtype))


class SharedBlocks:
    """The blocks of a loader. Picklable; every worker process makes its own."""

    def __init__(self) -> None:
        self._name = f"qwenvl-{secrets.token_hex(6)}"
        self._blocks: dict[int, _Block] = {}  # by the address of the array

    def __getstate__(self) -> dict[str, Any]:
        return {"_name": self._name, "_blocks": {}}

    def new(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """As `np.empty`, in a block where it has a size. Blocks are for arrays of their own number of bytes: batches of a
        stage are all alike."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if not size:
            return np.empty(shape, dtype)
        for block in self._blocks.values():
            if block.state[0] == FREE and block.memory.size == HEADER + size:
                array = block.array(shape, dtype)
                break
        else:
            name = f"{self._name}-{os.getpid()}-{len(self._blocks)}"
            block = _Block(SharedMemory(name, create=True, size=HEADER + size))
            util.Finalize(None, _remove_name, (block.memory,), exitpriority=10)
            array = block.array(shape, dtype)
            self._blocks[array.ctypes.data] = block
        block.state[0] = TAKEN
        return array

    def hand_over(self, array: np.ndarray) -> Any:
        """What is pickled instead of an array of `new`; any other array as it is."""
        block = self._blocks.get(array.ctypes.data) if array.size else None
        return array if block is None else Handed(block.memory.name, array.shape, array.dtype.str)

    def close(self) -> None:
        """In the training process: lets go of the blocks; arrays that are still in use keep theirs."""
        for name in [name for name in _opened if name.startswith(self._name)]:
            del _opened[name]


def _remove_name(memory: SharedMemory) -> None:
    with suppress(FileNotFoundError):  # opened, and so removed, by the training process
        memory.unlink()
