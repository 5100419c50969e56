"""From tokens to text that grows: what has been said is never taken back."""

import codecs
from collections.abc import Iterable, Sequence

from qwenvl_jax.processing.tokenizer import GROUNDING_TOKENS, Tokenizer


class AnswerWriter:
    """The text of one answer while its tokens come in.

    A piece of text is given out as soon as nothing that follows can change it: not half of a character, no white space
    that may end the answer, nothing that may be the beginning of a stop word. The pieces put together are the answer,
    which has no outer white space; how the tokens were portioned does not matter. Of special tokens those of grounding
    stay, whole, and are written as `<ref>`, `<box>` and `<quad>` whatever the model calls them.

    Attributes:
      finished: the answer has met its end; further tokens are passed over.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        """`stop`: strings that end the answer and are left out of it; the tokenizer's end tokens always do."""
        self.finished = False
        self._tokenizer = tokenizer
        self._stop = stop
        self._ends = stop_ids(tokenizer)
        names = zip(tokenizer.special.grounding, GROUNDING_TOKENS)
        self._markup = {tokenizer.special_tokens[theirs]: ours.encode() for theirs, ours in names}
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self._given = 0

    def write(self, ids: Iterable[int]) -> str:
        """Takes the next tokens; what can be given out of the text by now, often nothing."""
        for token in ids:
            if self.finished:
                break
            if token in self._ends:
                return self.close()
            if token in self._markup:
                self._take(self._markup[token])
            elif token < self._tokenizer.eod_id:
                self._take(self._tokenizer.decode_bytes([token]))
        return self._give(len(self._text) - (0 if self.finished else self._possible_stop()))

    def close(self) -> str:
        """No more tokens come: the rest of the text."""
        if not self.finished:
            self._take(b"", final=True)
            self.finished = True
        return self._give(len(self._text))

    def _take(self, data: bytes, final: bool = False) -> None:
        fresh = self._utf8.decode(data, final)
        # Searched token by token and only where something is new, so that the answer does not depend on portions.
        begin = max(len(self._text) - max(map(len, self._stop), default=0), 0)
        self._text += fresh
        found = [at for word in self._stop if fresh and (at := self._text.find(word, begin)) >= 0]
        if found:
            self._text = self._text[: min(found)]
            self.finished = True

    def _possible_stop(self) -> int:
        """The length of the longest end of the text that a stop word begins with."""
        lengths = range(max(map(len, self._stop), default=1) - 1, 0, -1)
        text = self._text
        return next((n for n in lengths if any(text.endswith(word[:n]) for word in self._stop if len(word) > n)), 0)

    def _give(self, end: int) -> str:
        begin = len(self._text) - len(self._text.lstrip())
        settled = self._text[begin:end].rstrip()
        piece, self._given = settled[self._given :], max(self._given, len(settled))
        return piece


def stop_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that end every answer: `<|endoftext|>` and the ChatML tags."""
    return tokenizer.eod_id, tokenizer.im_end_id, tokenizer.im_start_id
