"""Small files as others write them, for the tests of sources and of cleaning."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet as parquet
from small_data import make_picture


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    """A tar of plain files in the given order."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def sample_members(key: str, caption: str, picture: bytes, known: dict | None = None) -> list[tuple[str, bytes]]:
    """The members of a sample in the order of img2dataset."""
    described = {"caption": caption, "key": key, "status": "success", **(known or {})}
    return [
        (f"{key}.jpg", picture),
        (f"{key}.json", json.dumps(described).encode()),
        (f"{key}.txt", caption.encode()),
    ]


def write_corpus(folder: Path, samples: list[dict], per_tar: int = 4, metadata: bool = True) -> None:
    """Tars as img2dataset writes them, with Parquet beside them.

    A sample has `caption` and may have `seed`, `width`, `height`, `picture` (its bytes), `status`, and whatever else
    the Parquet's columns shall hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(0, len(samples), per_tar):
        members, rows = [], []
        for place, sample in enumerate(samples[number : number + per_tar]):
            key = f"{number // per_tar:05d}{place:04d}"
            width, height = sample.get("width", 20), sample.get("height", 16)
            picture = sample.get("picture") or make_picture(number + place, width, height).data
            extra = {k: v for k, v in sample.items() if k not in ("caption", "picture", "seed")}
            known = {"width": width, "height": height, "original_width": width, "original_height": height, **extra}
            rows.append({"key": key, "caption": sample["caption"], "status": "success", **known})
            if sample.get("status", "success") == "success":
                members += sample_members(key, sample["caption"], picture, known)
        name = f"{number // per_tar:05d}"
        write_tar(folder / f"{name}.tar", members)
        if metadata:
            parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{name}.parquet")
