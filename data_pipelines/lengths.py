"""How long every sample is, measured once and kept beside the records.

A sample's length needs its texts tokenized and its images counted, never a pixel. The file's name holds a
hash of all that lengths depend on (records, tokenizer, vision tokens of an image, and the code of tasks and
processing), so that stale lengths are never found. All tasks of a source are measured in one pass over it.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

import data_pipelines.tasks
import qwenvl_jax.processing
from data_pipelines.sources.source import Problem, RecordError, RecordSource
from data_pipelines.tasks import TASKS
from qwenvl_jax.batch import IGNORED
from qwenvl_jax.processing.sample import EncodedSample, encode_sample
from qwenvl_jax.processing.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lengths:
    """The samples that a task makes of a source. N records.

    Attributes:
      tokens: [N] int32, 0 where there is no sample.
      needed: [N] int32, tokens that must stay when the sample is shortened: all images and one learned token.
      images: [N] int32.
      problems: records that cannot be read or encoded; a record without sample and problem is one to which
        the task does not apply.
    """

    tokens: np.ndarray
    needed: np.ndarray
    images: np.ndarray
    problems: tuple[Problem, ...]


def measure(source: RecordSource, tasks: Iterable[str], tokenizer: Tokenizer, queries: int) -> dict[str, Lengths]:
    """The lengths of a source's samples for each task, read from their files where those exist.

    Where the files cannot be written, a warning says so and the lengths stay in memory.

    Args:
      source: the records.
      tasks: names of `data_pipelines.tasks.TASKS`.
      tokenizer: of the model.
      queries: vision tokens of an image.
    """
    code = _code_version()
    paths = {}
    for task in tasks:
        identity = "\0".join([source.fingerprint, task, tokenizer.fingerprint, str(queries), code])
        name = f"lengths-{task}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.npz"
        paths[task] = Path(source.cache_folder) / name
    found = {task: _load(path) for task, path in paths.items() if path.is_file()}
    missing = [task for task in paths if task not in found]
    if missing:
        for task, lengths in _measure_all(source, missing, tokenizer, queries).items():
            found[task] = lengths
            try:
                _save(paths[task], lengths)
            except OSError as error:
                logger.warning(
                    "lengths of %s cannot be kept in %s (%s): they will be measured again next time",
                    source.name, paths[task].parent, error.strerror,
                )  # fmt: skip
    return found


def _measure_all(source: RecordSource, tasks: list[str], tokenizer: Tokenizer, queries: int) -> dict[str, Lengths]:
    columns = {task: np.zeros((3, len(source)), np.int32) for task in tasks}
    problems: dict[str, list[Problem]] = {task: [] for task in tasks}
    for index in range(len(source)):
        try:
            record = source.outline(index)
        except RecordError as error:
            for task in tasks:
                problems[task].append(Problem(error.file, error.index, error.reason))
            continue
        for task in tasks:
            try:
                sample = TASKS[task](record)
                if sample is not None:
                    columns[task][:, index] = sample_length(encode_sample(sample, tokenizer, queries))
            except ValueError as error:
                problems[task].append(Problem(source.name, index, str(error)))
    found = {}
    for task in tasks:
        tokens, needed, images = columns[task]
        found[task] = Lengths(tokens, needed, images, tuple(problems[task]))
    return found


def sample_length(sample: EncodedSample) -> tuple[int, int, int]:
    """(tokens, needed, images), as in `Lengths`; `needed` exceeds `tokens` where nothing is learned."""
    tokens = len(sample.tokens)
    seen = np.flatnonzero(sample.vision_index != IGNORED)
    after_images = int(seen[-1]) + 2 if len(seen) else 0
    # The first token of a sample is nobody's target, so it teaches nothing even where it is supervised.
    learned = np.flatnonzero(sample.supervised[1:])
    needed = max(after_images, int(learned[0]) + 2) if len(learned) else tokens + 1
    return tokens, needed, len(sample.images)


def _code_version() -> str:
    """Hash of the files that decide how a record becomes tokens."""
    digest = hashlib.sha256()
    processing = Path(qwenvl_jax.processing.__path__[0])
    for path in [Path(data_pipelines.tasks.__file__), *sorted(processing.glob("*.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _save(path: Path, lengths: Lengths) -> None:
    problems = json.dumps([astuple(problem) for problem in lengths.problems])
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        np.savez(
            file, tokens=lengths.tokens, needed=lengths.needed, images=lengths.images,
            problems=np.frombuffer(problems.encode(), np.uint8),
        )  # fmt: skip
    partial.replace(path)


def _load(path: Path) -> Lengths:
    with np.load(path) as stored:
        problems = tuple(Problem(*problem) for problem in json.loads(stored["problems"].tobytes()))
        return Lengths(stored["tokens"], stored["needed"], stored["images"], problems)
