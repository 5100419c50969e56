"""Promises of `qwenvl_jax.conversion.safetensors`: what the library writes is read, what we write the library reads."""

import json
import struct

import numpy as np
import pytest
import safetensors.torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from small_folder import TYPES, Tensors

from qwenvl_jax.conversion.safetensors import SafetensorsWriter, read_header


def test_reads_what_the_library_writes(tmp_path, tensors: Tensors) -> None:
    """Names, types, shapes and all bytes; also rows by themselves."""
    save_file(tensors, tmp_path / "a.safetensors")
    found = read_header(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in found.items():
        assert (tensor.dtype, tensor.shape) == (tensors[name].dtype, tensors[name].shape)
        assert tensor.read().tobytes() == tensors[name].tobytes()
        assert tensor.read(1, 5).tobytes() == tensors[name][1:5].tobytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_library_reads_what_is_written(tmp_path, dtype: str) -> None:
    """Rows in any order, odd sizes and large ones; the metadata that transformers asks for."""
    rng = np.random.default_rng(0)
    shapes = {"odd": (3, 5), "large": (64, 8192), "late": (700, 1000), "vector": (7,)}
    wanted = {name: rng.normal(size=shape).astype(TYPES[dtype]) for name, shape in shapes.items()}
    with SafetensorsWriter(
        tmp_path / "b.safetensors", [(name, TYPES[dtype], shape) for name, shape in shapes.items()]
    ) as writer:
        for name, array in reversed(wanted.items()):
            half = len(array) // 2
            writer.write(name, half, array[half:])
            writer.write(name, 0, array[:half])
    found = load_file(tmp_path / "b.safetensors")
    assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)
    assert safetensors.torch.load_file(tmp_path / "b.safetensors")["odd"].shape == (3, 5)
    with safe_open(tmp_path / "b.safetensors", "np") as opened:
        assert opened.metadata() == {"format": "pt"}


def file_of(tmp_path, header: object, data: bytes = b"") -> object:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = tmp_path / "bad.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return file


@pytest.mark.parametrize(
    "header, data, sentence",
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234", "truncated or damaged"),
        ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, b"12345678", "shape and position of a"),
        ({"a": {"dtype": "F8", "shape": [8], "data_offsets": [0, 8]}}, b"12345678", "type 'F8' of a"),
        ({"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}, b"12345678", "shape and position"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"12345678", "leave a gap"),
        (
            {n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"},
            b"12345678",
            "overlap others",
        ),
        (b'{"a": 1, "a": 2}', b"", "a name stands twice"),
        (b"[1]", b"", "damaged"),
        (b"{", b"", "damaged"),
    ],
)
def test_bad_headers_are_refused(tmp_path, header, data, sentence) -> None:
    """Every number of the header is compared with the file before anything is allocated."""
    with pytest.raises(ValueError, match=sentence):
        read_header(file_of(tmp_path, header, data))


def test_truncated_and_foreign_files(tmp_path, tensors: Tensors) -> None:
    """A file that ends early, anywhere, is refused with its name."""
    save_file(tensors, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.safetensors").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.safetensors"):
            read_header(tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ValueError, match="no safetensors file"):
        read_header(tmp_path / "cut.safetensors")
