"""A training sample as parts of text and images, and its encoding into ids.

Tasks and ChatML produce `Sample`s; packing needs only `EncodedSample` lengths; rows are made of
`EncodedSample`s.
"""

from dataclasses import dataclass, replace

import numpy as np

from qwenvl_jax.processing.tokenizer import GROUNDING_TOKENS, Tokenizer


@dataclass(frozen=True)
class Text:
    """Text that is tokenized by itself (tokens never merge over a part's border).

    `supervised` text is learned. Special-token strings count as special tokens, except that in `typed` text (of a
    chat's prompt) only those of grounding do: `<|im_end|>` and `<img>` there are plain text. A picture is always an
    `Image`, so no text can add one.
    """

    text: str
    supervised: bool = False
    typed: bool = False


@dataclass(frozen=True)
class Image:
    """The sample's image number `index` (position in `Sample.images`) stands here."""

    index: int


@dataclass(frozen=True)
class Video:
    """The sample's video number `index` (position in `Sample.videos`) stands here; Qwen2-VL alone reads videos."""

    index: int


Part = Text | Image | Video


@dataclass(frozen=True)
class Sample:
    """One training sample: parts in order, and the encoded pictures (JPEG, PNG, ...) and videos that they name."""

    parts: tuple[Part, ...]
    images: tuple[bytes, ...] = ()
    videos: tuple[bytes, ...] = ()


def joined(first: Sample, second: Sample) -> Sample:
    """Two samples behind each other; the second's images and videos follow the first's."""
    by = {Image: len(first.images), Video: len(first.videos)}
    moved = (
        part if isinstance(part, Text) else replace(part, index=part.index + by[type(part)]) for part in second.parts
    )
    return Sample((*first.parts, *moved), first.images + second.images, first.videos + second.videos)


@dataclass(frozen=True)
class EncodedSample:
    """Ids of a sample. T tokens.

    Attributes:
      tokens: [T] int32; image positions hold the `<imgpad>` id.
      supervised: [T] bool, whether the token at this position is learned (as a target).
      vision_index: [T] int32, -1 for text, else image number * queries + query.
      images: the encoded pictures, in order.
    """

    tokens: np.ndarray
    supervised: np.ndarray
    vision_index: np.ndarray
    images: tuple[bytes, ...]

    @property
    def positions(self) -> np.ndarray:
        """[T] int32."""
        return np.arange(len(self.tokens), dtype=np.int32)

    @property
    def vision(self) -> int:
        """Image slots that it needs."""
        return len(self.images)

    @property
    def reduced(self) -> int:
        """Images that are shown smaller than they are allowed to be: none, every one has its slot."""
        return 0

    def cut(self, count: int) -> "EncodedSample":
        """Its first tokens."""
        return replace(
            self,
            tokens=self.tokens[:count],
            supervised=self.supervised[:count],
            vision_index=self.vision_index[:count],
        )


def encode_sample(sample: Sample, tokenizer: Tokenizer, queries: int) -> EncodedSample:
    """Encodes a sample; an image becomes `<img>`, `queries` vision positions, `</img>`.

    As in `QWenModel.forward` of the original, start and end tags keep their learned embeddings and the
    positions between are replaced.

    Raises:
      ValueError: the sample holds a video.
    """
    # The first of each is empty: a sample may have no parts.
    spans: list[np.ndarray] = [np.zeros(0, np.int32)]
    vision: list[np.ndarray] = [np.zeros(0, np.int32)]
    learned = [False]
    for part in sample.parts:
        if isinstance(part, Image):
            number = part.index * queries
            span, seen = visual_span(tokenizer, tokenizer.image_pad_id, number, queries)
        elif isinstance(part, Video):
            raise ValueError("Qwen-VL reads no videos; leave the sample out, or give frames as images")
        else:
            span = np.asarray(tokenizer.encode(part.text, GROUNDING_TOKENS if part.typed else "all"), np.int32)
            seen = np.full(len(span), -1, np.int32)
        spans.append(span)
        vision.append(seen)
        learned.append(isinstance(part, Text) and part.supervised)
    supervised = np.repeat(learned, [len(span) for span in spans])
    return EncodedSample(np.concatenate(spans), supervised, np.concatenate(vision), sample.images)


def visual_span(tokenizer: Tokenizer, pad: int, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ids of an image or video (its start, `pad` for each of `count` vision tokens, its end), and the numbers of these
    vision tokens from `first` on, -1 for start and end; [count + 2] int32 both."""
    tokens = np.full(count + 2, pad, np.int32)
    tokens[0], tokens[-1] = tokenizer.image_start_id, tokenizer.image_end_id
    numbers = np.arange(first - 1, first + count + 1, dtype=np.int32)
    numbers[0] = numbers[-1] = -1
    return tokens, numbers
