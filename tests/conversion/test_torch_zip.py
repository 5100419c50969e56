"""Promises of `qwenvl_jax.conversion.torch_zip`: what torch.save wrote is read without torch, and nothing of it is run."""

import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from small_folder import TYPES, as_torch

from qwenvl_jax.conversion.torch_zip import read_state_dict

RNG = np.random.default_rng(0)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def test_types_views_and_parameters(tmp_path) -> None:
    """Every type, transposed and sliced views, tensors that share a storage, parameters, an OrderedDict with metadata."""
    base = torch.from_numpy(RNG.normal(size=(6, 8)).astype(np.float32))
    saved = OrderedDict(
        whole=base,
        transposed=base.T,
        columns=base[:, 2:5],
        rows=base[2:4],
        parameter=torch.nn.Parameter(base * 2),
        half=base.half(),
        bfloat=as_torch(RNG.normal(size=(4, 2048)).astype(TYPES["bfloat16"])),
        long=torch.arange(5),
        truth=torch.tensor([True, False]),
        scalar=torch.tensor(3.5),
        empty=torch.empty(0, 4),
    )
    saved._metadata = OrderedDict(version=1)  # type: ignore[attr-defined] # as Module.state_dict() has
    torch.save(saved, tmp_path / "a.bin")
    found = read_state_dict(tmp_path / "a.bin")
    assert list(found) == list(saved)
    for name, tensor in saved.items():
        assert found[name].shape == tuple(tensor.shape)
        assert found[name].read().tobytes() == bits(tensor.detach()), name
        if tensor.ndim > 1:
            assert found[name].read(1, 3).tobytes() == bits(tensor.detach()[1:3]), name


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle(tmp_path, protocol: int) -> None:
    """torch.save takes any."""
    tensors = {f"layer.{i}": torch.full((3,), float(i)) for i in range(300)}
    torch.save(tensors, tmp_path / "a.bin", pickle_protocol=protocol)
    found = read_state_dict(tmp_path / "a.bin")
    assert [found[name].read()[0] for name in tensors] == list(range(300))


class Runs:
    """A pickle that would create a file."""

    def __init__(self, file: str):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def test_nothing_is_run(tmp_path) -> None:
    """A pickle that calls a function is refused, the function is named, and it has not been called."""
    mark = tmp_path / "ran"
    torch.save({"a": torch.zeros(2), "b": Runs(str(mark))}, tmp_path / "bad.bin")
    with pytest.raises(ValueError, match=r"bad\.bin is refused: it would run posix\.system"):
        read_state_dict(tmp_path / "bad.bin")
    assert not mark.exists()


def rewritten(tmp_path, program: bytes | None = None, keep=lambda name: True, compression=zipfile.ZIP_STORED):
    """A file of one tensor with another pickle, or without some entries, or compressed."""
    torch.save({"a": torch.zeros(64)}, tmp_path / "good.bin")
    with zipfile.ZipFile(tmp_path / "good.bin") as good, zipfile.ZipFile(tmp_path / "bad.bin", "w", compression) as bad:
        for info in good.infolist():
            if keep(info.filename):
                data = good.read(info)
                bad.writestr(info.filename, program if program and info.filename.endswith("data.pkl") else data)
    return tmp_path / "bad.bin"


@pytest.mark.parametrize(
    "program, sentence",
    [
        (b"cbuiltins\neval\n(U\x041+1 tR.", r"builtins\.eval"),
        (pickle.dumps(np.zeros(3)), "numpy"),
        (b"\x80\x02(i__main__\nA\n.", "uses INST"),
        (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", "damaged"),
        (b"\x80\x02]q\x00.", "no dictionary"),
        (b"\x80\x02}X\x01\x00\x00\x00aK\x05s.", "'a' is no tensor"),
        (b"\x80\x02}", "exhausted"),
        (b"\x80\x02R.", "damaged"),
        (b"\x80\x02u.", "damaged"),
        (b"garbage", "refused"),
    ],
)
def test_other_pickles_are_refused(tmp_path, program: bytes, sentence: str) -> None:
    """Calls, unknown instructions and damaged programs end in one sentence with the file's name."""
    file = rewritten(tmp_path, program)
    with pytest.raises(ValueError, match=sentence) as error:
        read_state_dict(file)
    assert "bad.bin" in str(error.value)


def test_sizes_are_checked_before_memory_is_taken(tmp_path) -> None:
    """A shape that its storage cannot hold, a storage that is missing, short or compressed."""
    torch.save({"a": torch.zeros(64)}, tmp_path / "good.bin")
    with zipfile.ZipFile(tmp_path / "good.bin") as archive:
        program = archive.read("good/data.pkl")
    assert program.count(b"K@") == 2  # the storage's elements, and the shape
    first = program.index(b"K@")
    huge = program[: program.rindex(b"K@")] + b"J\xff\xff\xff\x7f" + program[program.rindex(b"K@") + 2 :]
    with pytest.raises(ValueError, match="a reaches beyond its storage"):
        read_state_dict(rewritten(tmp_path, huge))
    with pytest.raises(ValueError, match="sizes of a contradict"):
        read_state_dict(rewritten(tmp_path, program[:first] + b"K?" + program[first + 2 :]))
    with pytest.raises(ValueError, match="bytes of a are missing"):
        read_state_dict(rewritten(tmp_path, keep=lambda name: "/data/" not in name))
    with pytest.raises(ValueError, match="compressed"):
        read_state_dict(rewritten(tmp_path, compression=zipfile.ZIP_DEFLATED))
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, tmp_path / "wide.bin")
    with pytest.raises(ValueError, match="repeats its elements"):
        read_state_dict(tmp_path / "wide.bin")


def test_old_truncated_and_nested_files(tmp_path) -> None:
    """torch's format before 1.6, a file cut anywhere, and a training checkpoint instead of a state dict."""
    torch.save({"a": torch.zeros(3)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"old\.bin is not in PyTorch's zip format"):
        read_state_dict(tmp_path / "old.bin")
    torch.save({"state_dict": {"a": torch.zeros(3)}, "epoch": 3}, tmp_path / "nested.bin")
    with pytest.raises(ValueError, match="'state_dict' is no tensor; save the bare state_dict"):
        read_state_dict(tmp_path / "nested.bin")
    torch.save({"a": torch.zeros(3000)}, tmp_path / "whole.bin")
    whole = (tmp_path / "whole.bin").read_bytes()
    for size in (0, 30, len(whole) // 2, len(whole) - 10):
        (tmp_path / "cut.bin").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.bin"):
            read_state_dict(tmp_path / "cut.bin")


def test_torch_is_not_imported() -> None:
    """Conversion runs where there is no PyTorch."""
    program = "import sys, launch.convert; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
