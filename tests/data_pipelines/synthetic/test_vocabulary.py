"""The embedded vocabularies are what their maker makes, and make words of the worlds single ids."""

import pytest

from data_pipelines.synthetic.documents import WORDS
from data_pipelines.synthetic.scenes import COLOURS, SHAPES
from data_pipelines.synthetic.vocabulary import CORPORA, LEAST_COUNT, learn_merges, to_tiktoken
from qwenvl_jax.processing.tokenizer import EMBEDDED, load_tokenizer


@pytest.mark.parametrize("name", EMBEDDED)
def test_file_is_what_the_command_makes(name: str) -> None:
    """`qwenvl data make vocabulary` changes nothing: the file is neither edited by hand nor out of date."""
    assert EMBEDDED[name].read_text() == to_tiktoken(learn_merges(CORPORA[name](), LEAST_COUNT))


@pytest.mark.parametrize("name", EMBEDDED)
def test_attributes_are_single_ids(name: str) -> None:
    """What the model has to say about an object is one id each, as common words are for Qwen-7B."""
    for word in (*COLOURS, *SHAPES):
        assert len(load_tokenizer(name).encode(f" {word}")) == 1, word


@pytest.mark.parametrize("name", EMBEDDED)
def test_words_of_documents_are_spelled(name: str) -> None:
    """Reading is not naming one of a list of words: most words of documents take an id for every letter or two."""
    lengths = [len(load_tokenizer(name).encode(word)) / len(word) for word in WORDS]
    assert sum(lengths) / len(lengths) > 0.9


def test_merges_by_hand() -> None:
    """The most frequent pair first; nothing across special tokens; nothing below the least count."""
    ranks = learn_merges(["abab<|endoftext|>abc", "ab"], least_count=2)
    assert list(ranks)[256:] == [b"ab"]
