"""Whole tasks of an agent: the model acts in an environment, step by step, until it replies.

The environment and the model are passed in: nothing here depends on how screens are drawn or answers decoded. All episodes
go on together, so that the model answers a batch of prompts at a time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from qwenvl_jax.evaluation.benchmarks import Answer, Result
from qwenvl_jax.processing.agent import Action, Call, Step, agent_prompt, format_call, parse_call
from qwenvl_jax.processing.example import Example
from qwenvl_jax.processing.sample import Image, Sample

BENCHMARK = "agent"
MOST_STEPS = 8
"""Calls after which an episode ends unsolved; the longest task of the embedded world takes four."""
MAX_NEW_TOKENS = 96
"""Of a call, in the byte-level vocabulary."""

Answers = Callable[[Sequence[Sample]], Sequence[str]]
"""Prompts -> one text each: greedy, cut before the markers `qwenvl_jax.processing.agent.STOPS`."""


class Environment(Protocol):
    """A task at one point of time; a value that does not change."""

    @property
    def actions(self) -> Sequence[Action]:
        """What can be done."""

    @property
    def task(self) -> str:
        """What the user says."""

    @property
    def solved(self) -> bool:
        """Whether the task is done."""

    def screenshot(self) -> bytes:
        """What is seen, as an encoded picture."""

    def after(self, call: Call) -> "Environment":
        """The environment after a call, which may be any."""


@dataclass(frozen=True)
class Episode:
    """What was done on a task so far.

    Attributes:
      environment: as it is now.
      steps: calls with what came of them; the n-th result shows screenshot n + 1.
      screenshots: encoded pictures, from the first one on.
      ended: whether the model replied, or wrote a call that no one can read.
      replied: whether it replied.
      said: its last words.
    """

    environment: Environment
    steps: tuple[Step, ...] = ()
    screenshots: tuple[bytes, ...] = ()
    ended: bool = False
    replied: bool = False
    said: str = ""

    @property
    def prompt(self) -> Sample:
        """What the model's next words follow; the same as in training."""
        task = (f"{self.environment.task} ", Image(0))
        return Sample(agent_prompt(self.environment.actions, task, self.steps), self.screenshots)

    @property
    def success(self) -> bool:
        """The task is done, and the model says so."""
        return self.replied and self.environment.solved

    def after(self, text: str) -> "Episode":
        """The episode after the model's words."""
        try:
            call = parse_call(text)
        except ValueError:
            return replace(self, ended=True, said=text)
        if call is None:
            return replace(self, ended=True, replied=True, said=text)
        try:
            format_call(call)
        except ValueError:  # it would not be a prompt again
            return replace(self, ended=True, said=text)
        environment = self.environment.after(call)
        step = Step(call, (Image(len(self.screenshots)),))
        return Episode(environment, (*self.steps, step), (*self.screenshots, environment.screenshot()))


def play(starts: Sequence[Environment], answer: Answers, most_steps: int = MOST_STEPS) -> list[Episode]:
    """Every task from its start until the model replies, or for so many calls.

    Raises:
      ValueError: `answer` does not give one text for each prompt.
    """
    episodes = [Episode(start, screenshots=(start.screenshot(),)) for start in starts]
    for _ in range(most_steps + 1):  # the reply follows the last call
        going = [number for number, episode in enumerate(episodes) if not episode.ended]
        if not going:
            break
        texts = answer([episodes[number].prompt for number in going])
        if len(texts) != len(going):
            raise ValueError(f"benchmark {BENCHMARK}: {len(texts)} answers to {len(going)} prompts")
        for number, text in zip(going, texts):
            episodes[number] = episodes[number].after(text)
    return episodes


def evaluate_agent(starts: Mapping[str, Environment], answer: Answers) -> Result:
    """`agent_success`, the share of whole tasks that are solved; a step alone counts nothing.

    Args:
      starts: key of a task -> its start; at least one.
      answer: of the model.
    """
    episodes = play(list(starts.values()), answer)
    answers = tuple(
        Answer(_example(key, episode), _told(episode), float(episode.success)) for key, episode in zip(starts, episodes)
    )
    share = sum(answer.score for answer in answers) / len(answers)
    return Result({"agent_success": share}, {"agent_success": float(len(answers))}, answers)


def _example(key: str, episode: Episode) -> Example:
    return Example(key, BENCHMARK, episode.prompt, episode.environment.task, "the task solved, and a reply")


def _told(episode: Episode) -> str:
    """Calls and last words in lines, for people."""
    calls = [f"{step.call.function} {dict(step.call.arguments)}" for step in episode.steps]
    return "\n".join([*calls, episode.said.strip()])
