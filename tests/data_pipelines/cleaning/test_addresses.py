"""Parquet of addresses: rules before anything is fetched, on the columns that corpora are published with."""

import pyarrow
import pyarrow.parquet as parquet
import pytest

from data_pipelines.cleaning.addresses import clean_addresses, holds_addresses
from data_pipelines.cleaning.engines import processes
from data_pipelines.cleaning.funnel import DAMAGED, SHORTER
from data_pipelines.cleaning.thresholds import CLIP, LETTERS, SMALL, TAGS

LAION = [
    {"URL": f"http://x/{n}", "TEXT": text, "WIDTH": width, "HEIGHT": 300, "similarity": score, "NSFW": "UNLIKELY"}
    for n, (text, width, score) in enumerate(
        [
            ("a dog on &amp; off grass", 400, 0.35), ("a small dog", 100, 0.4), ("собака", 400, 0.4), (None, 400, 0.4),
            ("a cat far off", 400, 0.1), ("a cat too far off", 400, 0.05), ("a second cat", 400, 0.2),
        ]
    )
]  # fmt: skip


def write(folder, rows, name="a.parquet"):
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / name)
    return folder


def test_kept_rows_keep_their_columns(tmp_path):
    """14 % of 7 is one row: the best score that passes the rest, its text cleaned, all other columns as they were."""
    source = write(tmp_path / "laion", LAION)
    assert holds_addresses(source)
    funnel = clean_addresses(source, tmp_path / "kept", "laion_en")
    assert (funnel.kept, funnel.clip_cut) == (1, 0.35)
    assert funnel.rejected == {DAMAGED: 1, SMALL: 1, CLIP: 3, LETTERS: 1}
    [row] = parquet.read_table(tmp_path / "kept" / "a.parquet").to_pylist()
    assert row == {**LAION[0], "TEXT": "a dog on & off grass"}


def test_engines_agree(tmp_path):
    """Files of the same names and bytes from one process and from two."""
    source = write(tmp_path / "laion", LAION[:4])
    write(source / "more", LAION[4:], "b.parquet")
    clean_addresses(source, tmp_path / "one", "coyo")
    clean_addresses(source, tmp_path / "two", "coyo", processes(2))
    for name in ("a.parquet", "more/b.parquet", "funnel.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_rules_that_need_what_is_not_there_are_left_out(tmp_path):
    """Without sizes and scores the rules on texts remain; academic captions keep the longest text of an address."""
    rows = [{"url": "x", "caption": "a dog"}, {"url": "x", "caption": "a big dog"}, {"url": "y", "caption": "<PERSON>"}]
    funnel = clean_addresses(write(tmp_path / "cc12m", rows), tmp_path / "kept", "cc12m")
    assert funnel.rejected == {TAGS: 1, SHORTER: 1}
    assert parquet.read_table(tmp_path / "kept" / "a.parquet")["caption"].to_pylist() == ["a big dog"]


def test_other_files_are_no_addresses(tmp_path):
    """Pictures in Parquet are a source; a file without address among others is a sentence."""
    assert not holds_addresses(write(tmp_path / "pictures", [{"image": b"x", "caption": "a dog"}]))
    source = write(tmp_path / "laion", LAION)
    write(source, [{"a": 1}], "z.parquet")
    with pytest.raises(ValueError, match=r"z.parquet has no column url, or none of text"):
        clean_addresses(source, tmp_path / "kept", "laion_en")
