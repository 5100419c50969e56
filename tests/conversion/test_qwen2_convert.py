"""Promises of conversion for Qwen2-VL: any layout in, the release's out, the same bytes; transformers computes the same."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
from greedy_tokens import tokens_of
from PIL import Image as Picture
from safetensors.numpy import load_file, save_file
from small_folder import TYPES, Tensors, random_tensors
from small_model import random_parameters
from small_qwen2_vl import CONFIG as SMALL
from small_qwen2_vl import PRECISION
from transformers import AutoTokenizer, GenerationConfig, Qwen2VLForConditionalGeneration

import qwenvl_jax
from qwenvl_jax.config import Component, DataConfig, ParameterRule, PixelLimits, Qwen2VLConfig, Run, Schedule, Stage
from qwenvl_jax.config_json import from_json, to_json
from qwenvl_jax.conversion.hugging_face import find_tensors, read_config, read_parameters
from qwenvl_jax.conversion.pieces import original_shapes
from qwenvl_jax.conversion.qwen2_config import to_original
from qwenvl_jax.conversion.qwen2_folder import PREPROCESSOR, merges
from qwenvl_jax.models.parameters import build, layout_of
from qwenvl_jax.models.weights import from_original
from qwenvl_jax.models.weights import to_original as to_original_tensors
from qwenvl_jax.processing.images import MEAN, STD
from qwenvl_jax.processing.qwen2_tokens import QWEN2_VL
from qwenvl_jax.processing.tokenizer import END_OF_TEXT, load_tokenizer
from qwenvl_jax.training.checkpoints import Checkpoints
from qwenvl_jax.training.step import TrainState

TOKENIZER = load_tokenizer("world", QWEN2_VL)
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
NEW = 8
NEWER = transformers.__version__.startswith("5")
"""Of the two versions that folders are for, the one that the tests are not made with: the README tells how it is asked."""
ImageProcessor = transformers.Qwen2VLImageProcessorPil if NEWER else transformers.Qwen2VLImageProcessor


def model_of(tied: bool):
    """With an MLP of the vision tower that transformers 5 takes too."""
    language = dataclasses.replace(SMALL.language, tied=tied, vocab_size=TOKENIZER.size)
    return Qwen2VLConfig(dataclasses.replace(SMALL.vision, mlp_width=64), language)


def newer_name(name: str) -> str:
    """As transformers 4.52 and later have it in memory, and some files too."""
    if name.startswith("model."):
        return f"model.language_model.{name.removeprefix('model.')}"
    return f"model.{name}" if name.startswith("visual.") else name


def make_folder(folder: Path, tensors: Tensors, tied: bool, **fields) -> Path:
    """Flat config.json and one file."""
    folder.mkdir()
    config = to_original(model_of(tied), TOKENIZER.eod_id) | fields
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def loaded(folder: Path) -> Tensors:
    names = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    files = {file: load_file(folder / file) for file in set(names.values())}
    return {name: files[file][name] for name, file in names.items()}


def same(first: Tensors, second: Tensors) -> bool:
    return first.keys() == second.keys() and all(
        (a.dtype, a.shape, a.tobytes()) == (second[name].dtype, second[name].shape, second[name].tobytes())
        for name, a in first.items()
    )


@pytest.mark.parametrize(
    "tied, dtype, newer, head",
    [
        (True, "bfloat16", False, False),
        (True, "float32", True, True),
        (False, "bfloat16", True, True),
        (False, "float32", False, True),
    ],
)
def test_there_and_back(tmp_path, converted, tied, dtype, newer, head) -> None:
    """Byte-identical tensors in the released layout, from either; of a tied model without the head, wherever it came."""
    tensors = random_tensors(dtype, original_shapes(model_of(tied)))
    assert (HEAD in tensors) is not tied
    given = tensors | ({HEAD: tensors[EMBEDDING].copy()} if tied and head else {})
    given["model.rotary_emb.inv_freq"] = np.ones(4, TYPES[dtype])
    given = {newer_name(name) if newer else name: array for name, array in given.items()}
    folder = make_folder(tmp_path / "hf", given, tied, torch_dtype=dtype)
    said = converted(folder, tmp_path / "ours")
    assert any("left out" in line and "inv_freq" in line and (HEAD in line) is (tied and head) for line in said)
    run = from_json((tmp_path / "ours" / "config.json").read_text())
    assert (run.model, run.precision.compute) == (model_of(tied), dtype)
    converted(tmp_path / "ours", tmp_path / "back")
    assert same(loaded(tmp_path / "back"), tensors)
    assert (tmp_path / "back" / "config.json").read_bytes() == (folder / "config.json").read_bytes()


def test_what_is_wrong_is_named_at_once(tmp_path, converted) -> None:
    """Missing, unexpected, misshapen and not finite, by released names; and nothing is written."""
    tensors = random_tensors("bfloat16", original_shapes(model_of(False)))
    del tensors["visual.merger.ln_q.bias"]
    tensors["visual.blocks.7.norm1.weight"] = tensors["visual.blocks.0.norm1.weight"].copy()
    tensors["model.layers.0.self_attn.k_proj.bias"] = tensors["model.layers.0.self_attn.q_proj.bias"].copy()
    tensors["model.norm.weight"][3] = np.nan
    newer = {newer_name(name): array for name, array in tensors.items()}
    with pytest.raises(ValueError, match="4 problems") as error:
        converted(make_folder(tmp_path / "hf", newer, tied=False), tmp_path / "ours")
    for line in (
        "visual.merger.ln_q.bias is missing",
        "visual.blocks.7.norm1.weight is unexpected",
        "model.layers.0.self_attn.k_proj.bias has shape [64] instead of [32]",
        "model.norm.weight is not finite",
    ):
        assert line in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_contradictions_are_refused(tmp_path, converted) -> None:
    """A tied head that is another one, and one tensor under both of its names."""
    tensors = random_tensors("float32", original_shapes(model_of(True)))
    other = tensors[EMBEDDING].copy()
    other[-1, -1] += 1
    folder = make_folder(tmp_path / "head", tensors | {HEAD: other}, tied=True)
    with pytest.raises(ValueError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
        converted(folder, tmp_path / "ours")
    twice = tensors | {newer_name(EMBEDDING): other}
    with pytest.raises(ValueError, match=r"model\.embed_tokens\.weight stands twice in"):
        converted(make_folder(tmp_path / "twice", twice, tied=True), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


IMAGES = PixelLimits(784, 784 * 9)
PICTURES = [
    np.random.default_rng(n).integers(0, 256, (28 * y, 28 * x, 3), np.uint8)
    for n, (y, x) in enumerate([(2, 3), (1, 2)])
]
QUERIES = [
    [{"text": "What colour is the sky?"}],
    [{"image": PICTURES[0]}, {"text": "What is it?"}],
    [{"image": PICTURES[0]}, {"text": " and "}, {"image": PICTURES[1]}, {"text": "?"}],
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of a tied Qwen2-VL that has learned to chat in the embedded world's vocabulary."""
    folder = tmp_path_factory.mktemp("run")
    stage = Stage(
        name="sft", steps=1, mixture=(Component("chat", "chats", 1),), rows=1, sequence_length=256, patches_per_row=256,
        schedule=Schedule(0.0, 0.0, 0), parameters=(ParameterRule(".*"),), image_limits=IMAGES,
    )  # fmt: skip
    run = Run("small", model_of(True), (stage,), DataConfig(tokenizer="world"), precision=PRECISION)
    (folder / "config.json").write_text(to_json(run))
    parameters = jax.tree.map(jax.numpy.asarray, random_parameters(build(run.model, PRECISION)))
    checkpoints = Checkpoints(folder / "checkpoints" / "sft", keep=1)
    checkpoints.save(1, TrainState(jax.numpy.int32(1), parameters, {}, {}), {})
    checkpoints.close()
    return folder


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> Path:
    from qwenvl_jax.conversion.convert import convert

    folder = tmp_path_factory.mktemp("exported") / "hf"
    convert([trained], folder, None, lambda line: None, lambda *_: None)
    return folder


def theirs_of(folder: Path, query: list) -> tuple[list[int], list[int]]:
    """(ids of the prompt, greedy tokens) of transformers, from the folder's files alone."""
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    tokenizer, images = AutoTokenizer.from_pretrained(folder), ImageProcessor.from_pretrained(folder)
    content = [{"type": next(iter(part)), **part} for part in query]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    seen = {}
    if pictures := [Picture.fromarray(part["image"]) for part in query if "image" in part]:
        seen = images(pictures, return_tensors="pt")
        for grid in seen["image_grid_thw"]:
            text = text.replace("<|image_pad|>", "<|placed|>" * (int(grid.prod()) // 4), 1)
    ids = tokenizer(text.replace("<|placed|>", "<|image_pad|>"), return_tensors="pt")
    if NEWER:
        pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        seen = {**seen, "mm_token_type_ids": (ids["input_ids"] == pad).int()}
    config = GenerationConfig(max_new_tokens=NEW, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    with torch.no_grad():
        written = model.generate(**ids, **seen, generation_config=config)[0].tolist()
    return written[:-NEW], written[-NEW:]


def test_transformers_computes_the_same(trained, exported) -> None:
    """Prompts have the same ids, and their greedy tokens are those of the run and of the folder that is loaded again."""
    theirs = [theirs_of(exported, query) for query in QUERIES]
    with jax.default_matmul_precision("highest"):
        for folder in (trained, exported):
            model, processor = qwenvl_jax.load(folder, dtype="float32")
            bare = dataclasses.replace(processor, generation=dataclasses.replace(processor.generation, numbered=False))
            prompts = bare.prompts(QUERIES)
            assert [prompt.encoded.tokens.tolist() for prompt in prompts] == [ids for ids, _ in theirs]
            tokens = tokens_of(model, bare.batch(prompts), TOKENIZER.size, new=NEW)
            assert tokens.tolist() == [written for _, written in theirs]


def test_a_folder_says_how_it_is_asked(exported, trained) -> None:
    """ChatML from the template, pictures without numbers as the release has them, and as large as they were trained."""
    model, processor = qwenvl_jax.load(exported)
    generation = processor.generation
    assert (generation.chat_format, generation.numbered, generation.temperature) == ("chatml", False, 0.0)
    assert processor.encoder.images == IMAGES
    assert model.architecture.config == model_of(True)
    assert json.loads((exported / "generation_config.json").read_text())["eos_token_id"] == [
        TOKENIZER.im_end_id,
        TOKENIZER.eod_id,
    ]


def test_what_transformers_writes_comes_back(exported, tmp_path, converted) -> None:
    """Its nested config.json and its tokenizer's files are read, and travel along through a checkpoint of ours."""
    folder, untied = tmp_path / "theirs", tmp_path / "untied"
    model = Qwen2VLForConditionalGeneration.from_pretrained(exported, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(exported).save_pretrained(folder)
    ImageProcessor.from_pretrained(exported).save_pretrained(folder)
    assert "text_config" in json.loads((folder / "config.json").read_text())
    assert read_config(folder) == model_of(True)
    converted(folder, tmp_path / "ours")
    converted(tmp_path / "ours", tmp_path / "back")
    assert same(loaded(tmp_path / "back"), load_file(folder / "model.safetensors"))
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes(), file.name
    _, ours = qwenvl_jax.load(tmp_path / "ours", dtype="float32")
    _, theirs = qwenvl_jax.load(folder)
    assert ours.generation == theirs.generation
    assert (ours.encoder, ours.tokenizer.fingerprint) == (
        dataclasses.replace(theirs.encoder, tokenizer=ours.tokenizer), TOKENIZER.fingerprint,
    )  # fmt: skip
    (folder / "vocab.json").unlink(missing_ok=NEWER)  # transformers 5 writes tokenizer.json alone
    assert load_tokenizer(folder, QWEN2_VL).fingerprint == TOKENIZER.fingerprint
    # An untied model of ours is loaded by transformers without a missing or unexpected tensor.
    tensors = random_tensors("float32", original_shapes(model_of(False)))
    converted(make_folder(untied, tensors, tied=False), tmp_path / "ours-2")
    converted(tmp_path / "ours-2", tmp_path / "back-2")
    model, info = Qwen2VLForConditionalGeneration.from_pretrained(tmp_path / "back-2", output_loading_info=True)
    assert not any(info.values()), info
    state = {newer_name(name): tensor for name, tensor in tensors.items()}
    assert all(np.array_equal(state[name], tensor.float().numpy()) for name, tensor in model.state_dict().items())


def test_ids_that_disagree_are_refused(exported, tmp_path) -> None:
    """A vocabulary that is not the checkpoint's would put pictures in the place of other tokens."""
    for file in exported.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    fields = json.loads((exported / "config.json").read_text()) | {"image_token_id": 5}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(
        ValueError, match=r"image_token_id of its config\.json is 5, its tokenizer gives <\|image_pad\|>"
    ):
        qwenvl_jax.load(tmp_path)


def test_preprocessors(exported, trained, tmp_path, converted) -> None:
    """Either form of limits is read, another processor's is refused, and a stage's own limits replace the carried ones."""
    from qwenvl_jax.conversion.qwen2_folder import image_limits

    fields = json.loads((exported / PREPROCESSOR).read_text())
    assert np.array_equal(np.float32(fields["image_mean"]), MEAN)
    assert np.array_equal(np.float32(fields["image_std"]), STD)
    cases = {
        "sizes": (
            {**fields, "min_pixels": None, "max_pixels": None, "size": {"shortest_edge": 784, "longest_edge": 1568}}
        ),
        "default": {"image_processor_type": "Qwen2VLImageProcessor"},
    }
    for case, wanted in zip(cases.values(), (PixelLimits(784, 1568), PixelLimits(3136, 12845056))):
        (tmp_path / PREPROCESSOR).write_text(json.dumps(case))
        assert image_limits(tmp_path, model_of(True)) == wanted
    for wrong in ('{"patch_size": 16}', '{"image_mean": [0.5, 0.5, 0.5]}', '{"max_pixels": "many"}', "[]", "{"):
        (tmp_path / PREPROCESSOR).write_text(wrong)
        with pytest.raises(ValueError, match=PREPROCESSOR):
            image_limits(tmp_path, model_of(True))
    converted(exported, tmp_path / "ours")
    run = from_json((tmp_path / "ours" / "config.json").read_text())
    smaller = dataclasses.replace(run.stages[0], image_limits=PixelLimits(784, 784))
    (tmp_path / "ours" / "config.json").write_text(to_json(dataclasses.replace(run, stages=(smaller,))))
    converted(tmp_path / "ours", tmp_path / "back")
    assert json.loads((tmp_path / "back" / PREPROCESSOR).read_text()) == fields | {"max_pixels": 784}


def test_the_original_cannot_be_asked_without_its_files(exported, tmp_path) -> None:
    """A folder without a vocabulary names the files that hold one; weights are read all the same."""
    for file in exported.iterdir():
        if file.name not in ("vocab.json", "tokenizer.json"):
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(FileNotFoundError, match=r"holds no vocab\.json or tokenizer\.json"):
        qwenvl_jax.load(tmp_path)
    config = read_config(tmp_path)
    tensors, left_out = find_tensors(tmp_path, config)
    parameters = read_parameters(tmp_path, config)
    assert not left_out
    back = to_original_tensors(parameters, layout_of(config))
    assert same({name: np.ascontiguousarray(array) for name, array in back.items()}, loaded(exported))
    assert from_original(back, layout_of(config)).keys() == parameters.keys() == build(config, PRECISION).shapes.keys()
    assert tensors.keys() == back.keys()


def test_merges_are_in_the_order_of_ids() -> None:
    """Every token of several bytes has its one merge, made of two tokens that come before it."""
    ranks = TOKENIZER.ranks
    found = merges(ranks)
    assert [ranks[first + second] for first, second in found] == sorted(
        ranks[token] for token in ranks if len(token) > 1
    )
    assert all(max(ranks[first], ranks[second]) < ranks[first + second] for first, second in found)
    assert TOKENIZER.special_tokens[END_OF_TEXT] == len(ranks)
