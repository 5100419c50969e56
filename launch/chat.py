"""`qwenvl chat CHECKPOINT [--image FILE ...] [QUESTION]`: asks a model; boxes are drawn to a PNG."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image as Picture

from qwenvl_jax.inference.drawing import draw_boxes, find_marks
from qwenvl_jax.inference.loading import Answerer, load
from qwenvl_jax.processing.chatml import ChatTurn, chat_prompt, trim_history
from qwenvl_jax.processing.images import image_size
from qwenvl_jax.processing.sample import Sample


@dataclass(frozen=True)
class ChatOptions:
    """Asks a model about pictures; without a question, a conversation on the terminal (an empty line ends it)."""

    checkpoint: tyro.conf.Positional[Path]
    """A run's folder, or a checkpoint in it."""
    question: tyro.conf.Positional[str] = ""
    image: Annotated[tuple[Path, ...], tyro.conf.arg(aliases=["-i"])] = ()
    """Pictures, in order; the question calls them "Picture 1", "Picture 2", ..."""
    output: Path = Path("answer.png")
    """Where the last picture goes with the answer's boxes drawn."""
    max_new_tokens: int = 256


def chat(arguments: list[str]) -> None:
    """Raises FileNotFoundError or ValueError with one sentence for a missing checkpoint or a bad picture."""
    options = tyro.cli(ChatOptions, args=arguments, prog="qwenvl chat", config=(tyro.conf.UseAppendAction,))
    pictures = tuple(read_picture(path) for path in options.image)
    answerer = load(options.checkpoint)
    opening = "".join(f"Picture {n + 1}: <img>{n}</img>\n" for n in range(len(pictures)))
    history: list[ChatTurn] = []
    question = options.question or input("> ")
    while question:
        history = ask(answerer, history, opening + question if not history else question, pictures, options)
        question = "" if options.question else input("> ")


def read_picture(path: Path) -> bytes:
    """The file's bytes, after a look at its header.

    Raises:
      FileNotFoundError, ValueError: it is missing or no picture.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--image {path}: there is no such file")
    data = path.read_bytes()
    try:
        image_size(data)
    except ValueError as error:
        raise ValueError(f"--image {path}: {error}") from error
    return data


def ask(
    answerer: Answerer, history: list[ChatTurn], query: str, pictures: tuple[bytes, ...], options: ChatOptions
) -> list[ChatTurn]:
    """Prints the answer, draws its boxes, and returns the longer history."""
    queries = answerer.run.model.adapter.queries
    window = answerer.stage.sequence_length
    kept = trim_history(history, answerer.tokenizer, queries, max_window_size=window) if history else []
    [answer] = answerer.answer([Sample(tuple(chat_prompt(kept, query)), pictures)], options.max_new_tokens)
    print(answer.strip())
    if pictures and find_marks(answer):
        drawing = draw_boxes(Picture.open(BytesIO(pictures[-1])).convert("RGB"), answer)
        drawing.picture.save(options.output)
        print(f"boxes drawn: {options.output}", *drawing.legend, sep="\n")
    return [*history, ChatTurn("user", query), ChatTurn("assistant", answer)]
