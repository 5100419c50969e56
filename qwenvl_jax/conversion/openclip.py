"""The starting point of stage 1: OpenCLIP's ViT as the vision trunk, Qwen-7B as the language model, a new adapter.

OpenCLIP's tensors get the original Qwen-VL's names and layout, so that they go the way of a Hugging Face folder.
Source: `open_clip/transformer.py` (names, layout), `open_clip_config.json` beside the weights (heads).
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qwenvl_jax.config import AdapterConfig, LanguageConfig, PrecisionConfig, QwenVLConfig, VisionConfig
from qwenvl_jax.conversion.hugging_face import read_file
from qwenvl_jax.conversion.original_config import ADAPTER_HEAD, QUERY_GRID
from qwenvl_jax.conversion.stored_tensor import StoredTensor, Tensor
from qwenvl_jax.json_text import read_json
from qwenvl_jax.models.parameters import initialize, layout_of
from qwenvl_jax.models.weights import join, original_names

FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
CONFIG = "open_clip_config.json"
HEAD_SIZES = {1664: 104}
"""Width -> head size where no open_clip_config.json tells it: ViT-bigG."""

DROPPED = re.compile(r"(?!visual\.).*|visual\.(class_embedding|proj|ln_post\.(weight|bias))")
"""The text tower, and what follows the trunk in CLIP."""
POSITIONS = "visual.positional_embedding"
TRUNK = "transformer.visual."


@dataclass(frozen=True)
class MegatronRows:
    """A fused q, k, v projection of torch's MultiheadAttention, rows (qkv, head, size), in the original's row order
    (head, qkv, size)."""

    tensor: StoredTensor
    heads: int

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def dtype(self) -> np.dtype:
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        rows = self.tensor.read()
        split = rows.reshape(3, self.heads, -1, *self.shape[1:])
        return split.swapaxes(0, 1).reshape(self.shape)[start:stop]


@dataclass(frozen=True, eq=False)
class NewTensor:
    """A tensor that no file holds."""

    name: str
    array: np.ndarray

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        return self.array[start:stop]


def is_openclip(source: Path) -> bool:
    """Whether this is OpenCLIP's weights: a file, or a folder with one of `FILES`."""
    return source.is_file() or any((source / name).is_file() for name in FILES)


def read_tensors(source: Path) -> dict[str, StoredTensor]:
    """All tensors, by OpenCLIP's names.

    Raises:
      FileNotFoundError: there is no file of weights.
      ValueError: the file is damaged, or holds something else.
    """
    file = source if source.is_file() else next((source / n for n in FILES if (source / n).is_file()), None)
    if file is None:
        raise FileNotFoundError(
            f"{source} holds no weights of OpenCLIP; give the file, or a folder with one of {FILES}"
        )
    tensors = read_file(file)
    if "visual.conv1.weight" not in tensors:
        raise ValueError(f"{file} holds no ViT of OpenCLIP (no visual.conv1.weight); its state_dict is needed as it is")
    return tensors


def vision_config(source: Path, tensors: Mapping[str, StoredTensor]) -> VisionConfig:
    """Sizes from the tensors; the heads from open_clip_config.json beside them.

    Raises:
      ValueError: the sizes cannot be told, or the model here cannot compute this ViT.
    """
    conv, positions = tensors["visual.conv1.weight"], tensors.get(POSITIONS)
    up = tensors.get("visual.transformer.resblocks.0.mlp.c_fc.weight")
    if positions is None or up is None or len(conv.shape) != 4 or not up.shape or not positions.shape:
        raise ValueError(f"{source} lacks {POSITIONS} or its first block; is it a whole ViT of OpenCLIP?")
    file = (source if source.is_dir() else source.parent) / CONFIG
    described: dict[str, Any] = {}
    if file.is_file():
        try:
            model = read_json(file.read_bytes())["model_cfg"]
            described = {**model["vision_cfg"], "quick_gelu": model.get("quick_gelu", False)}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is no configuration of OpenCLIP ({error!r}); fetch it again") from error
    width, grid = conv.shape[0], math.isqrt(positions.shape[0] - 1)
    head = described.get("head_width", HEAD_SIZES.get(width))
    if head is None:
        raise ValueError(f"the head size of a ViT of width {width} is not known: put its {CONFIG} beside the weights")
    if type(head) is not int or head < 1 or width % head or described.get("quick_gelu"):
        raise ValueError(f"{file}: the model here needs heads that divide width {width}, and exact GELU")
    if grid**2 != positions.shape[0] - 1:
        raise ValueError(f"{POSITIONS} has {positions.shape[0]} rows, not a class token and a square")
    blocks = (re.match(r"visual\.transformer\.resblocks\.(\d+)\.", name) for name in tensors)
    return VisionConfig(
        width=width,
        layers=1 + max(int(match[1]) for match in blocks if match),
        heads=width // head,
        mlp_width=up.shape[0],
        patch=conv.shape[2],
        position_grid=grid,
    )


def stage_1_config(vision: VisionConfig, language: LanguageConfig) -> QwenVLConfig:
    """Both towers, and the adapter that the original has between them.

    Raises:
      ValueError: the language model's width does not divide into the adapter's heads.
    """
    if language.width % ADAPTER_HEAD:
        raise ValueError(f"hidden_size {language.width} of the language model is no multiple of {ADAPTER_HEAD}")
    return QwenVLConfig(vision, AdapterConfig(QUERY_GRID, language.width // ADAPTER_HEAD), language)


def openclip_name(name: str) -> str:
    """OpenCLIP's name of a tensor of the original's trunk."""
    name = name.removeprefix("transformer.")
    return name.replace("attn.in_proj.", "attn.in_proj_")


def is_trunk(name: str) -> bool:
    """Whether a tensor of the original belongs to the ViT trunk, which OpenCLIP has, and not to the adapter."""
    return name.startswith(TRUNK) and not re.match(TRUNK.replace(".", r"\.") + r"(attn_pool|ln_post|proj)\b", name)


def expected_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """OpenCLIP's names and shapes of what the trunk needs, from the original's."""
    expected = {openclip_name(name): shape for name, shape in shapes.items() if is_trunk(name)}
    rows, width = expected[POSITIONS]
    expected[POSITIONS] = (rows + 1, width)
    return expected


def trunk(tensors: Mapping[str, StoredTensor], shapes: Iterable[str], heads: int) -> dict[str, Tensor]:
    """The trunk by the original's names and in its layout: in_proj permuted, the class token's position left out."""
    found: dict[str, Tensor] = {}
    for name in filter(is_trunk, shapes):
        tensor = tensors[openclip_name(name)]
        if ".attn.in_proj." in name:
            found[name] = MegatronRows(tensor, heads)
        elif openclip_name(name) == POSITIONS:
            found[name] = _without_first_row(tensor)
        else:
            found[name] = tensor
    return found


def _without_first_row(tensor: StoredTensor) -> Tensor:
    if tensor.strides is not None:
        return NewTensor(tensor.name, tensor.read(1, tensor.shape[0]))
    row = math.prod(tensor.shape[1:]) * tensor.dtype.itemsize
    return dataclasses.replace(tensor, offset=tensor.offset + row, shape=(tensor.shape[0] - 1, *tensor.shape[1:]))


def new_adapter(config: QwenVLConfig, seed: int) -> dict[str, Tensor]:
    """The adapter by the original's names, float32, with the numbers that a new model of this seed has.

    Under jit the rest of the model is dead code: nothing else is allocated.
    """

    @jax.jit
    def adapter() -> dict[str, jax.Array]:
        parameters = initialize(config, PrecisionConfig(), seed)
        return {path: array for path, array in parameters.items() if path.startswith("adapter/")}

    arrays = {path: np.asarray(array) for path, array in adapter().items()}
    return {
        name: NewTensor(
            name, np.ascontiguousarray(join(entry, [arrays[path] for path in entry.paths], layout_of(config)))
        )
        for name, entry, _ in original_names(layout_of(config))
        if entry.paths[0] in arrays
    }
