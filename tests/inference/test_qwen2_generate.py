"""A Qwen2-VL that is asked: its greedy tokens are those of transformers, from queries on, whatever stands beside them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from greedy_tokens import tokens_of
from original_qwen2_vl import SpecialIds, random_original
from small_qwen2_vl import CONFIG as SMALL
from small_qwen2_vl import PRECISION
from small_video import make_video
from transformers import GenerationConfig as TheirGenerationConfig

from qwenvl_jax.config import PixelLimits, VideoLimits
from qwenvl_jax.inference.chat import Chat
from qwenvl_jax.inference.generate import generate, stream
from qwenvl_jax.inference.generation_config import GenerationConfig
from qwenvl_jax.inference.model import Model
from qwenvl_jax.inference.processor import Processor, Prompt
from qwenvl_jax.models.parameters import build
from qwenvl_jax.models.qwen2_vl.weights import layout, released_name
from qwenvl_jax.models.weights import from_original
from qwenvl_jax.processing.chat_formats import CHAT_FORMATS
from qwenvl_jax.processing.encoders import PatchEncoder
from qwenvl_jax.processing.patches import normalize_patches, patchify
from qwenvl_jax.processing.qwen2_tokens import QWEN2_VL
from qwenvl_jax.processing.tokenizer import load_tokenizer

TOKENIZER = load_tokenizer("bytes", QWEN2_VL)
CONFIG = dataclasses.replace(SMALL, language=dataclasses.replace(SMALL.language, vocab_size=TOKENIZER.size))
IMAGES = PixelLimits(4 * 784, 12 * 784)
VIDEOS = VideoLimits(8.0, 2, 20, PixelLimits(784, 4 * 784), 40 * 784, round_down=False)
NEW = 12


def picture(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


QUERIES = {
    "text": [{"text": "Tell me something."}],
    "one image": [{"image": picture(0, 60, 200)}, {"text": "What is it?"}],
    "several images": [
        {"text": "Compare "}, {"image": picture(1, 90, 30)}, {"text": " with "}, {"image": picture(2, 56, 56)},
        {"image": picture(3, 120, 80)},
    ],
    "video with more slices than its height or width": [{"video": make_video(16)}, {"text": "What moves?"}],
    "images and a video": [{"image": picture(4, 70, 70)}, {"video": make_video(5)}, {"text": "And now?"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def original():
    names = ("<|endoftext|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    return random_original(CONFIG, SpecialIds(*(TOKENIZER.special_tokens[name] for name in names)))


@pytest.fixture(scope="module")
def model(original) -> Model:
    tensors = {released_name(name): tensor.numpy() for name, tensor in original.state_dict().items()}
    with jax.default_matmul_precision("highest"):
        yield Model(build(CONFIG, PRECISION), jax.tree.map(jnp.asarray, from_original(tensors, layout(CONFIG))))


@pytest.fixture(scope="module")
def processor() -> Processor:
    encoder = PatchEncoder(TOKENIZER, CONFIG.vision.patch, IMAGES, VIDEOS)
    return Processor(encoder, CHAT_FORMATS[type(CONFIG)], GenerationConfig(max_new_tokens=NEW, numbered=False))


@pytest.fixture(scope="module")
def prompts(processor) -> list[Prompt]:
    return processor.prompts(list(QUERIES.values()))


def theirs_of(original, processor: Processor, prompts: list[Prompt]) -> np.ndarray:
    """[B, NEW] greedy tokens of transformers for the same ids and patches, in one batch padded on the left."""
    width = max(len(prompt.encoded.tokens) for prompt in prompts)
    ids, mask = np.full((len(prompts), width), TOKENIZER.eod_id), np.zeros((len(prompts), width), int)
    found: dict[str, list] = {"pixel_values": [], "image_grid_thw": [], "pixel_values_videos": [], "video_grid_thw": []}
    for row, (sample, encoded) in enumerate(prompts):
        begin = width - len(encoded.tokens)
        ids[row, begin:], mask[row, begin:] = encoded.tokens, 1
        for grid, frames in zip(encoded.grids, processor.encoder.pixels(sample, encoded)):
            pixels, grids = (
                ("pixel_values", "image_grid_thw") if grid.frames == 1 else ("pixel_values_videos", "video_grid_thw")
            )
            found[pixels].append(normalize_patches(patchify(frames)))
            found[grids].append([grid])
    visual = {name: torch.as_tensor(np.concatenate(arrays)) for name, arrays in found.items() if arrays}
    config = TheirGenerationConfig(max_new_tokens=NEW, do_sample=False, pad_token_id=TOKENIZER.eod_id)
    with torch.no_grad():
        theirs = original.generate(
            torch.as_tensor(ids), attention_mask=torch.as_tensor(mask), **visual, generation_config=config
        )
    return theirs[:, -NEW:].numpy()


def test_greedy_tokens_of_a_batch_are_the_originals(model, original, processor, prompts) -> None:
    """Text, images, videos in one batch of different lengths, padded on the left, patches padded to the largest row."""
    batch = processor.batch(prompts)
    assert {int(length) for length in batch.segment_ids.sum(1)} == {len(prompt.encoded.tokens) for prompt in prompts}
    assert (np.asarray(batch.patch_segments) > 0).sum(1).tolist() == [prompt.encoded.vision for prompt in prompts]
    assert max(grid.frames for grid in prompts[3].encoded.grids) > 4
    assert np.array_equal(tokens_of(model, batch, TOKENIZER.size, new=NEW), theirs_of(original, processor, prompts))


@pytest.mark.parametrize("name", QUERIES)
def test_a_prompt_alone_has_the_same_tokens(model, original, processor, prompts, name) -> None:
    """Neighbours, padding of tokens and of patches, and portions change nothing; the original agrees here too."""
    prompt = prompts[list(QUERIES).index(name)]
    alone = tokens_of(model, processor.batch([prompt]), TOKENIZER.size, new=NEW, steps=7)
    assert np.array_equal(alone, theirs_of(original, processor, [prompt]))


def test_cached_decoding_equals_the_full_forward_pass(model, processor, prompts) -> None:
    """Every greedy token is the argmax of the whole model on prompt and answer so far, without a cache."""
    batch = processor.batch(prompts)
    written = tokens_of(model, batch, TOKENIZER.size, new=NEW)
    rows, length = batch.tokens.shape
    behind = batch.positions.max((1, 2))[:, None, None] + 1 + np.arange(NEW)
    longer = batch._replace(
        tokens=np.concatenate([batch.tokens, written], axis=1),
        segment_ids=np.concatenate([batch.segment_ids, np.ones((rows, NEW), np.int32)], axis=1),
        positions=np.concatenate([batch.positions, np.broadcast_to(behind, (rows, 3, NEW))], axis=2),
        vision_index=np.concatenate([batch.vision_index, np.full((rows, NEW), -1)], axis=1),
    )
    logits = np.asarray(model(longer))[:, length - 1 : -1]
    assert np.array_equal(logits.argmax(-1), written)


def test_answers_do_not_depend_on_the_batch_and_stream(model, processor) -> None:
    """Texts of a batch, of small batches, of each query alone, and of its stream are one."""
    queries = list(QUERIES.values())
    together = generate(model, processor, queries)
    assert together == generate(model, processor, queries, batch_size=2)
    assert together == ["".join(stream(model, processor, query)) for query in queries]
    assert len(set(together)) == len(queries)


def test_grounding_survives_in_the_projects_markup(model, processor, monkeypatch) -> None:
    """Tokens of references and boxes come out as `<ref>` and `<box>`, which are drawn and scored; ends end the answer."""
    from qwenvl_jax.inference import generate as module

    text = (
        "<|object_ref_start|>it<|object_ref_end|><|box_start|>(100,200),(500,600)<|box_end|><|im_end|>no<|vision_pad|>"
    )
    ids = np.asarray(TOKENIZER.encode(text))

    class State:
        token, number = ids[:1], 1

        def _replace(self, **_):
            return self

    def rest(*_, **__):
        State.number = len(ids)
        return State(), ids[None, 1:]

    monkeypatch.setattr(module, "prefill", lambda *_, **__: State())
    monkeypatch.setattr(module, "advance", rest)
    chat = Chat(model, processor)
    assert (
        chat.ask([{"image": picture(0, 60, 60)}, {"text": "Where?"}]) == "<ref>it</ref><box>(100,200),(500,600)</box>"
    )
    assert chat.draw().picture.size == (480, 480)


def test_a_conversation_shows_all_rounds(model, processor) -> None:
    """The second question sees the first one's video and the answer; a base model sees videos and the newest question."""
    chat = Chat(model, processor)
    first = chat.ask([{"video": make_video(5)}, {"text": "What moves?"}])
    prompt = processor.prompt(processor.query("Sure?"), chat.history)
    [answer] = generate(model, processor, [prompt])
    assert chat.ask("Sure?") == answer
    assert first in TOKENIZER.decode(processor.encoder.encode(prompt).tokens)
    raw = dataclasses.replace(processor, generation=GenerationConfig("raw", max_new_tokens=NEW))
    base = Chat(model, raw)
    base.ask([{"video": make_video(5)}, {"text": "What moves?"}])
    [expected] = generate(model, raw, [[{"video": make_video(5)}, {"text": "Sure?"}]])
    assert base.ask("Sure?") == expected


def test_pictures_of_a_training_row_are_as_large_when_asked(processor) -> None:
    """What a row has no room for was trained smaller, and is asked as small; text of a prompt may be longer than a row."""
    row = dataclasses.replace(processor.encoder, tokens=64, patches=16)
    asked = dataclasses.replace(processor, encoder=row.for_prompts())
    [prompt] = asked.prompts([[{"image": picture(0, 60, 200)}, {"text": "long " * 40}]])
    assert prompt.encoded.vision <= 16 < processor.prompts([QUERIES["one image"]])[0].encoded.vision
    assert prompt.encoded.reduced == 1
    assert dataclasses.replace(row, patches=0).for_prompts().patches is None
