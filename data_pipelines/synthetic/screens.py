"""A small world to act in: a screen with icons that open forms, a form with a field and two buttons.

A screen is a value. An action gives the next screen, `render` draws it: both are pure functions, so that an episode can be
played again from its calls. Icons follow the held-out rule of scenes, numbers that of documents.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from data_pipelines.synthetic.backgrounds import Colour
from data_pipelines.synthetic.documents import (
    OVERSAMPLING,
    PlacedLine,
    draw_line,
    sample_text,
    size_for_capitals,
)
from data_pipelines.synthetic.rendering import draw_frame, draw_object
from data_pipelines.synthetic.scenes import Look, Object, annotated, sample_looks
from data_pipelines.synthetic.wording import place
from qwenvl_jax.processing.agent import Action, Call
from qwenvl_jax.processing.markup import SCALE

ACTIONS = (
    Action("Home", "goes to the first screen."),
    Action("Tap", "taps a point."),
    Action("Type", "writes text into the chosen field."),
)
HOME, FORM, SENT = "home", "form", "sent"

WIDTHS, HEIGHTS = (70, 98), (70, 98)
ICONS = (2, 3)
"""Fewest and most icons of the first screen."""
CELLS = tuple((x, y) for y in (0.27, 0.73) for x in (0.27, 0.73))
"""Middles of the places for icons, as shares of the sides."""
ICON = 0.34
"""Extent of an icon, as a share of the shorter side."""
FIELD = (0.1, 0.9, 0.17)
"""Left and right edge of the field and half its height, as shares of the sides."""
FIELD_ROWS = (0.3, 0.68)
"""Middles of a field above the buttons or below them."""
BUTTON = 0.15
"""Half the side of a button, as a share of the sides."""
BUTTON_COLUMNS = (0.25, 0.75)
CAPITAL = 12
"""Height in pixels of a capital in the field."""
FONT = "DejaVuSans-Bold.ttf"

PAPER: Colour = (226, 230, 236)
WHITE: Colour = (255, 255, 255)
INK: Colour = (20, 20, 25)
CHOSEN: Colour = (36, 76, 216)
GREEN: Colour = (38, 158, 52)
RED: Colour = (212, 38, 38)

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Goal:
    """What the user wants: open an icon's form, and, unless `text` is empty, enter it and send the form."""

    icon: int
    text: str = ""


@dataclass(frozen=True)
class Screen:
    """All that an episode is at one time.

    Attributes:
      width, height: in pixels.
      icons: their looks.
      cells: place of each icon, a number of `CELLS`.
      field_row: 0 where forms have their field above the buttons, 1 where below.
      green_column: 0 where the green button is left of the red one, 1 where right.
      goal: of the user.
      page: `HOME`, `FORM` or `SENT`.
      opened: icon whose form was opened last; -1 for none.
      chosen: whether the field is.
      text: in the field, or in what was sent.
    """

    width: int
    height: int
    icons: tuple[Look, ...]
    cells: tuple[int, ...]
    field_row: int
    green_column: int
    goal: Goal
    page: str = HOME
    opened: int = -1
    chosen: bool = False
    text: str = ""

    @property
    def actions(self) -> Sequence[Action]:
        return ACTIONS

    @property
    def task(self) -> str:
        """What the user says."""
        look = self.icons[self.goal.icon]
        wanted = f"Open the {look.colour} {look.shape}"
        return f"{wanted}, enter {self.goal.text} and press the green button." if self.goal.text else f"{wanted}."

    @property
    def solved(self) -> bool:
        """Whether the goal is reached: the right form is open, or the right text was sent from it."""
        if self.opened != self.goal.icon:
            return False
        return (self.page == SENT and self.text == self.goal.text) if self.goal.text else self.page == FORM

    def screenshot(self) -> bytes:
        """What is seen, as PNG."""
        buffer = io.BytesIO()
        render(self).save(buffer, "PNG")
        return buffer.getvalue()

    def after(self, call: Call) -> "Screen":
        """The screen after an action; one that is unknown, misses everything or lacks its argument changes nothing."""
        if call.function == "Home":
            return replace(self, page=HOME, opened=-1, chosen=False, text="")
        if call.function == "Type" and isinstance(text := call.arguments.get("text"), str):
            return replace(self, text=text) if self.page == FORM and self.chosen else self
        if call.function == "Tap" and isinstance(point := call.arguments.get("point"), tuple):
            return self._tapped(next((name for name, box in elements(self) if _inside(point, box)), ""))
        return self

    def _tapped(self, element: str) -> "Screen":
        if element == "field":
            return replace(self, chosen=True)
        if element == "green button":
            return replace(self, page=SENT, chosen=False)
        if element == "red button":
            return replace(self, page=HOME, opened=-1, chosen=False, text="")
        if element:
            return replace(self, page=FORM, opened=[_name(look) for look in self.icons].index(element))
        return self


def _name(look: Look) -> str:
    return f"{look.colour} {look.shape}"


def _inside(point: tuple[int, int], box: Box) -> bool:
    x, y = point[0] / SCALE, point[1] / SCALE
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]


def elements(screen: Screen) -> list[tuple[str, Box]]:
    """What can be tapped: names, and boxes as shares of the sides."""
    if screen.page == HOME:
        half_x = ICON * min(screen.width, screen.height) / screen.width / 2
        half_y = ICON * min(screen.width, screen.height) / screen.height / 2
        middles = [CELLS[cell] for cell in screen.cells]
        return [
            (_name(look), (x - half_x, y - half_y, x + half_x, y + half_y))
            for look, (x, y) in zip(screen.icons, middles)
        ]
    if screen.page == SENT:
        return []
    left, right, half = FIELD
    row, buttons = FIELD_ROWS[screen.field_row], FIELD_ROWS[1 - screen.field_row]
    found = [("field", (left, row - half, right, row + half))]
    for name, column in (("green button", screen.green_column), ("red button", 1 - screen.green_column)):
        x = BUTTON_COLUMNS[column]
        found.append((name, (x - BUTTON, buttons - BUTTON, x + BUTTON, buttons + BUTTON)))
    return found


def sample_screen(rng: np.random.Generator, held_out: bool) -> Screen:
    """The first screen of an episode, with its goal: three in four of them enter a word or a number."""
    looks = sample_looks(rng, int(rng.integers(ICONS[0], ICONS[1] + 1)), held_out)
    cells = tuple(int(cell) for cell in rng.permutation(len(CELLS))[: len(looks)])
    text = sample_text(rng, held_out) if rng.random() < 0.75 else ""
    return Screen(
        width=int(rng.integers(WIDTHS[0], WIDTHS[1] + 1)),
        height=int(rng.integers(HEIGHTS[0], HEIGHTS[1] + 1)),
        icons=looks,
        cells=cells,
        field_row=int(rng.integers(2)),
        green_column=int(rng.integers(2)),
        goal=Goal(int(rng.integers(len(looks))), text),
    )


def expert(screen: Screen) -> Call | None:
    """The next call on the shortest way to the goal; None where it is reached."""
    goal = screen.goal
    if screen.solved:
        return None
    if screen.page == HOME:
        return _tap(screen, _name(screen.icons[goal.icon]))
    if screen.page == SENT or screen.opened != goal.icon:
        return Call("", "Home", {})
    if screen.text == goal.text:
        return _tap(screen, "green button")
    return Call("", "Type", {"text": goal.text}) if screen.chosen else _tap(screen, "field")


def middle(box: Box) -> tuple[int, int]:
    """A box's middle in thousandths, rounded as annotations are."""
    x1, y1, x2, y2 = box
    return int(annotated((x1 + x2) / 2, 1.0) * SCALE), int(annotated((y1 + y2) / 2, 1.0) * SCALE)


def _tap(screen: Screen, element: str) -> Call:
    """The call, behind what is tapped and where it is in words: the paper's agent too speaks before it acts."""
    x1, y1, x2, y2 = box = dict(elements(screen))[element]
    thought = f"The {element} is at the {place((x1 + x2) / 2, (y1 + y2) / 2)}."
    return Call(thought, "Tap", {"point": middle(box)})


def render(screen: Screen) -> Image.Image:
    """The screen as it is seen; the same screen gives the same pixels."""
    size = (screen.width, screen.height)
    if screen.page == SENT:
        picture = Image.new("RGB", size, GREEN)
        _write(picture, "SENT", screen.width / 2, screen.height / 2, WHITE)
        return picture
    picture = Image.new("RGB", size, PAPER)
    for name, box in elements(screen):
        x1, y1, x2, y2 = (share * side for share, side in zip(box, size * 2))
        if screen.page == HOME:
            look = screen.icons[[_name(icon) for icon in screen.icons].index(name)]
            item = Object(look, (x1 + x2) / 2, (y1 + y2) / 2, 0.9 * (x2 - x1), 0.0)
            draw_object(np.random.default_rng(0), picture, item)
            continue
        fill, border = {"field": (WHITE, CHOSEN if screen.chosen else INK), "green button": (GREEN, INK)}.get(
            name, (RED, INK)
        )
        width = 3 if name == "field" and screen.chosen else 1
        ImageDraw.Draw(picture).rectangle([x1, y1, x2, y2], fill=fill, outline=border, width=width)
        if name == "field" and screen.text:
            _write(picture, screen.text, (x1 + x2) / 2, (y1 + y2) / 2, INK)
    draw_frame(picture)
    return picture


def _write(picture: Image.Image, text: str, x: float, y: float, ink: Colour) -> None:
    """The start of a text around a point, smaller where it would not fit."""
    shown = "".join(character for character in text[:12] if character.isprintable()).strip() or "?"
    for capital in range(CAPITAL, 3, -1):
        line = PlacedLine(shown, FONT, size_for_capitals(FONT, capital * OVERSAMPLING), x, y, 0.0)
        if line.quad[1][0] - line.quad[0][0] < 0.76 * picture.width:
            break
    draw_line(picture, line, ink)
