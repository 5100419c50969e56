"""How full planned rows are, and how fast they are planned: `python -m launch.benchmarks.packing` prints a table.

Lengths come from histograms that stand here, so that two versions of the packer see the same samples. Those of stage 2 have
Table 3's shares and 256 + 2 tokens of a picture; the paper tells nothing of its texts, so their lengths are assumed: short
captions and questions, regions with one box, documents of some lines, text up to a whole row; 396 tokens a sample on
average.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tyro

from configs.qwen_vl import MULTITASK_MIXTURE
from data_pipelines.mixture import GlobalShuffle, Mixture
from data_pipelines.packing import Efficiency, PackingPlan
from qwenvl_jax.config import PAPER_VIDEOS, RELEASED_IMAGES
from qwenvl_jax.processing.patches import grid_of, resize_within
from qwenvl_jax.processing.video import VideoInfo, video_grid

PICTURE_TOKENS = 258
EDGES = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 1790)
"""Of the bins, in tokens of text; 1,790 and a picture fill a row."""
STAGE_2: Mapping[str, Sequence[int]] = {
    # task -> samples of a thousand in each bin
    "caption": (60, 320, 330, 230, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    "vqa": (80, 280, 220, 220, 100, 60, 40, 0, 0, 0, 0, 0, 0, 0, 0),
    "caption_with_grounding": (0, 0, 0, 30, 120, 350, 250, 180, 60, 10, 0, 0, 0, 0, 0),
    "referring_grounding": (0, 60, 500, 340, 80, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    "grounded_captioning": (0, 60, 500, 340, 80, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    "ocr": (0, 0, 0, 20, 40, 120, 130, 200, 150, 160, 80, 60, 25, 10, 5),
    "text": (0, 10, 20, 50, 60, 90, 80, 130, 110, 150, 90, 90, 60, 30, 30),
}
SAMPLES = 20_000
"""Of a task; they come again where more are drawn."""
WINDOW = 1024


@dataclass(frozen=True)
class PackingOptions:
    """How much is packed."""

    windows: int = 40
    """Of 1,024 samples."""


def text_lengths(counts: Sequence[int]) -> np.ndarray:
    """[SAMPLES] int64 tokens of a histogram, in no order, evenly spread within the bins."""
    rng = np.random.default_rng(0)
    bins = rng.choice(len(counts), SAMPLES, p=np.asarray(counts) / sum(counts))
    edges = np.asarray(EDGES)
    return rng.integers(edges[bins], edges[bins + 1])


def stage_2(images: int, within_task: bool, length: int = 2048) -> PackingPlan:
    """Stage 2's rows with so many image slots."""
    tokens, vision, weights, groups = [], [], [], []
    for number, component in enumerate(MULTITASK_MIXTURE):
        slots = int(component.task != "text")
        tokens.append(text_lengths(STAGE_2[component.task]) + slots * PICTURE_TOKENS)
        vision.append(np.full(SAMPLES, slots))
        weights.append(component.weight)
        groups.append(number if within_task else 0)
    mixture = Mixture([GlobalShuffle(SAMPLES, number) for number in range(len(tokens))], weights)
    return PackingPlan(mixture, tokens, vision, groups, length, images, WINDOW, seed=0)


def native_lengths(count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and patches of text alone, images of 56 to 4,096 pixels a side and videos of 2 to 60 seconds."""
    rng = np.random.default_rng(0)
    columns = []
    for kind in rng.choice(3, count, p=[0.2, 0.7, 0.1]):
        words = int(rng.lognormal(np.log(150), 0.8)) + 8
        if kind == 0:
            columns.append((min(3 * words, length), 0))
            continue
        if kind == 1:
            width, height = np.exp(rng.uniform(np.log(56), np.log(4097), 2)).astype(int).tolist()
            grid = grid_of(*resize_within(height, width, RELEASED_IMAGES))
        else:
            width, height = [(640, 360), (1280, 720), (320, 240)][rng.integers(3)]
            grid = video_grid(VideoInfo(int(25 * rng.uniform(2, 60)), 25.0, height, width), PAPER_VIDEOS, 14)
        vision = min(grid.tokens, length - words - 2)
        columns.append((words + 2 + vision, 4 * vision))
    tokens, patches = zip(*columns)
    return np.array(tokens), np.array(patches)


def native(length: int, count: int = 4096) -> tuple[PackingPlan, int]:
    """Rows of native resolution, and their patches: as many as the mixture has on average; what has more is made smaller."""
    tokens, patches = native_lengths(count, length)
    room = -(-int(patches.sum() / tokens.sum() * length) // 512) * 512
    over = -(-np.maximum(patches - room, 0) // 4)
    mixture = Mixture([GlobalShuffle(count, 0)], [1.0])
    return PackingPlan(mixture, [tokens - over], [patches - 4 * over], [0], length, room, WINDOW, seed=0), room


def packed(plan: PackingPlan, windows: int) -> tuple[Efficiency, float]:
    """What the rows of these windows use, and samples planned in a second of CPU time, order and packing together."""
    began = time.process_time()
    for window in range(windows):
        plan.window_rows(window)
    seconds = time.process_time() - began
    return plan.efficiency(windows), windows * WINDOW / seconds


def main() -> None:
    options = tyro.cli(PackingOptions)
    print("| rows | tokens used | image slots or patches used | samples/s of a core |\n|---|--:|--:|--:|")
    for images in (6, 7):
        for within_task in (False, True):
            how = "within tasks" if within_task else "across tasks"
            show(f"stage 2, 2,048 tokens, {images} images, {how}", stage_2(images, within_task), options.windows)
    for length in (16_384, 20_480, 32_768):
        plan, room = native(length)
        show(f"Qwen2-VL native, {length:,} tokens, {room:,} patches", plan, options.windows)


def show(what: str, plan: PackingPlan, windows: int) -> None:
    """A line of the table."""
    used, rate = packed(plan, windows)
    print(f"| {what} | {used.tokens:.3f} | {used.vision:.3f} | {rate:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
