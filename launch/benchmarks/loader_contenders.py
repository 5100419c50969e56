"""One contender of `launch.benchmarks.loaders` in a process of its own: `python -m launch.benchmarks.loader_contenders`
prints what it measured as JSON.

All have the same pictures, captions, decoder, resizing and tokenizer: the functions of `qwenvl_jax.processing`, which are
those of this package's own pipeline. Others get what a user of them would write around these functions; those named so
decode and resize with PIL, as their own documentation does, to the same bits, and PIL keeps its memory.
"""

import io
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import chain, islice, repeat
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import psutil
import tyro
from PIL import Image

from configs.qwen2_vl import SIZES
from configs.qwen_vl import qwen_vl
from data_pipelines.loader import StageLoader, open_loader
from data_pipelines.records import StoredImage
from data_pipelines.sources.captions import caption_question
from data_pipelines.streams import StreamWindow
from data_pipelines.tasks import picture_sample
from qwenvl_jax.config import Component, Run, Stage
from qwenvl_jax.processing.encoders import Encoder, PatchEncoder, stage_encoder
from qwenvl_jax.processing.images import decode_image, keep_memory
from qwenvl_jax.processing.patches import patchify
from qwenvl_jax.processing.resize import resize_bicubic

SHARDS, TARS, PARQUET, MDS = "shards", "tars", "parquet", "mds"
"""Folders of the data: ours, img2dataset's, Parquet, MosaicML's."""
SIDE = 512
"""Pixels of a made picture's sides."""
LONGEST = 512
"""Tokens that a sample of the others is padded to; here they have 280 to 380."""
PREFETCH = 2
"""Batches that a worker of any contender has ready (`data_pipelines.loader.READ_AHEAD`)."""
BUFFER = 1000
"""Samples that those shuffle through which read files from their beginning."""
RESUMED_STEP = 1000
"""Step from which a resumed run starts."""
WINDOWS = "windows.json"
"""In the data's folder: what a checkpoint of that step would hold."""


@dataclass(frozen=True)
class Shape:
    """What a stage makes of the pictures.

    Attributes:
      recipe: its run.
      stage: its name there.
      rows: of a batch.
      samples: of a batch of the others: as many as such rows hold.
      side: pixels of a resized picture's sides.
    """

    recipe: Callable[[], Run]
    stage: str
    rows: int
    samples: int
    side: int


SHAPES = {
    "stage 1, 512 -> 224": Shape(qwen_vl, "pretrain", 8, 52, 224),
    "stage 2, 512 -> 448": Shape(qwen_vl, "multitask", 4, 24, 448),
    "Qwen2-VL native, 512 -> 504": Shape(SIZES["qwen2-vl-2b"], "multitask", 1, 50, 504),
}


def shaped_run(shape: Shape, data: Path, source: str, workers: int) -> tuple[Run, Stage]:
    """The recipe's run and stage over the made captions alone."""
    run = shape.recipe()
    stage = next(stage for stage in run.stages if stage.name == shape.stage)
    stage = replace(stage, rows=shape.rows, steps=10**6, mixture=(Component("caption", source, 1.0),))
    return replace(run, data=replace(run.data, root=str(data), tokenizer="world", workers=workers)), stage


@dataclass(frozen=True)
class Transform:
    """From a JPEG and its caption to tokens [LONGEST] int32 and pixels: what the others' workers compute."""

    encoder: Encoder
    pil_side: int | None
    """Pixels of a side where PIL decodes and resizes; None: `encoder.pixels` does."""

    def __call__(self, data: bytes, caption: str) -> dict[str, np.ndarray]:
        asked = caption_question(caption)
        sample = picture_sample(StoredImage(data, SIDE, SIDE), [(asked.question, f" {asked.answer}")])
        encoded = self.encoder.encode(sample)
        tokens = np.full(LONGEST, self.encoder.tokenizer.eod_id, np.int32)
        tokens[: len(encoded.tokens)] = encoded.tokens
        if self.pil_side is None:
            [pixels] = self.encoder.pixels(sample, encoded)
        else:
            pixels = pil_pixels(data, self.pil_side)
        native = isinstance(self.encoder, PatchEncoder)
        return {"tokens": tokens, "pixels": patchify(pixels.reshape(-1, *pixels.shape[-3:])) if native else pixels}


def pil_pixels(data: bytes, side: int) -> np.ndarray:
    """[side, side, 3] uint8, the bits of `encoder.pixels`."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((side, side), Image.Resampling.BICUBIC))


def transform_of(shape: Shape, pil: bool = False) -> Transform:
    run, stage = shaped_run(shape, Path(), "", 0)
    return Transform(stage_encoder(run.model, stage, run.data.tokenizer), shape.side if pil else None)


@dataclass(frozen=True)
class ContenderOptions:
    """What one process measures."""

    contender: str
    shape: str
    data: Path
    workers: int
    seconds: float
    """Measured, behind the first batches; 0: only the time to the first batch."""
    resumed: bool = False
    """Ours alone: starts behind RESUMED_STEP steps."""


class Measured(NamedTuple):
    """What a contender did.

    Attributes:
      first: seconds from the start of its process to the first batch.
      rate: samples a second, of all workers together.
      cpu_rate: samples a second of CPU time, of all its processes together.
    """

    first: float
    rate: float
    cpu_rate: float


Batches = Iterator[int]
"""The number of samples of each batch, which the process has in memory by then."""


@contextmanager
def ours(source: str, options: ContenderOptions) -> Iterator[Batches]:
    run, stage = shaped_run(SHAPES[options.shape], options.data, source, options.workers)
    start, windows = 0, []
    if options.resumed:
        start = RESUMED_STEP
        windows = [StreamWindow(*known) for known in json.loads((options.data / WINDOWS).read_text())[options.shape]]
    with open_loader(run, stage, start, windows) as loader:
        yield (info.samples for _, info in loader)


def resumed_windows(loader: StageLoader) -> list[StreamWindow]:
    """Where the streams are at RESUMED_STEP."""
    rows = loader.plan.rows
    return list(loader.plan.windows(range(RESUMED_STEP * rows, (RESUMED_STEP + 1) * rows)))


def torch_batches(dataset: Any, options: ContenderOptions) -> Batches:
    """Through torch's DataLoader, whose workers write tensors into shared memory; again and again where it ends."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        dataset, batch_size=SHAPES[options.shape].samples, num_workers=options.workers, prefetch_factor=PREFETCH,
        persistent_workers=True, drop_last=True,
    )  # fmt: skip
    return (len(batch["tokens"]) for batch in chain.from_iterable(repeat(loader)))


@contextmanager
def webdataset(pil: bool, options: ContenderOptions) -> Iterator[Batches]:
    import webdataset as wds

    transform = transform_of(SHAPES[options.shape], pil)
    tars = sorted(map(str, (options.data / TARS).glob("*.tar")))
    dataset = wds.WebDataset(tars, shardshuffle=len(tars), resampled=True).shuffle(BUFFER).to_tuple("jpg", "txt")
    yield torch_batches(dataset.map(lambda pair: transform(pair[0], pair[1].decode())), options)


@contextmanager
def hugging_face(pil: bool, options: ContenderOptions) -> Iterator[Batches]:
    from datasets import load_dataset

    transform = transform_of(SHAPES[options.shape], pil)
    files = sorted(map(str, (options.data / PARQUET).glob("*.parquet")))
    cache = str(options.data / "datasets-cache")
    dataset = load_dataset("parquet", data_files=files, split="train", streaming=True, cache_dir=cache)
    dataset = dataset.shuffle(seed=0, buffer_size=BUFFER).map(transform, input_columns=["jpg", "txt"])
    yield torch_batches(dataset.remove_columns(["jpg", "txt"]), options)


def mosaic_package() -> Any:
    """MosaicML's package. It imports torchvision for its own vision sets alone, which are not used here; the wheels of
    torchvision on PyPI fail beside a torch for CPUs, so that empty modules stand for it."""
    if find_spec("streaming") is None:
        raise ModuleNotFoundError("No module named 'streaming'")
    import transformers  # noqa: F401, looks for torchvision when it is imported

    vision, functional = ModuleType("torchvision.datasets"), ModuleType("torchvision.transforms.functional")
    vision.__dict__.update(VisionDataset=object, CIFAR10=object)
    functional.__dict__.update(to_tensor=None)
    for module in (ModuleType("torchvision"), ModuleType("torchvision.transforms"), vision, functional):
        sys.modules.setdefault(module.__name__, module)
    import streaming

    return streaming


@contextmanager
def mosaic(pil: bool, options: ContenderOptions) -> Iterator[Batches]:
    transform = transform_of(SHAPES[options.shape], pil)

    class Pairs(mosaic_package().StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: Any) -> Any:
            pair = super().__getitem__(at)
            return transform(pair["jpg"], pair["txt"])

    dataset = Pairs(local=str(options.data / MDS), shuffle=True, batch_size=SHAPES[options.shape].samples)
    yield torch_batches(dataset, options)


OtherContender = Callable[[bool, ContenderOptions], AbstractContextManager[Batches]]
BY_PIL = ", PIL decodes and resizes"
OTHERS: dict[str, OtherContender] = {"webdataset": webdataset, "datasets": hugging_face, "streaming": mosaic}
CONTENDERS: dict[str, Callable[[ContenderOptions], AbstractContextManager[Batches]]] = {
    # name -> its batches
    "ours, shards": partial(ours, SHARDS),
    "ours, tars in place": partial(ours, TARS),
    **{name: partial(of_other, False) for name, of_other in OTHERS.items()},
    **{f"{name}{BY_PIL}": partial(of_other, True) for name, of_other in OTHERS.items()},
}
BARE, BARE_PIL = "bare loop", f"bare loop{BY_PIL}"
OURS = tuple(name for name in CONTENDERS if name.startswith("ours"))


def measure(options: ContenderOptions) -> Measured:
    me = psutil.Process()
    if options.contender.endswith(BY_PIL):
        keep_memory()  # workers of torch are forks
    with CONTENDERS[options.contender](options) as batches:
        next(batches)
        first = time.time() - me.create_time()
        if not options.seconds:
            return Measured(first, 0.0, 0.0)
        # Until buffers that were filled before the first batch came are empty.
        for _ in islice(batches, (PREFETCH + 1) * options.workers):
            pass
        samples, cpu, began = 0, cpu_seconds(me), time.perf_counter()
        while (elapsed := time.perf_counter() - began) < options.seconds:
            samples += next(batches)
        elapsed = time.perf_counter() - began
        return Measured(first, samples / elapsed, samples / (cpu_seconds(me) - cpu))


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process and all below it."""
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def our_pixels(data: bytes, side: int) -> np.ndarray:
    """[side, side, 3] uint8."""
    return resize_bicubic(decode_image(data), side, side)


def bare_loop(
    pixels: Callable[[bytes, int], np.ndarray], files: Sequence[bytes], side: int, seconds: float, ready: Any
) -> tuple[float, float]:
    """Samples a second, and of CPU time, of one process that has the JPEGs in memory."""
    for data in islice(files, 50):
        pixels(data, side)
    ready.wait()
    samples, cpu, began = 0, time.process_time(), time.perf_counter()
    while time.perf_counter() - began < seconds:
        pixels(files[samples % len(files)], side)
        samples += 1
    return samples / (time.perf_counter() - began), samples / (time.process_time() - cpu)


def _bare_worker(files: Sequence[bytes], options: ContenderOptions, ready: Any, results: Any) -> None:
    pixels = our_pixels
    if options.contender == BARE_PIL:
        keep_memory()
        pixels = pil_pixels
    results.put(bare_loop(pixels, files, SHAPES[options.shape].side, options.seconds, ready))


def measure_bare(options: ContenderOptions) -> Measured:
    """As many processes as the others have workers, at the same time."""
    from data_pipelines.sources.array_record import ArrayRecordSource

    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(options.workers), context.Queue()
    source = ArrayRecordSource(options.data / SHARDS)
    files = [source[n].images[0].data for n in range(0, len(source), -(-len(source) // BUFFER))]
    workers = [
        context.Process(target=_bare_worker, args=(files, options, ready, results)) for _ in range(options.workers)
    ]
    for worker in workers:
        worker.start()
    rates = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return Measured(0.0, sum(rate for rate, _ in rates), float(np.mean([cpu_rate for _, cpu_rate in rates])))


def main() -> None:
    options = tyro.cli(ContenderOptions)
    found = measure_bare(options) if options.contender in (BARE, BARE_PIL) else measure(options)
    print(json.dumps(found._asdict()), flush=True)


if __name__ == "__main__":
    main()
