"""The official VQA score (VQAv2, OKVQA, TextVQA, VizWiz), with the quirks of its evaluation code.

Source: `PythonEvaluationTools/vqaEvaluation/vqaEval.py` of VQA (Antol et al., ICCV 2015), which
`eval_mm/vqa_eval.py` of the original carries. Published numbers contain these quirks, so they stay:

- the expression that drops periods means "not after a digit" but says something that is always true;
- `re.UNICODE` is passed where the number of replacements belongs, so at most 32 periods of a text are
  dropped;
- one comma between digits anywhere makes *every* punctuation mark vanish instead of becoming a space;
- true answers lose punctuation only where annotators disagree, and keep their case, articles and number
  words.
"""

import re
from collections.abc import Sequence

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")
DIGIT_COMMA = re.compile(r"(\d)(,)(\d)")
MAX_PERIODS = int(re.UNICODE)
ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip

_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _damaged(word: str) -> list[str]:
    return [word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'"]


# A word that lost one of its apostrophes gets it back. Upstream lists each damaged spelling; all that can
# match lower-cased text follow this rule ("Im" never matches), but for one entry that goes the other way
# round.
CONTRACTIONS = {spelling: word for word in _CONTRACTED.split() for spelling in _damaged(word)}
CONTRACTIONS["somebody'd"] = "somebodyd"


def strip_punctuation(text: str) -> str:
    """`processPunctuation` of the official code; see the module docstring for its quirks."""
    stripped = text
    comma = DIGIT_COMMA.search(text) is not None
    for mark in PUNCTUATION:
        beside_space = mark + " " in text or " " + mark in text
        stripped = stripped.replace(mark, "" if beside_space or comma else " ")
    return PERIOD.sub("", stripped, count=MAX_PERIODS)


def normalise_answer(answer: str) -> str:
    """A predicted answer as the official code compares it: punctuation, case, number words, articles,
    contractions.
    """
    text = strip_punctuation(answer.replace("\n", " ").replace("\t", " ").strip())
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_score(predicted: str, annotations: Sequence[str]) -> float:
    """The score of one answer in [0, 1]: min(1, matches / 3) with each annotator left out once, averaged.

    Args:
      predicted: the model's answer.
      annotations: one answer of each annotator (VQAv2 has ten).

    Raises:
      ValueError: if there are no annotations.
    """
    if not annotations:
        raise ValueError("no annotations: the VQA score needs the answer of each annotator")
    true = list(annotations)
    if len(set(true)) > 1:
        true = [strip_punctuation(answer) for answer in true]
    ours = normalise_answer(predicted)
    matches = [answer == ours for answer in true]
    total = sum(matches)
    return sum(min(1.0, (total - match) / 3) for match in matches) / len(matches)
