"""Between people and the model: queries become prompts, prompts become a batch.

Shape legend: B prompts, S prompt tokens (padded), M image slots, R pixels of a side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qwenvl_jax.batch import Batch, empty_batch
from qwenvl_jax.inference.generation_config import CHATML, GenerationConfig
from qwenvl_jax.processing.chatml import SYSTEM_PROMPT, Round, chat_prompt, trim_history
from qwenvl_jax.processing.images import decode_image, resize_image
from qwenvl_jax.processing.list_format import Elements, from_list_format
from qwenvl_jax.processing.sample import EncodedSample, Sample, encode_sample
from qwenvl_jax.processing.tokenizer import Tokenizer

Query = str | Elements | Sample
"""What can be asked: text, a list of elements (see `from_list_format`), or a sample, which is a prompt as it stands."""

SHORTEST = 64
"""Prompts are padded to lengths of this multiple; long ones to quarters of a power of two, so that few are compiled."""


@dataclass(frozen=True, eq=False)
class Processor:
    """Everything that a model's input depends on beside the model.

    Attributes:
      tokenizer: its vocabulary.
      queries: vision tokens of an image.
      resolution: side in pixels of the square that every image is resized to.
      generation: how it is asked by default.
    """

    tokenizer: Tokenizer
    queries: int
    resolution: int
    generation: GenerationConfig

    def query(self, query: str | Elements, first_picture: int = 1, allow_urls: bool = False) -> Sample:
        """What a user asks, without the ChatML around it. Text never becomes a picture or a ChatML tag.

        Raises:
          ValueError, FileNotFoundError: as `from_list_format`.
        """
        elements = [{"text": query}] if isinstance(query, str) else query
        numbered = self.generation.chat_format == CHATML
        return from_list_format(elements, first_picture=first_picture, numbered=numbered, allow_urls=allow_urls)

    def prompt(self, query: Sample, history: Sequence[Round] = (), system: str = SYSTEM_PROMPT) -> Sample:
        """The prompt whose continuation is the answer to `query`: ChatML with the newest rounds that fit, or, where the
        format is `raw`, the query alone (history and system prompt are not used, as in the original).
        """
        if self.generation.chat_format != CHATML:
            return query
        window = self.generation.max_window_size
        return chat_prompt(trim_history(history, self.tokenizer, self.queries, system, window), query, system)

    def __call__(self, queries: Sequence[Query], allow_urls: bool = False) -> Batch:
        """The prompts of queries as a batch, padded on the left: `model(processor(queries))` are logits, whose last
        position predicts each answer's first token.
        """
        return self.batch([encode_sample(s, self.tokenizer, self.queries) for s in self.samples(queries, allow_urls)])

    def samples(self, queries: Sequence[Query], allow_urls: bool = False) -> list[Sample]:
        """The prompts of queries.

        Raises:
          ValueError: `queries` is one query instead of a list of them.
        """
        if isinstance(queries, str):
            raise ValueError("queries come as a list; write [query] for one")
        return [q if isinstance(q, Sample) else self.prompt(self.query(q, allow_urls=allow_urls)) for q in queries]

    def batch(self, samples: Sequence[EncodedSample]) -> Batch:
        """Encoded prompts as a batch whose last position is every prompt's last token; padding has segment 0."""
        length = padded_length(max((len(sample.tokens) for sample in samples), default=1))
        slots = max((len(sample.images) for sample in samples), default=0)
        batch = empty_batch(len(samples), length, slots, self.resolution, self.tokenizer.eod_id)
        for row, sample in enumerate(samples):
            begin = length - len(sample.tokens)
            batch.tokens[row, begin:] = sample.tokens
            batch.vision_index[row, begin:] = sample.vision_index
            batch.segment_ids[row, begin:] = 1
            batch.positions[row, begin:] = np.arange(length - begin)
            for slot, data in enumerate(sample.images):
                batch.images[row, slot] = resize_image(decode_image(data), self.resolution)
        return batch


def padded_length(tokens: int) -> int:
    """The least length that is compiled for prompts of so many tokens: at most a quarter more, above `SHORTEST`."""
    multiple = max(SHORTEST, 1 << max(tokens.bit_length() - 3, 0))
    return -(-tokens // multiple) * multiple
