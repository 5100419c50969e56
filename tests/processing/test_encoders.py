"""How a model sees samples: the vocabulary must fit it."""

import dataclasses

import pytest

from configs.tiny import tiny
from qwenvl_jax.processing.encoders import stage_encoder


def test_an_embedding_with_too_few_rows_is_refused():
    """Ids beyond the embedding would all be read as its last row: a sentence with both numbers instead."""
    run = tiny()
    stage = run.stages[-1]
    size = stage_encoder(run.model, stage, run.data.tokenizer).tokenizer.size
    for rows in (size, size - 1):
        model = dataclasses.replace(run.model, language=dataclasses.replace(run.model.language, vocab_size=rows))
        if rows == size:
            assert stage_encoder(model, stage, run.data.tokenizer).tokenizer.size == size
        else:
            with pytest.raises(ValueError, match=f"{size} ids and the model's embedding {rows} rows"):
                stage_encoder(model, stage, run.data.tokenizer)
