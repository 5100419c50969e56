"""Promises of `qwenvl_jax.models.qwen2_vl.weights` on checkpoints that transformers writes."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from small_qwen2_vl import CONFIG, PRECISION
from transformers import Qwen2VLForConditionalGeneration

from qwenvl_jax.models.parameters import build
from qwenvl_jax.models.qwen2_vl.weights import layout, released_name
from qwenvl_jax.models.weights import from_original, to_original

TIED = dataclasses.replace(CONFIG, language=dataclasses.replace(CONFIG.language, tied=True))


@pytest.fixture(scope="module", params=[CONFIG, TIED], ids=["untied", "tied"])
def written(request, original, tmp_path_factory):
    """(our configuration, the model, tensors of the file that `save_pretrained` writes)."""
    model = original
    if request.param is TIED:
        config = type(original.config)(**original.config.to_dict() | {"tie_word_embeddings": True})
        config.text_config.tie_word_embeddings = True
        model = Qwen2VLForConditionalGeneration(config).float().eval()
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    return request.param, model, load_file(folder / "model.safetensors")


def test_every_parameter_stands_in_the_table_once(written) -> None:
    """Nothing is lost or written twice; a tied head has no line."""
    config, _, _ = written
    paths = [path for entry in layout(config).table for path in entry.paths]
    assert sorted(paths) == sorted(build(config, PRECISION).shapes)


def test_there_and_back(written) -> None:
    """Names, shapes and bytes of a written checkpoint come back; our arrays have the shapes of the architecture."""
    config, _, tensors = written
    ours = from_original(tensors, layout(config))
    assert {path: array.shape for path, array in ours.items()} == {
        path: shape.shape for path, shape in build(config, PRECISION).shapes.items()
    }
    back = to_original(ours, layout(config))
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape, name
        assert back[name].tobytes() == tensor.tobytes(), name


def test_newer_names_are_those_of_the_released_layout(written) -> None:
    """The names that transformers has in memory since 4.52 become those that it writes."""
    config, model, tensors = written
    names = {released_name(name) for name in model.state_dict()} - ({"lm_head.weight"} if config is TIED else set())
    assert names == tensors.keys()
    assert all(released_name(name) == name for name in tensors)


@pytest.mark.parametrize("written", [TIED], indirect=True, ids=["tied"])
def test_logits_of_a_tied_model(written, table) -> None:
    """The embedding is the head, in both directions."""
    config, model, tensors = written
    parameters = from_original(tensors, layout(config))
    ids = np.arange(12)[None]

    @jax.jit
    def run(parameters):
        language = build(config, PRECISION).assemble(parameters).language
        positions = np.broadcast_to(np.arange(12), (1, 3, 12))
        hidden = language(language.embed(ids), positions, np.ones_like(ids))
        return language.head(hidden), hidden @ language.head.kernel

    with torch.no_grad():
        theirs = model(torch.as_tensor(ids)).logits.numpy()
    for ours in run(parameters):
        table.compare("logits: text, tied embedding", ours, theirs, 2e-5)
