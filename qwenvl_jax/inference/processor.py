"""Between people and the model: queries become prompts, prompts become a batch.

Shape legend: B prompts, S prompt tokens (padded).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from qwenvl_jax.batch import Batch, row_of
from qwenvl_jax.inference.generation_config import CHATML, GenerationConfig
from qwenvl_jax.processing.chat_formats import ChatFormat, chat_prompt, trim_history
from qwenvl_jax.processing.chatml import SYSTEM_PROMPT, Round
from qwenvl_jax.processing.encoders import Encoded, Encoder, padded_length
from qwenvl_jax.processing.list_format import Elements, from_list_format
from qwenvl_jax.processing.sample import Sample
from qwenvl_jax.processing.tokenizer import Tokenizer

Query = str | Elements | Sample
"""What can be asked: text, a list of elements (see `from_list_format`), or a sample, which is a prompt as it stands."""

SHORTEST = 64
"""Prompts are padded to lengths of this multiple."""


class Prompt(NamedTuple):
    """A prompt and its ids."""

    sample: Sample
    encoded: Encoded


@dataclass(frozen=True, eq=False)
class Processor:
    """Everything that a model's input depends on beside the model.

    Attributes:
      encoder: how the model sees a prompt: the one that writes its training rows.
      chat: how its conversations are written.
      generation: how it is asked by default.
    """

    encoder: Encoder
    chat: ChatFormat
    generation: GenerationConfig

    @property
    def tokenizer(self) -> Tokenizer:
        return self.encoder.tokenizer

    def query(
        self, query: str | Elements, first_picture: int = 1, first_video: int = 1, allow_urls: bool = False
    ) -> Sample:
        """What a user asks, without the ChatML around it. Text never becomes a picture or a ChatML tag.

        Raises:
          ValueError, FileNotFoundError: as `from_list_format`.
        """
        elements = [{"text": query}] if isinstance(query, str) else query
        numbered = self.generation.chat_format == CHATML and self.generation.numbered
        return from_list_format(
            elements, first_picture=first_picture, first_video=first_video, numbered=numbered, allow_urls=allow_urls
        )

    def prompt(self, query: Sample, history: Sequence[Round] = (), system: str = SYSTEM_PROMPT) -> Sample:
        """The prompt whose continuation is the answer to `query`: ChatML with the newest rounds that fit, or, where the
        format is `raw`, the query alone (history and system prompt are not used, as in the original).
        """
        if self.generation.chat_format != CHATML:
            return query
        kept = trim_history(self.chat, history, self.length, system, self.generation.max_window_size)
        return chat_prompt(self.chat, kept, query, system)

    def length(self, sample: Sample) -> int:
        """Tokens of a sample, its images and videos included."""
        return len(self.encoder.encode(sample).tokens)

    def __call__(self, queries: Sequence[Query], allow_urls: bool = False) -> Batch:
        """The prompts of queries as a batch, padded on the left: `model(processor(queries))` are logits, whose last
        position predicts each answer's first token.
        """
        return self.batch(self.prompts(queries, allow_urls))

    def prompts(self, queries: Sequence[Query], allow_urls: bool = False) -> list[Prompt]:
        """The encoded prompts of queries.

        Raises:
          ValueError: `queries` is one query instead of a list of them, or a query holds what the model cannot see.
        """
        if isinstance(queries, str):
            raise ValueError("queries come as a list; write [query] for one")
        samples = [q if isinstance(q, Sample) else self.prompt(self.query(q, allow_urls=allow_urls)) for q in queries]
        return [Prompt(sample, self.encoder.encode(sample)) for sample in samples]

    def batch(self, prompts: Sequence[Prompt]) -> Batch:
        """One prompt in each row, whose last position is the prompt's last token; padding has segment 0.

        Every row has room for the pictures and videos of the prompt that has most.
        """
        length = padded_length(max((len(prompt.encoded.tokens) for prompt in prompts), default=1), SHORTEST)
        vision = self.encoder.room(max((prompt.encoded.vision for prompt in prompts), default=0))
        batch = self.encoder.empty(len(prompts), length, vision)
        for number, (sample, encoded) in enumerate(prompts):
            row, begin = row_of(batch, number), length - len(encoded.tokens)
            self.encoder.place(row, begin, 0, encoded, self.encoder.pixels(sample, encoded))
            row.segment_ids[begin:] = 1
        return batch
