"""What each corpus's pairs must satisfy, as data.

The paper names its rules and how much each corpus kept (appendix A.1, Table 2), not its thresholds. The values here
are starting points: aspect and side are DataComp's basic filter (aspect 3, 200 pixels), lengths are ours. What makes
the paper's keep rate come out is the CLIP cut, which is calibrated (`data_pipelines.cleaning.calibration`).
"""

from dataclasses import dataclass, replace

ASPECT, SMALL, CLIP, LETTERS, EMOJI, LENGTH, HTML, IRREGULAR = (
    "aspect ratio too large",
    "picture too small",
    "CLIP score too low",
    "letters neither English nor Chinese",
    "emoji",
    "text too short or too long",
    "nothing left behind HTML",
    "nothing left behind irregular patterns",
)
TAGS = "special tags in the text"
WEB_RULES = (ASPECT, SMALL, CLIP, LETTERS, EMOJI, LENGTH, HTML, IRREGULAR)
"""The eight rules for pairs from the web, in the paper's order."""


@dataclass(frozen=True)
class Thresholds:
    """The rules of a corpus and their numbers."""

    rules: tuple[str, ...] = WEB_RULES
    """Names of `data_pipelines.cleaning.rules.RULES`, in the order in which they are asked."""
    keep_rate: float | None = None
    """Share of the pairs that the paper kept (Table 2); a corpus with scores and rule CLIP is calibrated to it."""
    clip_cut: float | None = None
    """Least CLIP score; None keeps every score."""
    max_aspect: float = 3.0
    """Longer side over shorter side."""
    min_side: int = 200
    """Pixels of the shorter side, as the picture stood on the web."""
    min_characters: int = 5
    max_characters: int = 400
    min_words: int = 2
    """Of a text in an alphabet; Chinese has no spaces."""
    accents: bool = False
    """Whether letters such as é count as English: the paper's rule drops them."""
    longest_text: bool = False
    """Keeps the longest of several texts of one picture, as the paper does for academic captions."""
    near_duplicate_bits: int | None = None
    """Leaves a picture out where an earlier one's perceptual hash differs in at most so many of 64 bits
    (`data_pipelines.cleaning.near_duplicates`). No rule of the paper, so None for every corpus: not asked."""


WEB = Thresholds()
CHINESE = replace(WEB, min_characters=2)
ACADEMIC = Thresholds(rules=(TAGS,), longest_text=True)

CORPORA: dict[str, Thresholds] = {
    "web": WEB,
    "laion_en": replace(WEB, keep_rate=0.14),
    "laion_coco": replace(WEB, keep_rate=0.50),
    "datacomp": replace(WEB, keep_rate=0.21),
    "coyo": replace(WEB, keep_rate=0.28),
    "laion_zh": replace(CHINESE, keep_rate=0.97),
    "cc12m": replace(ACADEMIC, keep_rate=0.66),
    "cc3m": replace(ACADEMIC, keep_rate=1.00),
    "sbu": replace(ACADEMIC, keep_rate=0.80),
    "coco_caption": replace(ACADEMIC, keep_rate=1.00),
    "grit": Thresholds(rules=()),
}
"""`--corpus` -> its thresholds. `web` has no published keep rate, so its CLIP scores are not cut. GRIT is chosen by its
expressions (`data_pipelines.cleaning.grounding`) and has no rule on pairs."""


def thresholds_of(corpus: str) -> Thresholds:
    """Raises ValueError for a corpus that has none."""
    if corpus not in CORPORA:
        raise ValueError(f"there are no thresholds for corpus {corpus!r}; there are {', '.join(CORPORA)}")
    return CORPORA[corpus]
