"""A conversation with a model: its rounds, its pictures, and the boxes of its answers.

Source: `chat`, `chat_stream` and `draw_bbox_on_latest_picture` of the original.
"""

from collections.abc import Generator, Iterator
from functools import reduce
from io import BytesIO
from typing import Any

from PIL import Image as Picture

from qwenvl_jax.inference.drawing import Drawing, draw_boxes, find_marks
from qwenvl_jax.inference.generate import MAX_SEED, check_seed, configured, stream
from qwenvl_jax.inference.generation_config import CHATML
from qwenvl_jax.inference.model import Model
from qwenvl_jax.inference.processor import Processor
from qwenvl_jax.processing.chatml import SYSTEM_PROMPT, Round
from qwenvl_jax.processing.list_format import Elements
from qwenvl_jax.processing.sample import Sample, joined
from qwenvl_jax.processing.visual_sample import visuals_of


class Chat:
    """A conversation. Where pictures and videos are numbered, it is through all its rounds ("Picture 1", "Video 1", ...).

    Of a long history the model sees the newest rounds that fit (`trim_history`). A model whose format is `raw` has not
    learned to converse: it sees all pictures and videos and the newest question.

    Attributes:
      history: the rounds so far; may be cut or cleared.
    """

    def __init__(
        self,
        model: Model,
        processor: Processor,
        *,
        system: str = SYSTEM_PROMPT,
        seed: int = 0,
        allow_urls: bool = False,
        **changes: Any,
    ) -> None:
        """`seed`, `allow_urls` and `changes` are as in `generate`; each round draws with a seed of its own.

        Raises:
          ValueError: a setting is none.
        """
        check_seed(seed)
        self.history: list[Round] = []
        self._model, self._processor = model, configured(processor, changes)
        self._system, self._seed, self._allow_urls = system, seed, allow_urls

    def ask(self, query: str | Elements) -> str:
        """The answer, which becomes part of the history. Errors are those of `from_list_format`."""
        return "".join(self.stream(query))

    def stream(self, query: str | Elements) -> Generator[str, None, None]:
        """The answer in pieces. Where the caller stops early, what was written so far is the round's answer."""
        past = [each.query for each in self.history]
        pictures, videos = sum(len(each.images) for each in past), sum(len(each.videos) for each in past)
        asked = self._processor.query(query, pictures + 1, videos + 1, self._allow_urls)
        if self._processor.generation.chat_format == CHATML:
            prompt = self._processor.prompt(asked, self.history, self._system)
        else:
            shown = (Sample(visuals_of(each), each.images, each.videos) for each in past)
            prompt = reduce(joined, (*shown, asked))
        seed = (self._seed + len(self.history)) % MAX_SEED
        return self._record(asked, stream(self._model, self._processor, prompt, seed=seed))

    def _record(self, asked: Sample, pieces: Iterator[str]) -> Generator[str, None, None]:
        answer = ""
        try:
            for piece in pieces:
                answer += piece
                yield piece
        finally:
            self.history.append(Round(asked, answer))

    def draw(self) -> Drawing | None:
        """The newest answer's boxes and quads on the latest picture; None where there is no picture or no box."""
        shown = [image for past in self.history for image in past.query.images]
        if not shown or not find_marks(self.history[-1].answer):
            return None
        return draw_boxes(Picture.open(BytesIO(shown[-1])), self.history[-1].answer)
