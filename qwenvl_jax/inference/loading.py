"""From a folder to a model that answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qwenvl_jax.config import Run, Stage, from_json
from qwenvl_jax.inference.generate import generate
from qwenvl_jax.models.parameters import Architecture, Parameters, build
from qwenvl_jax.processing.sample import Sample
from qwenvl_jax.processing.tokenizer import Tokenizer, load_tokenizer
from qwenvl_jax.training.checkpoints import load_parameters, locate


@dataclass(frozen=True, eq=False)
class Answerer:
    """A trained model with what it needs to answer: `answer(prompts, max_new_tokens)`."""

    run: Run
    stage: Stage
    architecture: Architecture
    parameters: Parameters
    tokenizer: Tokenizer

    def answer(self, prompts: Sequence[Sample], max_new_tokens: int) -> list[str]:
        """Greedy answers in the prompts' order; `<ref>`, `<box>` and `<quad>` tags are kept."""
        return generate(
            self.architecture,
            self.parameters,
            self.tokenizer,
            prompts,
            resolution=self.stage.resolution,
            queries=self.run.model.adapter.queries,
            max_new_tokens=max_new_tokens,
        )


def load(path: str | Path) -> Answerer:
    """The model of a run's folder or of one checkpoint in it (see `locate`).

    Raises:
      FileNotFoundError: there is none.
      ValueError: its configuration is not of this version.
    """
    workdir, stage, step = locate(Path(path))
    run = from_json((workdir / "config.json").read_text())
    return Answerer(
        run,
        next(entry for entry in run.stages if entry.name == stage),
        build(run.model, run.precision),
        load_parameters(workdir, stage, step),
        load_tokenizer(run.data.tokenizer),
    )
