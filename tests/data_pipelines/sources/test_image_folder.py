"""Folders of pictures with text files; and paths, which never leave their folder."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import make_picture

from data_pipelines.sources.opening import open_source
from data_pipelines.sources.paths import file_below
from data_pipelines.sources.source import RecordError


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    (root / "sub").mkdir(parents=True)
    for number, name in enumerate(["a.png", "b.JPG", "sub/c.webp"]):
        (root / name).write_bytes(make_picture(number).data)
        (root / name).with_suffix(".txt").write_text(f"picture {name}")
    return root


def test_pictures_with_texts_become_records(folder):
    """In the order of their names, from folders below too, whatever the extension says of the format."""
    source = open_source(folder.parent, "pictures")
    assert [source[n].key for n in range(len(source))] == ["a.png", "b.JPG", "sub/c.webp"]
    assert source[2].images == (make_picture(2),)
    assert source[1].captions[0].answer == "picture b.JPG"


def test_what_is_missing_or_damaged_is_named(folder):
    """A picture without text, an empty text, no picture, no UTF-8: each with its reason."""
    (folder / "d.png").write_bytes(make_picture().data)
    for name, picture, text in (
        ("e", make_picture().data, b" "), ("f", b"no picture", b"a dog"), ("g", make_picture().data, b"\xff"),
    ):  # fmt: skip
        (folder / f"{name}.png").write_bytes(picture)
        (folder / f"{name}.txt").write_bytes(text)
    source = open_source(folder.parent, "pictures")
    assert len(source) == 3
    found = {os.path.basename(problem.file): problem.reason for problem in source.problems}
    assert list(found) == ["d.png", "e.png", "f.png", "g.png"]
    assert "has no d.txt" in found["d.png"]
    assert "empty" in found["e.png"]
    assert "no readable picture" in found["f.png"]
    assert "UTF-8" in found["g.png"]


def test_new_pictures_are_found(folder):
    """The index follows the folder; a picture that vanishes behind its back is a record error."""
    source = open_source(folder.parent, "pictures")
    (folder / "a.png").unlink()
    with pytest.raises(RecordError, match=r"a\.png does not exist"):
        source[0]
    (folder / "z.png").write_bytes(make_picture(9).data)
    (folder / "z.txt").write_text("the last")
    again = open_source(folder.parent, "pictures")
    assert [again[n].key for n in range(len(again))] == ["b.JPG", "z.png", "sub/c.webp"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["..", ".", "sub", "a.png", "", "~", "\0"]), max_size=6).map("/".join))
def test_paths_stay_below_their_folder(tmp_path_factory, path):
    """Whatever a path is made of: it names an existing file below the folder, or is refused with a sentence."""
    root = tmp_path_factory.getbasetemp() / "guarded"
    (root / "in" / "sub").mkdir(parents=True, exist_ok=True)
    for place in (root, root / "in", root / "in" / "sub"):
        (place / "a.png").touch()
    try:
        found = file_below(root / "in", path)
    except ValueError:
        return
    assert str(found.resolve()).startswith(str((root / "in").resolve()) + os.sep)


def test_a_link_in_the_folder_is_followed(folder, tmp_path):
    """A user's own link to a disk with the pictures works; a name longer than a file system allows is a sentence."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "x.png").write_bytes(make_picture().data)
    (folder / "link").symlink_to(tmp_path / "disk")
    assert file_below(folder, "link/x.png").read_bytes() == make_picture().data
    with pytest.raises(ValueError, match="does not exist"):
        file_below(folder, "x" * 5000)
