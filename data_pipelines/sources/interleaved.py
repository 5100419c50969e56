"""Documents of text and pictures in turn, as OBELICS and what follows it lay them out.

Two lists of equal length, `texts` and `images`: at each place stands a text or a picture, and null in the other list.
Source: https://huggingface.co/datasets/HuggingFaceM4/OBELICS (its pictures are addresses: fetch them first).
"""

from collections.abc import Sequence
from typing import Any

from qwenvl_jax.processing.tokenizer import IMAGE_END, IMAGE_START

TEXTS, IMAGES = "texts", "images"


def is_interleaved(texts: Any, images: Any) -> bool:
    """Whether these are the two lists of a document, and no conversation's or caption's."""
    lists = isinstance(texts, list) and isinstance(images, list)
    return lists and any(texts) and all(text is None or isinstance(text, str) for text in texts)


def article(texts: Sequence[str | None], images: Sequence[Any]) -> str:
    """The document as one text, with `<img>N</img>` where its N-th picture stands (from 0); texts that follow each other are
    paragraphs.

    Raises:
      ValueError: the lists are not of one length, a place has both or a text has tags of pictures itself.
    """
    if len(texts) != len(images):
        raise ValueError(f"{len(texts)} {TEXTS} and {len(images)} {IMAGES}: at each place one of them stands, or null")
    written, seen, after_text = [], 0, False
    for place, (text, image) in enumerate(zip(texts, images)):
        if text and image:
            raise ValueError(f"place {place} has a text and a picture: one of the two must be null")
        if text and (IMAGE_START in text or IMAGE_END in text):
            raise ValueError(f"the text at place {place} holds {IMAGE_START}: pictures stand in {IMAGES}")
        if image:
            written.append(f"{IMAGE_START}{seen}{IMAGE_END}")
            seen += 1
        elif text:
            written.append(f"\n\n{text}" if after_text else text)
        after_text = bool(text) or (after_text and not image)
    return "".join(written)
