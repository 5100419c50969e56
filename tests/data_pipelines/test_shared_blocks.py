"""Blocks of shared memory: what is written arrives, nothing is overwritten while in use, nothing is left behind."""

import pickle
from pathlib import Path

import jax
import numpy as np

from data_pipelines.shared_blocks import SharedBlocks, _opened


def sent(blocks, array):
    """The array as the training process gets it, in this one."""
    return pickle.loads(pickle.dumps(blocks.hand_over(array)))


def test_a_block_is_used_again_when_its_array_is_gone():
    """An array keeps its values as long as it or a view of it lives; then its block is the next one's."""
    blocks = SharedBlocks()
    first = blocks.new((3, 5), np.uint8)
    first[:] = 7
    place = first.ctypes.data
    got = sent(blocks, first)
    part = got[1:, 2:].reshape(2, 3)
    del got
    second = blocks.new((3, 5), np.uint8)
    second[:] = 9
    assert second.ctypes.data != place
    assert (part == 7).all()
    del part
    third = blocks.new((15,), np.uint8)
    assert third.ctypes.data == place
    assert (sent(blocks, second) == 9).all()
    blocks.close()


def test_what_is_on_a_device_keeps_its_block():
    """JAX may use host memory as it is: as long as its array lives, the block is in use."""
    blocks = SharedBlocks()
    array = blocks.new((64, 64), np.uint8)
    array[:] = 7
    on_device = jax.device_put(sent(blocks, array))
    for _ in range(2):
        blocks.new((64, 64), np.uint8)[:] = 9
    assert (np.asarray(on_device) == 7).all()
    blocks.close()


def test_other_arrays_go_as_they_are():
    """Arrays that are not of the blocks, and such without a size, are pickled by themselves."""
    blocks = SharedBlocks()
    empty = blocks.new((2, 0, 4), np.uint8)
    assert blocks.hand_over(empty) is empty
    plain = np.arange(3)
    assert blocks.hand_over(plain) is plain


def test_nothing_is_left_behind():
    """A block has no name once it is opened, and its memory lives as long as an array over it."""
    blocks = SharedBlocks()
    prefix = blocks._name

    def names():
        return [file.name for file in Path("/dev/shm").glob(f"{prefix}*")]

    array = blocks.new((4,), np.float32)
    array[:] = 3
    assert len(names()) == 1
    got = sent(blocks, array)
    assert not names()
    blocks.close()
    assert not [name for name in _opened if name.startswith(prefix)]
    del blocks, array
    assert (got == 3).all()


def test_a_batch_of_a_worker_that_ended_is_none():
    """Its name is gone: the loader was closed, and nobody waits for the batch."""
    blocks = SharedBlocks()
    handed = pickle.dumps(blocks.hand_over(blocks.new((4,), np.uint8)))
    for block in blocks._blocks.values():
        block.memory.unlink()
    assert pickle.loads(handed) is None
