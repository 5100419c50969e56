"""Parity with `Qwen2VLForConditionalGeneration` of transformers 4.57.6 in float32, on random weights."""

import jax
import numpy as np
import pytest
import torch
from small_qwen2_vl import PAD, SmallSample, make_sample, pack

from qwenvl_jax.processing.patches import Grid, normalize_patches

LENGTH, PATCHES = 64, 256

SAMPLES = {
    "text": (12,),
    "one image": (3, Grid(1, 4, 6), 5),
    "several images": (2, Grid(1, 4, 4), 3, Grid(1, 2, 8), Grid(1, 6, 4), 4),
    "video with more slices than its height or width": (3, Grid(6, 4, 4), 6),
    "mixed": (1, Grid(3, 4, 2), 2, Grid(1, 4, 6), 3, Grid(4, 2, 2), Grid(1, 2, 2), 5),
}


@pytest.fixture(scope="module")
def samples() -> dict[str, SmallSample]:
    rng = np.random.default_rng(0)
    return {name: make_sample(rng, *pieces) for name, pieces in SAMPLES.items()}


def inputs_of(samples: list[SmallSample], left: bool) -> dict[str, torch.Tensor]:
    """What the original is called with: padded rows, and pixels of images and of videos apart."""
    width = max(len(sample.tokens) for sample in samples)
    ids, mask = np.full((len(samples), width), PAD), np.zeros((len(samples), width), int)
    found: dict[str, list] = {"pixel_values": [], "image_grid_thw": [], "pixel_values_videos": [], "video_grid_thw": []}
    for row, sample in enumerate(samples):
        here = slice(width - len(sample.tokens), width) if left else slice(len(sample.tokens))
        ids[row, here], mask[row, here] = sample.tokens, 1
        start = 0
        for grid in sample.grids:
            pixels, grids = (
                ("pixel_values", "image_grid_thw") if grid.frames == 1 else ("pixel_values_videos", "video_grid_thw")
            )
            found[pixels].append(normalize_patches(sample.patches[start : start + grid.patches]))
            found[grids].append([grid])
            start += grid.patches
    visual = {name: torch.as_tensor(np.concatenate(arrays)) for name, arrays in found.items() if arrays}
    return {"input_ids": torch.as_tensor(ids), "attention_mask": torch.as_tensor(mask), **visual}


@pytest.fixture(scope="module")
def logits_of(qwen2_architecture, qwen2_parameters):
    """batch -> logits; one compiled function for rows of one shape."""
    return jax.jit(lambda batch: qwen2_architecture.assemble(qwen2_parameters)(batch))


@pytest.mark.parametrize("left", [False, True], ids=["right-padded", "left-padded"])
def test_logits(samples, original, logits_of, left: bool) -> None:
    """Text, images, videos and all of them together, as rows of one batch."""
    with torch.no_grad():
        theirs = original(**inputs_of(list(samples.values()), left)).logits.numpy()
    batch = pack([[sample] for sample in samples.values()], LENGTH, PATCHES, left)
    ours = np.asarray(logits_of(batch))
    for row, (name, sample) in enumerate(samples.items()):
        count = len(sample.tokens)
        a, b = (ours[row, -count:], theirs[row, -count:]) if left else (ours[row, :count], theirs[row, :count])
        print(name, np.abs(a - b).max(), np.abs(b).mean())
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=0, err_msg=name)
