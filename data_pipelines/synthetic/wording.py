"""What is said about scenes: captions, questions with answers, and phrases, in short plain English and some
Chinese.

Answers are balanced as far as a scene allows: who does not look at the picture scores low.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from data_pipelines.records import Question, Region
from data_pipelines.synthetic.scenes import COLOURS, SHAPES, Object, Scene
from data_pipelines.tasks import CHINESE_KIND, PLACES_KIND
from qwenvl_jax.processing.markup import format_box, format_ref
from qwenvl_jax.processing.prompts import CAPTION_PROMPT, CAPTION_PROMPT_ZH, GROUNDED_CAPTION_PROMPT

T = TypeVar("T")

PLURALS = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "cross": "crosses",
    "ring": "rings",
}

CHINESE = {
    **dict(zip(SHAPES, ("圆", "方块", "三角", "十字", "环"))),
    **dict(zip(PLURALS.values(), ("圆", "方块", "三角", "十字", "环"))),
    **dict(zip(COLOURS, ("红色", "绿色", "蓝色", "黄色", "白色", "黑色"))),
    **{"left": "左边", "right": "右边", "above": "上面", "below": "下面"},
    **{"yes": "是", "no": "否", "object": "物体", "objects": "物体"},
    **{"upper left": "左上", "upper center": "上面", "upper right": "右上"},
    **{"middle left": "左边", "middle center": "中间", "middle right": "右边"},
    **{"lower left": "左下", "lower center": "下面", "lower right": "右下"},
}

TEMPLATES = {
    "colour": ("What color is the {0}?", "{0}是什么颜色?"),
    "shape": ("What shape is the {0}?", "{0}是什么形状?"),
    "count": ("How many {0} are there?", "有几个{0}?"),
    "exists": ("Is there a {0}?", "是否有{0}?"),
    "is colour": ("Is the {0} {1}?", "{0}是否是{1}?"),
    "left": ("Is the {0} left of the {1}?", "{0}是否在{1}的左边?"),
    "right": ("Is the {0} right of the {1}?", "{0}是否在{1}的右边?"),
    "above": ("Is the {0} above the {1}?", "{0}是否在{1}的上面?"),
    "below": ("Is the {0} below the {1}?", "{0}是否在{1}的下面?"),
    "where": ("Where is the {0} relative to the {1}?", "{0}在{1}的哪边?"),
    "place": ("Where is the {0}?", "{0}在哪里?"),
    "outermost left": ("What is the leftmost object?", "最左边是什么?"),
    "outermost right": ("What is the rightmost object?", "最右边是什么?"),
}
"""English and Chinese wording; {0} and {1} are phrases such as "red circle"."""

PLACES_PROMPT = "Generate the caption in English with places:"
ROWS, COLUMNS = ("upper", "middle", "lower"), ("left", "center", "right")
"""Names of the thirds of a picture."""

CHINESE_SHARE = 0.08
COUNTED = 0.5
"""Share of scenes in which a number is asked."""
CLEARLY_APART = 0.12
"""Least distance of two centres, as a share of the side, for a yes/no question about their relation."""


class Fact(NamedTuple):
    """A question before it is worded, all in English words.

    Attributes:
      template: name in `TEMPLATES`.
      phrases: what the template is filled with.
      answer: the answer.
      tells: what question and answer tell: names of objects, and pairs of names.
      secret: what gives the answer away when it was told before.
    """

    template: str
    phrases: tuple[str, ...]
    answer: str
    tells: tuple[str, ...] = ()
    secret: str = ""


def name(item: Object) -> str:
    """ "red circle": unique in a scene."""
    return f"{item.look.colour} {item.look.shape}"


def translate(phrase: str) -> str:
    """An English phrase of the world ("red circle", "3") in Chinese; numbers stay."""
    return CHINESE.get(phrase) or "的".join(CHINESE.get(word, word) for word in phrase.split())


def word(fact: Fact, kind: str, chinese: bool = False) -> Question:
    """The fact as question and answer."""
    english, in_chinese = TEMPLATES[fact.template]
    if chinese:
        return Question(in_chinese.format(*map(translate, fact.phrases)), translate(fact.answer), kind)
    return Question(english.format(*fact.phrases), fact.answer, kind)


def unique(scene: Scene, attribute: Callable[[Object], str]) -> list[Object]:
    """The objects whose attribute no other object of the scene has."""
    values = [attribute(item) for item in scene.objects]
    return [item for item, value in zip(scene.objects, values) if values.count(value) == 1]


def pick(rng: np.random.Generator, values: Sequence[T]) -> T:
    """One of the values, each as likely as any other."""
    return values[int(rng.integers(len(values)))]


def refer(scene: Scene, item: Object, rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    """A phrase for one object, and what the phrase tells: "red cross", or "cross" or "red object" where that is
    enough.
    """
    phrases = [name(item)]
    if sum(other.look.shape == item.look.shape for other in scene.objects) == 1:
        phrases.append(item.look.shape)
    if sum(other.look.colour == item.look.colour for other in scene.objects) == 1:
        phrases.append(f"{item.look.colour} object")
    phrase = pick(rng, phrases)
    return phrase, (phrase,) if phrase == name(item) else ()


def colour_facts(scene: Scene, rng: np.random.Generator) -> list[Fact]:
    """Colour of an object that its shape tells apart."""
    return [
        Fact("colour", (item.look.shape,), item.look.colour, (name(item),), name(item))
        for item in unique(scene, lambda item: item.look.shape)
    ]


def shape_facts(scene: Scene, rng: np.random.Generator) -> list[Fact]:
    """Shape of an object that its colour tells apart."""
    return [
        Fact("shape", (f"{item.look.colour} object",), item.look.shape, (name(item),), name(item))
        for item in unique(scene, lambda item: item.look.colour)
    ]


def count_facts(scene: Scene, rng: np.random.Generator) -> list[Fact]:
    """In some scenes, the number of all objects or that of some kind of them, each number equally likely."""
    shapes = [item.look.shape for item in scene.objects]
    colours = [item.look.colour for item in scene.objects]
    by_number: dict[int, list[str]] = {}
    for shape in SHAPES:
        by_number.setdefault(shapes.count(shape), []).append(PLURALS[shape])
    for colour in COLOURS:
        by_number.setdefault(colours.count(colour), []).append(f"{colour} objects")
    number = pick(rng, sorted(by_number))
    kind = pick(rng, by_number[number])
    facts = [Fact("count", (kind,), str(number)), Fact("count", ("objects",), str(len(scene.objects)))]
    return [pick(rng, facts)] if rng.random() < COUNTED else []


def _exists(scene: Scene, rng: np.random.Generator) -> Fact | None:
    present = [name(item) for item in scene.objects]
    if rng.random() < 0.5:
        phrase = pick(rng, present)
        return Fact("exists", (phrase,), "yes", (phrase,), phrase)
    look = pick(rng, scene.objects).look
    # Most of the attributes that are exchanged for others belong to another object of the scene.
    shapes = [item.look.shape for item in scene.objects] if rng.random() < 0.6 else list(SHAPES)
    colours = [item.look.colour for item in scene.objects] if rng.random() < 0.6 else list(COLOURS)
    absent = [f"{look.colour} {shape}" for shape in shapes] + [f"{colour} {look.shape}" for colour in colours]
    absent = [phrase for phrase in absent if phrase not in present]
    # As `yes` is not asked about objects that were told, `no` is not either: both stay equally likely.
    return Fact("exists", (pick(rng, absent),), "no", (), f"{look.colour} {look.shape}") if absent else None


def yes_no_facts(scene: Scene, rng: np.random.Generator) -> list[Fact]:
    """Each as likely yes as no; what does not exist differs from an object in one attribute."""
    facts = [fact for fact in (_exists(scene, rng), _exists(scene, rng)) if fact]
    by_shape = unique(scene, lambda item: item.look.shape)
    if by_shape:
        item = pick(rng, by_shape)
        colour, answer = item.look.colour, "yes"
        if rng.random() < 0.5:
            colour, answer = pick(rng, [other for other in COLOURS if other != colour]), "no"
        tells = (name(item),) if answer == "yes" else ()
        facts.append(Fact("is colour", (item.look.shape, colour), answer, tells, name(item)))
    return facts


def _two(scene: Scene, rng: np.random.Generator) -> tuple[Object, Object]:
    first, second = rng.permutation(len(scene.objects))[:2]
    return scene.objects[first], scene.objects[second]


def _relation(scene: Scene, rng: np.random.Generator, direction_wanted: bool) -> Fact | None:
    """How two objects lie to each other: in one word where one direction is clear, or as yes or no."""
    first, second = _two(scene, rng)
    dx, dy = (first.x - second.x) / scene.width, (first.y - second.y) / scene.height
    horizontal, vertical = ("left", "right"), ("above", "below")
    if dx > 0:
        horizontal = ("right", "left")
    if dy > 0:
        vertical = ("below", "above")
    (phrase, told), (other, other_told) = refer(scene, first, rng), refer(scene, second, rng)
    names = (phrase, other)
    pair = " and ".join(sorted((name(first), name(second))))
    tells = (*told, *other_told, pair)
    if direction_wanted:
        if max(abs(dx), abs(dy)) < 2 * min(abs(dx), abs(dy)):
            return None
        return Fact("where", names, horizontal[0] if abs(dx) > abs(dy) else vertical[0], tells, pair)
    clear = [words for words, distance in ((horizontal, dx), (vertical, dy)) if abs(distance) > CLEARLY_APART]
    if not clear:
        return None
    is_so, is_not = pick(rng, clear)
    return Fact(is_so, names, "yes", tells, pair) if rng.random() < 0.5 else Fact(is_not, names, "no", tells, pair)


def relation_facts(scene: Scene, rng: np.random.Generator) -> list[Fact]:
    """A yes/no question on two objects, the direction between two objects, and the outermost object."""
    if len(scene.objects) < 2:
        return []
    side, outermost = ("left", scene.objects[0]) if rng.random() < 0.5 else ("right", scene.objects[-1])
    facts = [
        Fact(f"outermost {side}", (), name(outermost), (name(outermost),)),
        _relation(scene, rng, direction_wanted=True),
        _relation(scene, rng, direction_wanted=False),
    ]
    return [fact for fact in facts if fact]


PLACE = "place"
"""Kind of the questions that stand behind all others: an answer to one tells half of a relation."""

KINDS: dict[str, Callable[[Scene, np.random.Generator], list[Fact]]] = {
    "colour": colour_facts,
    "shape": shape_facts,
    "count": count_facts,
    "yes/no": yes_no_facts,
    "relation": relation_facts,
}
"""Kind of question -> what finds its facts."""
ASKED: Mapping[str, int] = {"colour": 3, "shape": 3, "count": 1, "yes/no": 2, "relation": 2}
"""How many questions of a kind are asked about one scene, at most."""
ASKED_HARD: Mapping[str, int] = {"colour": 1, "shape": 1, "count": 1, "yes/no": 2, "relation": 3, PLACE: 2}
"""As ASKED, for training where most questions shall be of the kinds that take longest to learn, and with questions on single
places, which no held-out scene is asked: where things lie is needed for relations, boxes and what is tapped on a screen."""


def questions(scene: Scene, rng: np.random.Generator, asked_of: Mapping[str, int] = ASKED) -> tuple[Question, ...]:
    """Questions of all kinds in random order, some of them in Chinese; up to `asked_of` of each, those on places last.

    They are asked behind each other, so a question is left out when an earlier one gave its answer away ("Is
    the red ring left of the cross?" tells the ring's colour): each answer has to be looked up in the picture.
    """
    found = []
    for kind, find in KINDS.items():
        facts = find(scene, rng)
        found += [(kind, facts[i]) for i in rng.permutation(len(facts))[: asked_of[kind]]]
    told: set[str] = set()
    asked = []
    for i in rng.permutation(len(found)):
        kind, fact = found[i]
        if fact.secret not in told:
            asked.append(word(fact, kind, chinese=rng.random() < CHINESE_SHARE))
            told.update(fact.tells)
    for fact in place_facts(scene, rng)[: asked_of[PLACE]] if PLACE in asked_of else ():
        asked.append(word(fact, PLACE, chinese=rng.random() < CHINESE_SHARE))
    return tuple(asked)


def _listed(phrases: list[str]) -> str:
    return " and ".join((", ".join(phrases[:-1]), phrases[-1])) if len(phrases) > 1 else phrases[0]


def caption(scene: Scene) -> Question:
    """ "a red circle, a blue square and a green cross": colour and shape, from left to right."""
    return Question(CAPTION_PROMPT, _listed([f"a {name(item)}" for item in scene.objects]), "en")


def caption_zh(scene: Scene) -> Question:
    """ "红色的圆、蓝色的方块", from left to right."""
    return Question(CAPTION_PROMPT_ZH, "、".join(translate(name(item)) for item in scene.objects), CHINESE_KIND)


def place(x: float, y: float) -> str:
    """ "upper left": the row and the column of a point, given as shares of the sides."""
    row, column = (min(int(3 * share), 2) for share in (y, x))
    return f"{ROWS[row]} {COLUMNS[column]}"


def place_facts(scene: Scene, rng: np.random.Generator) -> list[Fact]:
    """Where each object lies, in random order."""
    return [
        Fact(PLACE, (refer(scene, item, rng)[0],), place(item.x / scene.width, item.y / scene.height))
        for item in (scene.objects[i] for i in rng.permutation(len(scene.objects)))
    ]


def caption_with_places(scene: Scene) -> Question:
    """ "a red circle at the upper left and a blue square at the lower center", from left to right.

    A caption names things from left to right, and a merger that has learned from such captions alone tells a language model
    columns and few rows.
    """
    phrases = [f"a {name(item)} at the {place(item.x / scene.width, item.y / scene.height)}" for item in scene.objects]
    return Question(PLACES_PROMPT, _listed(phrases), PLACES_KIND)


def box_markup(scene: Scene, item: Object) -> str:
    """`<box>` markup of an object's box."""
    return format_box(scene.annotated_box(item), scene.width, scene.height)


def grounded_caption(scene: Scene) -> Question:
    """The English caption with each object's phrase and box marked up."""
    phrases = [format_ref(f"a {name(item)}") + box_markup(scene, item) for item in scene.objects]
    return Question(GROUNDED_CAPTION_PROMPT, _listed(phrases), "en")


def regions(scene: Scene, rng: np.random.Generator) -> tuple[Region, ...]:
    """ "the red circle" with its box in pixels, for each object, in random order.

    They are asked behind each other. From left to right, as captions name them, the place in the row would tell which object
    is meant, and nothing would be looked up: a model so taught gave the leftmost box to every phrase that was asked first.
    """
    items = [scene.objects[i] for i in rng.permutation(len(scene.objects))]
    return tuple(Region(f"the {name(item)}", (scene.annotated_box(item),)) for item in items)
