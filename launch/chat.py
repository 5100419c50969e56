"""`qwenvl chat CHECKPOINT [--image FILE ...] [--video FILE ...] [QUESTION]`: a conversation on the terminal; boxes are drawn
to PNG files."""

import itertools
import re
import shlex
import sys
import warnings
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass
from importlib import import_module
from io import BufferedWriter, TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro
from rich.console import Console
from rich.text import Text

from qwenvl_jax.inference.chat import Chat
from qwenvl_jax.inference.drawing import find_marks
from qwenvl_jax.inference.generation_config import CHATML
from qwenvl_jax.inference.loading import load
from qwenvl_jax.inference.model import Model
from qwenvl_jax.inference.processor import Processor
from qwenvl_jax.processing.chatml import SYSTEM_PROMPT
from qwenvl_jax.processing.image_sources import read_image, read_video

COMMANDS = {
    "/image FILE ...": "shows pictures with your next question",
    "/video FILE ...": "shows videos with your next question (Qwen2-VL)",
    "/clear": "forgets the conversation, its pictures and videos",
    "/help": "lists this",
    "/quit": "ends, as Ctrl-D does; Ctrl-C stops an answer",
}
_TAGS = re.compile(r"</?(?:ref|box|quad)>")
_CONTROL = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""A model may write anything; what steers a terminal is shown, not sent."""


@dataclass(frozen=True)
class ChatOptions:
    """Asks a model about pictures. Without a question: a conversation on the terminal, or one question per line of stdin."""

    checkpoint: tyro.conf.Positional[Path]
    """A run's folder, a checkpoint in it, or a Hugging Face folder."""
    question: tyro.conf.Positional[str] = ""
    image: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-i"])] = ()
    """Pictures, in order; the question calls them "Picture 1", "Picture 2", ..."""
    video: Annotated[tuple[Path, ...], tyro.conf.arg(aliases=["-v"])] = ()
    """Videos, in order, behind the pictures; Qwen2-VL alone sees them."""
    output: Path = Path("answer.png")
    """Where the latest picture goes with an answer's boxes; where that file exists, answer-2.png, answer-3.png, ..."""
    system: str = SYSTEM_PROMPT
    """System prompt of a model that has learned to chat."""
    max_new_tokens: int | None = None
    """Tokens of an answer at most; by default the checkpoint's."""
    temperature: float | None = None
    """0 takes the most likely token, above 0 tokens are drawn; by default the checkpoint's."""
    top_p: float | None = None
    """Tokens are drawn from the smallest set that has this probability; by default the checkpoint's."""
    seed: int = 0
    """Of the drawn tokens."""
    allow_urls: bool = False
    """Pictures may be http(s) addresses, which are then fetched."""
    dtype: str | None = None
    """`float32` or `bfloat16`, what the model computes in; by default as it was trained (Hugging Face: bfloat16, on a CPU
    float32)."""


def chat(arguments: list[str]) -> None:
    """Raises FileNotFoundError or ValueError with one sentence for a missing checkpoint or a bad picture."""
    options = tyro.cli(ChatOptions, args=arguments, prog="qwenvl chat", config=(tyro.conf.UseAppendAction,))
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what matters to a user of a picture, `read_image` says
    shown = [{"image": read_image(path, options.allow_urls)} for path in options.image]
    shown += [{"video": read_video(path)} for path in options.video]
    terminal = Terminal(options, shown)
    try:
        model, processor = terminal.load()
    except KeyboardInterrupt:
        sys.exit(130)
    conversation = Chat(
        model,
        processor,
        system=options.system,
        seed=options.seed,
        allow_urls=options.allow_urls,
        max_new_tokens=options.max_new_tokens,
        temperature=_temperature(options, processor),
        top_p=options.top_p,
    )
    if options.question:
        if not terminal.answer(conversation, options.question):
            sys.exit(130)
        return
    terminal.greet(model, processor)
    terminal.converse(conversation)


def _temperature(options: ChatOptions, processor: Processor) -> float | None:
    # Who asks for a nucleus wants to draw from it.
    if options.top_p is not None and options.temperature is None and processor.generation.temperature == 0:
        return 1.0
    return options.temperature


class Terminal:
    """Where a conversation is read and written: answers go to stdout, all else to stderr.

    Attributes:
      shown: encoded pictures and videos that go with the next question, as elements of a query.
    """

    def __init__(self, options: ChatOptions, shown: list[dict[str, bytes]]) -> None:
        self.shown = shown
        self._options = options
        self._answers = Console(highlight=False, soft_wrap=True)
        self._notes = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
        self._interactive = sys.stdin.isatty() and self._answers.is_terminal

    def load(self) -> tuple[Model, Processor]:
        """The checkpoint's model; what is noteworthy about it is said."""
        with warnings.catch_warnings(record=True) as noted, self._waiting(f"loading {self._options.checkpoint}"):
            warnings.simplefilter("always", UserWarning)
            loaded = load(self._options.checkpoint, self._options.dtype)
        for warning in noted:
            if issubclass(warning.category, UserWarning):
                self._note(str(warning.message))
        return loaded

    def greet(self, model: Model, processor: Processor) -> None:
        """Says who answers and how to go on."""
        if self._interactive:
            self._note(f"{self._options.checkpoint}: {model.architecture.size:,} parameters; /help lists the commands")
        if processor.generation.chat_format != CHATML:
            self._note("this checkpoint has not learned to converse: it sees the pictures and each question by itself")

    def converse(self, conversation: Chat) -> None:
        """Questions and commands, line by line, until the input ends."""
        if self._interactive:
            with suppress(ImportError):  # not on every platform; lines can be typed without
                import_module("readline")  # gives `input` its line editing and history
        elif isinstance(sys.stdin, TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")
        while (line := self._read()) is not None:
            try:
                if line.startswith("/"):
                    if not self._obey(conversation, line):
                        return
                elif line.strip():
                    self.answer(conversation, line.strip())
            except (ValueError, FileNotFoundError) as error:
                self._note(str(error))

    def answer(self, conversation: Chat, question: str) -> bool:
        """Writes the answer as it comes and draws its boxes; False where Ctrl-C has stopped it.

        Raises:
          ValueError: a setting is wrong, the model sees no videos, or the device's memory does not suffice.
        """
        query: list[dict[str, Any]] = [*self.shown, {"text": question}]
        self.shown = []  # also where it fails: what cannot be answered is not asked again with the next question
        whole = True
        try:
            with closing(conversation.stream(query)) as pieces:
                with self._waiting("thinking"):
                    first = next(pieces, "")
                for piece in itertools.chain((first,), pieces):
                    self._write(piece)
        except KeyboardInterrupt:
            whole = False
        except jax.errors.JaxRuntimeError as error:
            raise ValueError(f"the device cannot compute the answer: {str(error).splitlines()[0]}") from error
        self._write("\n")
        if not whole:
            self._note("stopped")
        self._draw(conversation)
        return whole

    def _read(self) -> str | None:
        while True:
            try:
                return input("> " if self._interactive else "")
            except EOFError:
                if self._interactive:
                    self._notes.print()
                return None
            except KeyboardInterrupt:
                self._note("\nCtrl-D or /quit ends")

    def _obey(self, conversation: Chat, line: str) -> bool:
        """Does what a line that starts with / says; False where it ends the conversation."""
        command, _, rest = line.strip().partition(" ")
        if command == "/image":
            for path in _paths(command, rest):
                self.shown.append({"image": read_image(path, self._options.allow_urls)})
                before = sum(len(past.query.images) for past in conversation.history)
                self._note(f"Picture {before + sum('image' in each for each in self.shown)}: {path}")
        elif command == "/video":
            for path in _paths(command, rest):
                self.shown.append({"video": read_video(path)})
                before = sum(len(past.query.videos) for past in conversation.history)
                self._note(f"Video {before + sum('video' in each for each in self.shown)}: {path}")
        elif command == "/clear":
            conversation.history.clear()
            self.shown = []
            self._note("the conversation is forgotten")
        elif command == "/help":
            width = max(map(len, COMMANDS))
            self._note("\n".join(f"{name:{width}}  {does}" for name, does in COMMANDS.items()))
        elif command == "/quit":
            return False
        else:
            raise ValueError(f"there is no command {command}; /help lists them, /image FILE shows a picture")
        return True

    def _draw(self, conversation: Chat) -> None:
        drawing = conversation.draw()
        if drawing is None:
            if conversation.history and find_marks(conversation.history[-1].answer):
                self._note("the answer has boxes, and there is no picture to draw them on")
            return
        try:
            with _new_file(self._options.output) as file:
                drawing.picture.save(file, "PNG")
        except OSError as error:
            raise ValueError(f"boxes cannot be written to {self._options.output}: {error.strerror}") from error
        self._note(f"boxes drawn: {file.name}")
        if drawing.legend:
            self._note("no installed font writes these labels (one for Chinese would); they stand there as numbers:")
            self._note("\n".join(drawing.legend))

    def _waiting(self, what: str) -> AbstractContextManager[object]:
        return self._notes.status(what) if self._interactive else nullcontext()

    def _write(self, piece: str) -> None:
        text = piece.translate(_CONTROL)
        if self._answers.is_terminal:
            styled = Text(text)
            styled.highlight_regex(_TAGS, "dim")
            self._answers.print(styled, end="")
        else:
            self._answers.file.write(text)  # as it is: rich would make spaces of tabs
        self._answers.file.flush()

    def _note(self, text: str) -> None:
        self._notes.print(text.translate(_CONTROL), style="dim")


def _paths(command: str, rest: str) -> list[str]:
    """The files of /image or /video: one whose name may hold spaces, or several, quoted as in a shell."""
    rest = rest.strip()
    if not rest:
        raise ValueError(f"{command} needs the name of a file")
    try:
        if Path(rest).is_file():
            return [rest]
        return shlex.split(rest)
    except (OSError, ValueError):  # longer than the system allows; a quotation mark that is not closed
        return [rest]


def _new_file(wanted: Path) -> BufferedWriter:
    """The file, opened for writing, or the first of `answer-2.png`, `answer-3.png`, ... that does not exist."""
    for number in itertools.count(1):
        path = wanted if number == 1 else wanted.with_stem(f"{wanted.stem}-{number}")
        try:
            return path.open("xb")
        except FileExistsError:
            continue
    raise AssertionError("itertools.count has ended")
