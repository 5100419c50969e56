"""Promises of `qwenvl_jax.processing.markup`."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenvl_jax.processing import markup as m

coordinates = st.integers(0, 999)
points = st.tuples(coordinates, coordinates)
# NFC may compose a combining mark with the tag's last character; the original's markup breaks there too.
words = st.text(st.characters(exclude_categories=["Cs", "M"], exclude_characters="<>"), min_size=1, max_size=12)
texts = words.map(lambda text: unicodedata.normalize("NFC", text))
elements = st.one_of(
    texts.map(m.PlainText),
    texts.map(m.ImageSpan),
    texts.map(m.Reference),
    st.tuples(points, points).map(
        lambda p: m.Box((*map(min, *p), *map(max, *p)))  # type: ignore[arg-type]
    ),
    st.tuples(points, points, points, points).map(m.Quad),
)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_coordinates_are_always_in_range(x: float, size: float) -> None:
    """Law: whatever the position, a coordinate is an integer in [0, 1000)."""
    value = m.to_thousandths(x, size)
    assert isinstance(value, int)
    assert 0 <= value < 1000


@pytest.mark.parametrize(
    "x, size, value",
    [(0, 448, 0), (447.9, 448, 999), (448, 448, 999), (-3, 448, 0), (0.448, 448, 1), (224, 448, 500)],
)
def test_coordinates_are_rounded_down(x: float, size: float, value: int) -> None:
    """The documented rounding: floor, clamped to the last cell at the far edge."""
    assert m.to_thousandths(x, size) == value


@pytest.mark.parametrize("x, size", [(float("nan"), 10), (float("inf"), 10), (1, 0), (1, -5)])
def test_positions_without_coordinate_are_refused(x: float, size: float) -> None:
    """A box that is no box never becomes a token silently."""
    with pytest.raises(ValueError, match="has no coordinate"):
        m.to_thousandths(x, size)


def test_formats() -> None:
    """Boxes, quads and phrases are written exactly as the paper's samples (appendix B)."""
    assert m.format_box((80.4, 50.9, 88.3, 60.2), 150, 100) == "<box>(536,509),(588,602)</box>"
    quad = m.format_quad([(568, 121), (625, 131), (624, 182), (567, 172)], 1000, 1000)
    assert quad == "<quad>(568,121),(625,131),(624,182),(567,172)</quad>"
    assert m.format_ref(" Woman") == "<ref> Woman</ref>"


@pytest.mark.parametrize("phrase", ["a<box>", "b</ref>", "<img>x</img>"])
def test_phrases_with_markup_are_refused(phrase: str) -> None:
    """A phrase cannot break out of its `<ref>`."""
    with pytest.raises(ValueError, match="a <ref> cannot hold markup"):
        m.format_ref(phrase)


def test_swapped_boxes_are_refused() -> None:
    """A wrong box in the data is reported, not written."""
    with pytest.raises(ValueError, match="swap its corners"):
        m.format_box((50, 10, 20, 30), 100, 100)


@given(st.lists(elements, max_size=6))
def test_parse_undoes_writing(written: list[m.Element]) -> None:
    """Law: strict and tolerant reading both give back what was written (plain neighbours become one)."""
    text = "".join(map(str, written))
    merged: list[m.Element] = []
    for element in written:
        if isinstance(element, m.PlainText) and merged and isinstance(merged[-1], m.PlainText):
            merged[-1] = m.PlainText(merged[-1].text + element.text)
        else:
            merged.append(element)
    # Hangul letters compose over the border of two plain texts.
    if text == unicodedata.normalize("NFC", text):
        assert m.parse(text) == tuple(merged)
    assert m.parse_generated(text) == m.parse(text)
    assert "".join(map(str, m.parse(text))) == unicodedata.normalize("NFC", text)


pieces = st.sampled_from([*m.TAGS, *m.TAGS.values(), "(1,2),(3,4)", "(1,2)", ",", "(1000,2)", "a"])


@given(st.lists(pieces, max_size=12).map("".join))
def test_generated_text_never_raises_and_loses_nothing(text: str) -> None:
    """Law: tolerant reading of any jumble keeps every character and finds what strict reading finds."""
    parsed = m.parse_generated(text)
    assert "".join(map(str, parsed)) == text
    try:
        strict = m.parse(text)
    except ValueError:
        return
    assert strict == parsed


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("a <box>(1,2),(3,4)", "<box> at character 2 of .* is not closed; </box> must be the next tag"),
        ("<ref>a<box>(1,2),(3,4)</box></ref>", "<ref> at character 0 of .* is not closed"),
        ("<img>a.jpg", "<img> at character 0 .* is not closed"),
        ("a</quad>", "</quad> at character 1 .* closes nothing"),
        ("<box>(1,2),(3,1000)</box>", r"holds '\(1,2\),\(3,1000\)', not two points"),
        ("<box>(1,2)</box>", "not two points"),
        ("<quad>(1,2),(3,4)</quad>", "not four points"),
        ("<box>(5,2),(3,4)</box>", "swap its corners"),
    ],
)
def test_malformed_markup(text: str, sentence: str) -> None:
    """Strict reading says what is wrong and where; tolerant reading takes it as text."""
    with pytest.raises(ValueError, match=sentence):
        m.parse(text)
    assert not any(isinstance(element, m.Quad | m.ImageSpan) for element in m.parse_generated(text))


def test_parse_normalises_and_allows_white_space() -> None:
    """Text is NFC-normalised as the original does, and spaces around coordinates are no error."""
    assert m.parse("e\u0301<box> (1, 2), (3 ,4)</box>") == (m.PlainText("\u00e9"), m.Box((1, 2, 3, 4)))


def test_boxes_with_references() -> None:
    """A phrase belongs to the box directly behind it only; malformed boxes are passed over."""
    text = (
        "<ref> Woman</ref><box>(1,2),(3,4)</box><box>(5,6),(7,8)</box> and<ref> her dog</ref> at "
        "<box>(9,10),(11,12)</box><ref>hat</ref><box>(1,2</box><box>(0,0),(999,999)</box>"
    )
    assert m.boxes_with_references(text) == [
        ((1, 2, 3, 4), "Woman"),
        ((5, 6, 7, 8), None),
        ((9, 10, 11, 12), None),
        ((0, 0, 999, 999), None),
    ]


def test_lines_with_quads() -> None:
    """OCR answers are read with and without the paper's space; a line without a quad takes no later one."""
    quad = "<quad>(1,2),(3,4),(5,6),(7,8)</quad>"
    corners = ((1, 2), (3, 4), (5, 6), (7, 8))
    text = f" <ref>It is managed</ref> {quad}<ref>by</ref>{quad}{quad}<ref>no</ref> or {quad}<ref>a</ref>"
    assert m.lines_with_quads(text) == [("It is managed", corners), ("by", corners)]
