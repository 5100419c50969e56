"""What transformers' Qwen2-VL is called with for samples of `small_qwen2_vl`."""

import numpy as np
import torch
from small_qwen2_vl import PAD, SmallSample

from qwenvl_jax.processing.patches import normalize_patches


def columns(sample: SmallSample, width: int, left: bool) -> slice:
    """Where a sample's tokens stand in a padded row."""
    return slice(width - len(sample.tokens), width) if left else slice(len(sample.tokens))


def inputs_of(samples: list[SmallSample], left: bool) -> dict[str, torch.Tensor]:
    """What the original is called with: padded rows, and pixels of images and of videos apart."""
    width = max(len(sample.tokens) for sample in samples)
    ids, mask = np.full((len(samples), width), PAD), np.zeros((len(samples), width), int)
    found: dict[str, list] = {"pixel_values": [], "image_grid_thw": [], "pixel_values_videos": [], "video_grid_thw": []}
    for row, sample in enumerate(samples):
        here = columns(sample, width, left)
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
