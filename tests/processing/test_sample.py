"""Promises of `qwenvl_jax.processing.sample`."""

import pickle

from qwenvl_jax.processing.sample import Image, Sample, Text, encode_sample
from qwenvl_jax.processing.tokenizer import END_OF_TEXT, Tokenizer


def test_encoded_sample(tokenizer: Tokenizer) -> None:
    """Images become tags around `queries` slots that name vision tokens; supervision follows the parts."""
    caption = Text(f" a cat{END_OF_TEXT}", supervised=True)
    sample = Sample((Image(1), Image(0), Text("Describe:"), caption), (b"first", b"second"))
    encoded = encode_sample(sample, tokenizer, queries=4)
    start, pad, end = tokenizer.image_start_id, tokenizer.image_pad_id, tokenizer.image_end_id
    prompt, answer = tokenizer.encode("Describe:"), tokenizer.encode(caption.text)
    assert encoded.tokens.tolist() == [start, *[pad] * 4, end] * 2 + prompt + answer
    assert encoded.tokens[-1] == tokenizer.eod_id
    text = [-1] * len(prompt + answer)
    assert encoded.vision_index.tolist() == [-1, 4, 5, 6, 7, -1, -1, 0, 1, 2, 3, -1, *text]
    assert encoded.supervised.tolist() == [False] * (12 + len(prompt)) + [True] * len(answer)
    assert encoded.images == sample.images


def test_tokens_never_merge_over_a_border(qwen: Tokenizer) -> None:
    """A part is encoded by itself, so that what is supervised does not depend on its neighbours."""
    apart = encode_sample(Sample((Text("Ans"), Text("wer"))), qwen, queries=4)
    assert apart.tokens.tolist() == [*qwen.encode("Ans"), *qwen.encode("wer")] != qwen.encode("Answer")


def test_samples_travel_between_processes(tokenizer: Tokenizer) -> None:
    """Loader workers hand samples over pickled."""
    sample = Sample((Text("a", supervised=True, typed=True), Image(0)), (b"x",))
    assert pickle.loads(pickle.dumps(sample)) == sample
