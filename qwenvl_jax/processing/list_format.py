"""Queries and answers as lists of elements: a query is built from one, an answer is read into one.

    [{"image": "a.jpg"}, {"text": "Where is "}, {"ref": "the cat", "box": [(100, 200, 300, 400)]}, {"text": "?"}]

A query is a `Sample`: its pictures are parts of their own, never text, so nothing that a user writes can add one.
Source: `from_list_format` and `to_list_format` of the original's tokenizer as of December 2023.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from qwenvl_jax.processing.image_sources import read_image, read_video
from qwenvl_jax.processing.markup import Box, Quad, Reference, format_ref, parse_generated
from qwenvl_jax.processing.sample import Image, Part, Sample, Text, Video

Elements = Sequence[Mapping[str, Any]]
_KEYS = ({"image"}, {"video"}, {"text"}, {"ref"}, {"box"}, {"quad"}, {"ref", "box"}, {"ref", "quad"})


def from_list_format(
    elements: Elements,
    *,
    first_picture: int = 1,
    first_video: int = 1,
    numbered: bool = True,
    allow_urls: bool = False,
) -> Sample:
    """A query from its elements; its text is `typed`: of special tokens it can spell those of grounding alone.

    Args:
      elements: each a picture under `image` (see `qwenvl_jax.processing.image_sources`), a video under `video`, `text`, a
        phrase under `ref`, boxes (x1, y1, x2, y2) under `box`, quads of four (x, y) under `quad`, or a `ref` with its
        `box` or `quad`; coordinates are in [0, 1000).
      first_picture: the number of the first picture, where a conversation has shown some before.
      first_video: the same of videos.
      numbered: pictures stand as `Picture 1: <img>...</img>` and a line end, videos as `Video 1: ` alike; False: as
        `<img>...</img>` alone (a model that has not learned to chat, and the released Qwen2-VL).
      allow_urls: see `read_image`.

    Raises:
      ValueError, FileNotFoundError: an element is none of these, a coordinate is out of range, a picture or video is
        unreadable.
    """
    parts: list[Part] = []
    images: list[bytes] = []
    videos: list[bytes] = []
    text = ""  # one part between two pictures: tokens may merge over the borders of elements, as originally

    for element in elements:
        if not isinstance(element, Mapping) or set(element) not in _KEYS:
            given = list(element) if isinstance(element, Mapping) else type(element).__name__
            raise ValueError(
                f"an element of a query holds {given}; give 'image', 'video', 'text', 'ref', 'box' or 'quad'"
            )
        if "image" in element or "video" in element:
            shown: Part
            if "image" in element:
                name, shown = f"Picture {first_picture + len(images)}: ", Image(len(images))
                images.append(read_image(element["image"], allow_urls))
            else:
                name, shown = f"Video {first_video + len(videos)}: ", Video(len(videos))
                videos.append(read_video(element["video"]))
            text += name if numbered else ""
            if text:
                parts.append(Text(text, typed=True))
            parts.append(shown)
            text = "\n" if numbered else ""
        elif "text" in element:
            text += _checked(element["text"])
        else:
            text += _grounding(element)
    if text:
        parts.append(Text(text, typed=True))
    return Sample(tuple(parts), tuple(images), tuple(videos))


def _checked(text: Any) -> str:
    if not isinstance(text, str):
        raise ValueError(f"'text' and 'ref' hold strings, not {type(text).__name__}")
    return text


def _grounding(element: Mapping[str, Any]) -> str:
    phrase = format_ref(_checked(element["ref"])) if "ref" in element else ""
    try:
        boxes = [Box(_several(box, 4, int)) for box in element.get("box", ())]
        quads = [Quad(_several(quad, 4, _point)) for quad in element.get("quad", ())]
    except TypeError as error:
        raise ValueError("'box' holds a list of (x1, y1, x2, y2), 'quad' a list of four (x, y)") from error
    return phrase + "".join(map(str, (*boxes, *quads)))


def _point(value: Iterable[Any]) -> Any:
    return _several(value, 2, int)


def _several(values: Iterable[Any], count: int, each: Callable[[Any], Any]) -> Any:
    found = tuple(each(value) for value in values)
    if len(found) != count:
        raise ValueError(
            f"a box has four coordinates, a quad four points of two; {found} are {len(found)}, not {count}"
        )
    return found


def to_list_format(text: str) -> list[dict[str, Any]]:
    """The elements of an answer, `text`, `ref`, `box` and `quad`, in the form that `from_list_format` takes.

    A phrase is one element with the boxes (or quads) directly behind it. Malformed markup is text. Putting the elements
    together gives the answer again where its coordinates hold no white space or leading zeros.
    """
    elements: list[dict[str, Any]] = []
    for element in parse_generated(text):
        if isinstance(element, Reference):
            elements.append({"ref": element.text})
        elif isinstance(element, Box | Quad):
            kind, other = ("box", "quad") if isinstance(element, Box) else ("quad", "box")
            value = element.corners if isinstance(element, Box) else element.points
            if elements and ("ref" in elements[-1] or kind in elements[-1]) and other not in elements[-1]:
                elements[-1].setdefault(kind, []).append(value)
            else:
                elements.append({kind: [value]})
        else:
            _append_text(elements, str(element))
    return elements


def _append_text(elements: list[dict[str, Any]], text: str) -> None:
    if elements and "text" in elements[-1]:  # an <img> that a model wrote is text too
        elements[-1]["text"] += text
    else:
        elements.append({"text": text})
