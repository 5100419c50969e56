"""How long every sample is, measured once and kept beside the records.

A sample's length needs its texts tokenized and the sizes of its pictures, never a pixel. The file's name holds a
hash of all that lengths depend on (records, tokenizer, what the model sees of a picture, and the code of tasks
and processing), so that stale lengths are never found. All tasks of a source are measured in one pass over it.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

import data_pipelines.tasks
import qwenvl_jax.processing
from data_pipelines.ordered_map import ordered_map
from data_pipelines.records import Record
from data_pipelines.sources.remote import FetchError
from data_pipelines.sources.source import LostShard, Problem, RecordError, RecordSource, sentence
from data_pipelines.tasks import Task
from qwenvl_jax.processing.encoders import Encoded, Encoder, needed_tokens
from qwenvl_jax.processing.video import VideoInfo
from qwenvl_jax.processing.visual_sample import VisualSizes

logger = logging.getLogger(__name__)

RECORDS_PER_JOB = 2000
SAMPLES_PER_PROCESS = 20_000
"""That a process measures in some seconds, as many as it takes to start it."""


@dataclass(frozen=True)
class Lengths:
    """The samples that a task makes of a source. N records.

    Attributes:
      tokens: [N] int32, 0 where there is no sample.
      needed: [N] int32, tokens that must stay when the sample is shortened: all images and one learned token.
      vision: [N] int32, image slots or patches.
      reduced: [N] int32, images and videos that are shown smaller for want of room in a row.
      problems: records that cannot be read or encoded; a record without sample and problem is one to which
        the task does not apply.
      identity: tells all that the lengths depend on.
    """

    tokens: np.ndarray
    needed: np.ndarray
    vision: np.ndarray
    reduced: np.ndarray
    problems: tuple[Problem, ...]
    identity: str


def measure(
    source: RecordSource, names: Iterable[str], tasks: Mapping[str, Task], encoder: Encoder, fetch_all: bool = False
) -> dict[str, Lengths]:
    """The lengths of a source's samples for each task, read from their files where those exist.

    A source that lies elsewhere has them beside its shards, and they are fetched from there. Where new ones cannot be
    written, a warning says so: then they stay in memory, or on this machine.

    Args:
      source: the records.
      names: of the tasks.
      tasks: the model's; see `data_pipelines.tasks.tasks_of`.
      encoder: how the model sees their samples.
      fetch_all: whether all files of a source elsewhere may be fetched to measure what is missing.

    Raises:
      ValueError: lengths of a source elsewhere are missing and may not be measured, or a file of it cannot be fetched.
    """
    code = _code_version()
    paths = {}
    for task in names:
        identity = "\0".join([source.fingerprint, task, encoder.tokenizer.fingerprint, encoder.identity, code])
        name = f"lengths-{task}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.npz"
        paths[task] = Path(source.cache_folder) / name
    found = {task: _load(path) for task, path in paths.items() if path.is_file() or _fetched(source, path)}
    missing = [task for task in paths if task not in found]
    if missing and source.remote is not None and not fetch_all:
        address = source.remote.folder.address
        raise ValueError(
            f"{address} has no lengths of {', '.join(missing)} for this model and version: measuring them fetches all of "
            f"it, so do that once: qwenvl data index {address} --recipe RECIPE --stage STAGE"
        )
    if missing:
        for task, columns, problems in _measure_all(source, {name: tasks[name] for name in missing}, encoder):
            lengths = found[task] = _lengths(columns, problems, paths[task])
            try:
                _save(paths[task], lengths)
                if source.remote is not None:
                    source.remote.folder.write(paths[task].name, paths[task].read_bytes())
            except OSError as error:
                where = paths[task].parent if source.remote is None else source.remote.folder.address
                logger.warning(
                    "lengths of %s cannot be kept in %s (%s): they will be measured again next time%s",
                    source.name, where, sentence(error), "" if source.remote is None else ", or elsewhere",
                )  # fmt: skip
    return found


def _fetched(source: RecordSource, path: Path) -> bool:
    """Brings lengths from beside a source's shards, where there are some.

    Raises:
      ValueError: they cannot be fetched.
    """
    if source.remote is None:
        return False
    try:
        data = source.remote.folder.read(path.name)
    except FileNotFoundError:
        return False
    except FetchError as error:
        raise ValueError(str(error)) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.replace(path)
    return True


def _measure_all(
    source: RecordSource, tasks: Mapping[str, Task], encoder: Encoder
) -> list[tuple[str, np.ndarray, list[Problem]]]:
    """Of each task [4, N] tokens, needed, vision and reduced, and the problems; over all cores where that is sooner."""
    records = range(len(source))
    jobs = [records[start : start + RECORDS_PER_JOB] for start in records[::RECORDS_PER_JOB]]
    workers = min(os.cpu_count() or 1, len(records) * len(tasks) // SAMPLES_PER_PROCESS)
    columns = {task: np.zeros((4, len(records)), np.int32) for task in tasks}
    problems: dict[str, list[Problem]] = {task: [] for task in tasks}
    with ordered_map(workers, source, tasks, encoder) as over:
        for job, measured in zip(jobs, over(_measure_some, jobs)):
            for task, (part, wrong) in measured.items():
                columns[task][:, job.start : job.stop] = part
                problems[task] += wrong
    return [(task, columns[task], problems[task]) for task in tasks]


def _measure_some(
    source: RecordSource, tasks: Mapping[str, Task], encoder: Encoder, records: range
) -> dict[str, tuple[np.ndarray, list[Problem]]]:
    """Of each task [4, records], as `_measure_all`, and the problems."""
    measured: dict[str, tuple[np.ndarray, list[Problem]]] = {
        task: (np.zeros((4, len(records)), np.int32), []) for task in tasks
    }
    for place, index in enumerate(records):
        try:
            record = source.outline(index)
        except LostShard:
            raise  # a network that fails for a while must not leave out the records of a shard for good
        except RecordError as error:
            for _, problems in measured.values():
                problems.append(Problem(error.file, error.index, error.reason))
            continue
        sizes = record_sizes(record)
        for task, (columns, problems) in measured.items():
            try:
                sample = tasks[task](record)
                if sample is not None:
                    columns[:, place] = sample_length(encoder.encode(sample, sizes))
            except ValueError as error:
                problems.append(Problem(source.name, index, str(error)))
    return measured


def record_sizes(record: Record) -> VisualSizes:
    """What a record tells of its pictures and videos, whose bytes an outline may lack. Tasks keep their order."""
    videos = tuple(VideoInfo(v.frames, v.frames_per_second, v.height, v.width) for v in record.videos)
    return VisualSizes(tuple((image.width, image.height) for image in record.images), videos)


def sample_length(encoded: Encoded) -> tuple[int, int, int, int]:
    """(tokens, needed, vision, reduced), as in `Lengths`; `needed` exceeds `tokens` where nothing is learned."""
    return len(encoded.tokens), needed_tokens(encoded), encoded.vision, encoded.reduced


def _code_version() -> str:
    """Hash of the files that decide how a record becomes tokens."""
    digest = hashlib.sha256()
    processing = Path(qwenvl_jax.processing.__path__[0])
    for path in [Path(data_pipelines.tasks.__file__), *sorted(processing.glob("*.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _save(path: Path, lengths: Lengths) -> None:
    problems = json.dumps([astuple(problem) for problem in lengths.problems])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        np.savez(
            file, tokens=lengths.tokens, needed=lengths.needed, vision=lengths.vision,
            reduced=lengths.reduced, problems=np.frombuffer(problems.encode(), np.uint8),
        )  # fmt: skip
    partial.replace(path)


def _load(path: Path) -> Lengths:
    with np.load(path) as stored:
        problems = [Problem(*problem) for problem in json.loads(stored["problems"].tobytes())]
        return _lengths([stored[name] for name in ("tokens", "needed", "vision", "reduced")], problems, path)


def _lengths(columns: Sequence[np.ndarray] | np.ndarray, problems: Iterable[Problem], path: Path) -> Lengths:
    """Of tokens, needed, vision and reduced, and of the file that they are kept in."""
    tokens, needed, vision, reduced = columns
    return Lengths(tokens, needed, vision, reduced, tuple(problems), path.stem)
