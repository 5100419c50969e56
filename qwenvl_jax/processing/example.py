"""One question of a benchmark: what is asked of the model and what a right answer is."""

from dataclasses import dataclass

from qwenvl_jax.processing.sample import Sample

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Example:
    """One question of a benchmark.

    Attributes:
      key: names the record that it comes from; examples of one record share their picture.
      benchmark: a name of `qwenvl_jax.evaluation.benchmarks.BENCHMARKS`.
      prompt: what the model is given; nothing in it is supervised.
      question: the same for people, without template and pictures.
      answer: the right answer as the model would write it, with `<ref>`, `<box>` and `<quad>` markup.
      kind: groups scores, or empty.
      boxes: the true boxes before rounding to tokens: x1, y1, x2, y2 as shares of width and height.
    """

    key: str
    benchmark: str
    prompt: Sample
    question: str
    answer: str
    kind: str = ""
    boxes: tuple[Box, ...] = ()
