"""The embedded vocabulary is what its maker makes, and makes words of the world single ids."""

from data_pipelines.synthetic.documents import WORDS
from data_pipelines.synthetic.scenes import COLOURS, SHAPES
from data_pipelines.synthetic.vocabulary import LEAST_COUNT, learn_merges, scene_texts, to_tiktoken
from qwenvl_jax.processing.tokenizer import WORLD_FILE, load_tokenizer

TOKENIZER = load_tokenizer("world")


def test_file_is_what_the_command_makes() -> None:
    """`qwenvl data make vocabulary` changes nothing: the file is neither edited by hand nor out of date."""
    assert WORLD_FILE.read_text() == to_tiktoken(learn_merges(scene_texts(), LEAST_COUNT))


def test_attributes_are_single_ids() -> None:
    """What the model has to say about an object is one id each, as common words are for Qwen-7B."""
    for word in (*COLOURS, *SHAPES):
        assert len(TOKENIZER.encode(f" {word}")) == 1, word


def test_words_of_documents_are_spelled() -> None:
    """Reading is not naming one of a list of words: most words of documents take an id for every letter or two."""
    lengths = [len(TOKENIZER.encode(word)) / len(word) for word in WORDS]
    assert sum(lengths) / len(lengths) > 0.9


def test_merges_by_hand() -> None:
    """The most frequent pair first; nothing across special tokens; nothing below the least count."""
    ranks = learn_merges(["abab<|endoftext|>abc", "ab"], least_count=2)
    assert list(ranks)[256:] == [b"ab"]
