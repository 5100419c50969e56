"""Tars of img2dataset: read in place, whatever is damaged costs its own sample and is named."""

import io
import pickle
import tarfile

import pytest
from small_data import make_picture
from small_files import sample_members, write_corpus, write_tar

from data_pipelines.sources import webdataset
from data_pipelines.sources.opening import open_source
from data_pipelines.sources.source import Problem, RecordError
from data_pipelines.sources.webdataset import TarSample, tar_samples

CAPTIONS = ["a red dog", "一只狗坐在桌子旁", "two cats", "a third cat", "the last one"]


@pytest.fixture
def corpus(tmp_path):
    write_corpus(tmp_path / "corpus", [{"caption": caption} for caption in CAPTIONS])
    return tmp_path / "corpus"


def reasons(source) -> list[tuple[int, str]]:
    return [(problem.index, problem.reason) for problem in source.problems]


def test_samples_become_records_in_their_order(corpus):
    """Picture, size, caption and its language are those of the tar; also after pickling, and from one tar alone."""
    source = open_source(corpus.parent, "corpus")
    assert [record.captions[0].answer for record in (source[n] for n in range(5))] == CAPTIONS
    assert [source[n].captions[0].kind for n in range(2)] == ["en", "zh"]
    assert source[3].images == (make_picture(3),)
    assert pickle.loads(pickle.dumps(source))[4] == source[4]
    assert len(open_source(corpus, "00001.tar")) == 1


def test_outlines_need_no_picture(corpus, monkeypatch):
    """Lengths are measured from the index: sizes are there, bytes are not, and nothing of the tar is read."""
    source = open_source(corpus.parent, "corpus")
    monkeypatch.setattr(webdataset, "read_member", None)
    outline = source.outline(1)
    assert (outline.images[0].data, outline.images[0].width, outline.images[0].height) == (b"", 20, 16)
    assert outline.captions[0].answer == CAPTIONS[1]


def test_index_is_made_once(corpus, monkeypatch):
    """Opened again, no tar is scanned; a new tar is the only one that is; copied elsewhere, the source is the same."""
    scanned = []
    scan = webdataset.WebDataset.scan
    monkeypatch.setattr(webdataset.WebDataset, "scan", lambda self, file: scanned.append(file.name) or scan(self, file))
    first = open_source(corpus.parent, "corpus").fingerprint
    assert open_source(corpus.parent, "corpus").fingerprint == first
    assert scanned == ["00000.tar", "00001.tar"]
    write_tar(corpus / "00002.tar", sample_members("x", "a new one", make_picture().data))
    assert len(open_source(corpus.parent, "corpus")) == 6
    assert scanned[2:] == ["00002.tar"]
    (corpus / "00002.tar").unlink()
    corpus.rename(corpus.with_name("moved"))
    assert open_source(corpus.parent, "moved").fingerprint == first


@pytest.mark.parametrize("metadata", [True, False])
def test_without_parquet_sizes_come_from_the_picture(tmp_path, metadata):
    """With and without the Parquet beside the tar, the records are the same."""
    write_corpus(tmp_path / "corpus", [{"caption": "a dog", "width": 30, "height": 40}], metadata=metadata)
    [image] = open_source(tmp_path, "corpus").outline(0).images
    assert (image.width, image.height) == (30, 40)


@pytest.mark.parametrize(
    "members, reason",
    [
        ([("1.txt", b"a dog")], "no picture, only txt"),
        ([("1.jpg", b"x")], "no caption"),
        ([("1.jpg", b"x"), ("1.txt", b"  \n")], "the caption is empty"),
        ([("1.jpg", b"x"), ("1.txt", b"a dog")], "no readable picture"),
        ([("1.jpg", b"x"), ("1.txt", b"\xff\xfe\xff")], "not UTF-8"),
        ([("1.jpg", b"x"), ("1.txt", b"a dog"), ("1.json", b"{")], "JSON is not readable"),
        ([("1.jpg", b"x"), ("1.txt", b"a dog"), ("1.json", b"[1]")], "holds a list"),
        ([("1.jpg", b"x"), ("1.txt", b"a" * (1 << 21))], "2097152 bytes, more than a text"),
        ([("../1.jpg", make_picture().data), ("../1.txt", b"a dog")], "leaves the tar's folder"),
        ([("/etc/1.jpg", make_picture().data)], "leaves the tar's folder"),
    ],
)
def test_damaged_samples_are_named(tmp_path, members, reason):
    """A sample that cannot be used is a problem with tar, number and reason; the one behind it is a record."""
    write_tar(tmp_path / "0.tar", [*members, *sample_members("9", "a cat", make_picture().data)])
    source = open_source(tmp_path, "0.tar")
    assert len(source) == 1
    assert source[0].key == "9"
    assert all(problem.file == str(tmp_path / "0.tar") for problem in source.problems)
    assert reason in source.problems[0].reason


def test_links_are_never_followed(tmp_path):
    """A link in a tar that points at a file outside is reported, and its target's bytes are in no record."""
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        link = tarfile.TarInfo("1.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name, data in sample_members("2", "a cat", make_picture().data):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    source = open_source(tmp_path, "0.tar")
    assert [source[n].captions[0].answer for n in range(len(source))] == ["a cat"]
    assert reasons(source) == [(0, "a member is a link or a device, not a file")]


def test_tar_cut_anywhere_gives_what_stands_before_the_cut(corpus):
    """At every length of the file: no crash, the samples before the cut, and a reason where one is cut."""
    data = (corpus / "00000.tar").read_bytes()
    whole = [sample for sample in tar_samples(corpus / "00000.tar") if isinstance(sample, TarSample)]
    used = max(offset + size for sample in whole for offset, size in sample.members.values())
    cut = corpus / "cut.tar"
    for length in range(0, len(data) - 1024, 97):
        cut.write_bytes(data[:length])
        if length < 512:
            with pytest.raises(ValueError, match="cut off"):
                list(tar_samples(cut))
            continue
        found = list(tar_samples(cut))
        samples = [sample for sample in found if isinstance(sample, TarSample)]
        for sample, expected in zip(samples, whole):
            assert sample.members.items() <= expected.members.items()
            assert all(offset + size <= length for offset, size in sample.members.values())
        assert samples[:-1] == whole[: max(0, len(samples) - 1)]
        if length < used:
            assert any(isinstance(item, Problem) and "cut off" in item.reason for item in found), length


def test_a_tar_that_vanishes_or_shrinks_is_a_record_error(corpus):
    """Reads of other tars go on."""
    source = open_source(corpus.parent, "corpus")
    data = (corpus / "00000.tar").read_bytes()
    (corpus / "00000.tar").write_bytes(data[:600])
    with pytest.raises(RecordError, match="shorter than its index"):
        source[0]
    (corpus / "00000.tar").unlink()
    with pytest.raises(RecordError, match=r"00000.tar: record 2: picture: No such file"):
        source[2]
    assert source[4].captions[0].answer == CAPTIONS[4]


def test_a_picture_that_was_exchanged_is_noticed(tmp_path):
    """Boxes and lengths belong to the picture that was indexed, so another one is refused."""
    write_corpus(tmp_path / "corpus", [{"caption": "a dog"}])
    source = open_source(tmp_path, "corpus")
    data = (tmp_path / "corpus/00000.tar").read_bytes()
    old, new = make_picture(0, 20, 16).data, make_picture(0, 16, 16).data
    (tmp_path / "corpus/00000.tar").write_bytes(data.replace(old, new.ljust(len(old), b"\0")))
    with pytest.raises(RecordError, match="16x16 pixels, its index says 20x16"):
        source[0]


def test_grit_expressions_become_regions_and_a_grounded_caption(tmp_path):
    """Nested phrases go, bad boxes are counted, coordinates are pixels of the stored picture."""
    caption = "a dog with a red ball"
    expressions = [
        [0, 21, 0.0, 0.0, 1.0, 1.0, 0.9],
        [0, 5, 0.1, 0.2, 0.5, 0.6, 0.9],
        [11, 21, 0.5, 0.5, 0.75, 1.0, 0.9],
        [0, 5, 0.5, 0.2, 0.1, 0.6, 0.9],
    ]
    write_corpus(tmp_path / "grit", [{"caption": caption, "width": 40, "height": 20, "ref_exps": expressions}])
    source = open_source(tmp_path, "grit")
    record = source[0]
    assert [(region.phrase, region.boxes) for region in record.regions] == [
        ("a dog", ((4.0, 4.0, 20.0, 12.0),)),
        ("a red ball", ((20.0, 10.0, 30.0, 20.0),)),
    ]
    assert record.grounded_captions[0].answer == (
        "<ref>a dog</ref><box>(100,200),(500,600)</box> with <ref>a red ball</ref><box>(500,500),(750,999)</box>"
    )
    assert reasons(source) == [(0, "a box is reversed or has no area")]


def test_few_files_stay_open(tmp_path):
    """Reading from many tars keeps no descriptor of them, and a bounded number of indexes."""
    import os

    write_corpus(tmp_path / "many", [{"caption": "a dog"}] * 150, per_tar=1, metadata=False)
    source = open_source(tmp_path, "many")
    before = len(os.listdir("/proc/self/fd"))
    for n in range(150):
        source[n]
    assert len(os.listdir("/proc/self/fd")) - before <= 64
