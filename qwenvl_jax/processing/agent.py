"""Tasks that Qwen2-VL solves by acting, step by step, on what it sees (paper section 2.2, visual agent).

The system's text lists the actions. All steps are one turn of the assistant: it names a function and its arguments and asks
for the result, the environment writes the result, often a screenshot, and the assistant goes on until the task is done.
Points are in thousandths of the picture's width and height.
Source: the paper's example; the markers are those of Qwen-Agent's function calling.
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qwenvl_jax.processing.chatml import SYSTEM_PROMPT, USER
from qwenvl_jax.processing.markup import SCALE
from qwenvl_jax.processing.qwen2_chat import SYSTEM, Content, Message, chat_prompt, spoken
from qwenvl_jax.processing.sample import Part, Text
from qwenvl_jax.processing.tokenizer import IM_END

FUNCTION, ARGUMENTS, RESULT, RETURN = "✿FUNCTION✿", "✿ARGS✿", "✿RESULT✿", "✿RETURN✿"
STOPS = (RESULT, RETURN)
"""Where generation stops and the environment has its turn."""

Value = str | int | float | tuple[int, int]
"""An argument; a pair is a point."""

_CALL = re.compile(rf"{FUNCTION}\s*:\s*(.*?)\s*{ARGUMENTS}\s*:\s*(.*?)\s*(?:{RESULT}.*)?", re.DOTALL)


@dataclass(frozen=True)
class Action:
    """What can be done: its name, and what it does with which arguments."""

    name: str
    description: str


@dataclass(frozen=True)
class Call:
    """What the model does in one step.

    Attributes:
      thought: what it says before; may be empty.
      function: the action's name.
      arguments: by name.
    """

    thought: str
    function: str
    arguments: Mapping[str, Value]


@dataclass(frozen=True)
class Step:
    """A call, and what came of it: text and screenshots that the environment gives."""

    call: Call
    result: Content


def system_text(actions: Sequence[Action]) -> str:
    """The system's text: the actions, and how to take one."""
    names = ", ".join(action.name for action in actions)
    return "\n".join(
        [
            f"{SYSTEM_PROMPT} You can take these actions:",
            *(f"{action.name}: {action.description}" for action in actions),
            "Continuously take action until the task is completed.",
            f"{FUNCTION}: The action to take, should be one of {names}.",
            f"{ARGUMENTS}: The input of the action.",
            f"{RESULT}: Action results.",
            f"{RETURN}: Reply based on action results.",
        ]
    )


def agent_prompt(actions: Sequence[Action], task: Content, steps: Sequence[Step] = ()) -> tuple[Part, ...]:
    """The prompt that the model's next call, or its last reply, follows.

    Args:
      task: what the user wants, with the first screenshot.
      steps: what was done so far.

    Raises:
      ValueError: a point lies outside [0, 1000).
    """
    opening = chat_prompt((Message(SYSTEM, (system_text(actions),)), Message(USER, task)))
    parts = list(opening)
    for number, step in enumerate(steps):
        # The model ends its part with the marker of the result: that is where generation stops.
        parts.append(Text(f"{_after(number, format_call(step.call))}\n{RESULT}", supervised=True, typed=True))
        parts += spoken((": ", *step.result, f"\n{RETURN}:"))
    return tuple(parts)


def agent_parts(actions: Sequence[Action], task: Content, steps: Sequence[Step], reply: str) -> tuple[Part, ...]:
    """A solved task to train on: learned are the model's own calls and its last reply, not what the environment gives.

    Arguments and errors as `agent_prompt`.
    """
    ending = Text(_after(len(steps), reply), supervised=True, typed=True)
    return (*agent_prompt(actions, task, steps), ending, Text(f"{IM_END}\n", supervised=True))


def format_call(call: Call) -> str:
    """The call as the model writes it, e.g. `✿FUNCTION✿: Tap`, a line end, `✿ARGS✿: {"point": (348,291)}`.

    Raises:
      ValueError: a point lies outside [0, 1000).
    """
    arguments = ", ".join(f"{json.dumps(name)}: {_format_value(value)}" for name, value in call.arguments.items())
    lines = [f"{FUNCTION}: {call.function}", f"{ARGUMENTS}: {{{arguments}}}"]
    return "\n".join([call.thought, *lines] if call.thought else lines)


def parse_call(text: str) -> Call | None:
    """The call in what the model wrote, or None where it is a reply.

    Raises:
      ValueError: there is a call, and it is malformed.
    """
    if FUNCTION not in text:
        return None
    start = text.index(FUNCTION)
    found = _CALL.fullmatch(text[start:].strip())
    if found is None:
        raise ValueError(f"{text[start:]!r} has no {ARGUMENTS} behind its {FUNCTION}")
    try:
        arguments = ast.literal_eval(found[2])
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"{found[2]!r} are no arguments: {error}") from error
    if not (isinstance(arguments, dict) and all(isinstance(name, str) for name in arguments)):
        raise ValueError(f"{found[2]!r} are no arguments by name")
    for value in arguments.values():
        _check_value(value)
    return Call(text[:start].strip(), found[1], arguments)


def _after(number: int, text: str) -> str:
    """Text behind the marker of a return stands behind a space; the first call opens the turn."""
    return f" {text}" if number else text


def _check_value(value: object) -> None:
    if isinstance(value, tuple):
        if len(value) != 2 or not all(isinstance(part, int) and 0 <= part < SCALE for part in value):
            raise ValueError(f"point {value} is no pair of whole numbers in [0, {SCALE}): thousandths of the picture")
    elif not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ValueError(f"argument {value!r} is no text, number or point")


def _format_value(value: Value) -> str:
    _check_value(value)
    return f"({value[0]},{value[1]})" if isinstance(value, tuple) else json.dumps(value, ensure_ascii=False)
