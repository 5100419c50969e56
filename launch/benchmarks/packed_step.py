"""Training steps of Qwen2-VL on the same samples: packed, padded one to a row, and by transformers in PyTorch.

`python -m launch.benchmarks.packed_step [--data DIR] [--rows N] [--repeats N]` prints samples/s of each, measured in turns
in one process, so that a busy machine slows all of them: forward, backward, clipping and AdamW of all parameters in float32,
for the model of `tiny-qwen2` with the published activation. Pixels are decoded before. The losses show that all compute one
thing.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
import tyro
from transformers import Qwen2VLConfig as TheirConfig
from transformers import Qwen2VLForConditionalGeneration

from configs.tiny_qwen2 import MODEL, tiny_qwen2
from data_pipelines.loader import open_loader
from data_pipelines.tasks import tasks_of
from qwenvl_jax.batch import Batch, row_of
from qwenvl_jax.config import MeshConfig, ParameterRule, Qwen2VLConfig, Run, Schedule, Stage
from qwenvl_jax.models.parameters import Parameters, build, initialize
from qwenvl_jax.models.qwen2_vl.weights import layout
from qwenvl_jax.models.weights import to_original
from qwenvl_jax.parallel.mesh import make_mesh
from qwenvl_jax.processing.encoders import Encoder, stage_encoder
from qwenvl_jax.processing.patches import normalize_patches, patchify
from qwenvl_jax.processing.qwen2_tokens import VIDEO_PAD
from qwenvl_jax.processing.visual_sample import EncodedVisualSample
from qwenvl_jax.training.compilation import compile_step, on_devices, trace_step
from qwenvl_jax.training.loop import initial_state, put_batch

RATE = 1e-4
TRAIN_ALL = (ParameterRule(".*"),)


@dataclass(frozen=True)
class Options:
    """Samples per second of a training step in three ways."""

    data: Path = Path("data/tiny-qwen2")
    """The native world."""
    rows: int = 4
    """Packed rows of a batch."""
    repeats: int = 5


class Prepared(NamedTuple):
    """A sample's ids, and the frames [F, Y, X, 3] of its visuals."""

    encoded: EncodedVisualSample
    frames: list[np.ndarray]


def prepare(run: Run, stage: Stage, encoder: Encoder, rows: int) -> list[list[Prepared]]:
    """The samples of the stage's first rows, as the plan packs them."""
    with closing(open_loader(run, stage)) as loader:
        tasks = tasks_of(run.model)

        def sample(item: Any) -> Prepared:
            samples = loader.components[item.component]
            made = tasks[samples.component.task](samples.source[int(samples.records[item.sample])])
            if made is None:
                raise ValueError(f"{samples.source.name}: record {item.sample} is not the one that was measured")
            encoded = encoder.encode(made)
            return Prepared(encoded, encoder.pixels(made, encoded))

        return [[sample(item) for item in loader.plan.row(number)] for number in range(rows)]


def batch_of(encoder: Encoder, rows: Sequence[Sequence[Prepared]], length: int, patches: int) -> Batch:
    """Rows of so many tokens and patches."""
    batch = encoder.empty(len(rows), length, patches)
    for number, samples in enumerate(rows):
        row, start, vision = row_of(batch, number), 0, 0
        for segment, sample in enumerate(samples, 1):
            encoder.place(row, start, vision, *sample)
            end = start + len(sample.encoded.tokens)
            row.segment_ids[start:end] = segment
            start, vision = end, vision + sample.encoded.vision
    return batch


def ours(run: Run, stage: Stage, parameters: Parameters, batch: Batch) -> Callable[[], float]:
    """A step on a batch, as `train` compiles it; gives the loss."""
    stage = dataclasses.replace(
        stage, rows=len(batch.tokens), sequence_length=batch.tokens.shape[1], patches_per_row=batch.patches.shape[1]
    )
    mesh = make_mesh(run.mesh, jax.devices()[:1])
    architecture = build(run.model, run.precision)
    copies = jax.tree.map(jax.numpy.copy, parameters)  # steps consume what they are given
    state, table = initial_state(run, stage, architecture, copies, mesh)
    placed = put_batch(batch, len(batch.tokens), mesh)
    step = compile_step(trace_step(run, stage, architecture, table, state, placed, mesh), mesh)
    held = [state]

    def run_step() -> float:
        held[0], metrics = step(held[0], placed)
        return float(metrics["loss"])

    return run_step


def theirs(
    model: Qwen2VLConfig, encoder: Encoder, parameters: Parameters, samples: list[Prepared]
) -> Callable[[], float]:
    """The same in PyTorch with transformers: rows padded to the longest, patches behind each other; gives the loss."""
    special = encoder.tokenizer.special_tokens
    vision, language = model.vision, model.language
    config = TheirConfig(
        vision_config={
            "depth": vision.layers, "embed_dim": vision.width, "num_heads": vision.heads,
            "mlp_ratio": vision.mlp_width / vision.width, "hidden_size": language.width,
            "spatial_patch_size": vision.patch, "patch_size": vision.patch,
        },
        vocab_size=language.vocab_size, hidden_size=language.width, num_hidden_layers=language.layers,
        num_attention_heads=language.heads, num_key_value_heads=language.kv_heads,
        intermediate_size=language.mlp_width, rms_norm_eps=language.norm_eps, rope_theta=language.rope_base,
        rope_scaling={"type": "mrope", "mrope_section": list(language.mrope_sections)},
        tie_word_embeddings=language.tied, pad_token_id=encoder.tokenizer.eod_id,
        vision_start_token_id=encoder.tokenizer.image_start_id, vision_end_token_id=encoder.tokenizer.image_end_id,
        image_token_id=encoder.tokenizer.image_pad_id, video_token_id=special[VIDEO_PAD],
        attn_implementation="sdpa",
    )  # fmt: skip
    net = Qwen2VLForConditionalGeneration(config).float().train()
    tensors = {name: torch.tensor(np.asarray(array)) for name, array in to_original(parameters, layout(model)).items()}
    moved = {
        f"model.{name}" if name.startswith("visual.") else name.replace("model.", "model.language_model.", 1): tensor
        for name, tensor in tensors.items()
    }
    net.load_state_dict(moved)
    inputs = padded_inputs(samples, encoder.tokenizer.eod_id)
    optimizer = torch.optim.AdamW(net.parameters(), RATE, (0.9, 0.98), 1e-6, 0.0)

    def run_step() -> float:
        optimizer.zero_grad()
        loss = net(**inputs, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    return run_step


def padded_inputs(samples: list[Prepared], pad: int) -> dict[str, torch.Tensor]:
    """What the original is called with, its labels too."""
    width = max(len(sample.encoded.tokens) for sample in samples)
    ids, mask, labels = (np.full((len(samples), width), value) for value in (pad, 0, -100))
    found: dict[str, list] = {"pixel_values": [], "image_grid_thw": [], "pixel_values_videos": [], "video_grid_thw": []}
    for row, (encoded, visuals) in enumerate(samples):
        count = len(encoded.tokens)
        ids[row, :count], mask[row, :count] = encoded.tokens, 1
        # The first token of a sample is nobody's target.
        labels[row, :count] = np.where(encoded.supervised & (np.arange(count) > 0), encoded.tokens, -100)
        for grid, frames in zip(encoded.grids, visuals):
            kind = ("pixel_values", "image_grid_thw") if grid.frames == 1 else ("pixel_values_videos", "video_grid_thw")
            found[kind[0]].append(normalize_patches(patchify(frames)))
            found[kind[1]].append([grid])
    arrays = {name: np.concatenate(parts) for name, parts in found.items() if parts}
    arrays |= {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: torch.as_tensor(array) for name, array in arrays.items()}


def main() -> None:
    options = tyro.cli(Options)
    run = tiny_qwen2()
    model = dataclasses.replace(MODEL, vision=dataclasses.replace(MODEL.vision, activation="quick_gelu"))
    stage = next(stage for stage in run.stages if stage.name == "multitask")
    stage = dataclasses.replace(stage, parameters=TRAIN_ALL, schedule=Schedule(RATE, RATE, 0))
    run = dataclasses.replace(
        run,
        model=model,
        data=dataclasses.replace(run.data, root=str(options.data)),
        mesh=MeshConfig(1, 1, 1),
    )
    run = on_devices(run, make_mesh(run.mesh, jax.devices()[:1]))
    encoder = stage_encoder(run.model, stage, run.data.tokenizer)
    rows = prepare(run, stage, encoder, options.rows)
    samples = [sample for row in rows for sample in row]
    length = max(len(sample.encoded.tokens) for sample in samples)
    patches = max(sample.encoded.vision for sample in samples)
    parameters = initialize(run.model, run.precision, 0)
    packed = batch_of(encoder, rows, stage.sequence_length, stage.patches_per_row)
    padded = batch_of(encoder, [[sample] for sample in samples], length, patches)
    ways = {
        f"packed, {packed.tokens.shape[0]} rows of {packed.tokens.shape[1]} tokens and {packed.patches.shape[1]} patches": (
            ours(run, stage, parameters, packed)
        ),
        f"one to a row, {len(samples)} rows of {length} and {patches}": ours(run, stage, parameters, padded),
        "transformers, PyTorch eager": theirs(model, encoder, parameters, samples),
    }
    losses = [step() for step in ways.values()]  # and the first call compiles
    times = [[timed(step) for step in ways.values()] for _ in range(options.repeats)]
    print(
        f"{len(samples)} samples, float32, {torch.get_num_threads()} threads, median of {options.repeats} steps in turns\n"
    )
    print("| step | loss of the first | seconds | samples/s | packed is faster by |\n|---|---|---|---|---|")
    seconds = [statistics.median(column) for column in zip(*times)]
    for name, loss, took in zip(ways, losses, seconds):
        print(f"| {name} | {loss:.5f} | {took:.3f} | {len(samples) / took:.1f} | {took / seconds[0]:.2f} |")


def timed(step: Callable[[], float]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
