"""The dataclasses of a run. `configs/` holds functions that return a `Run`; nothing else describes one.

Every field's docstring is also its help on the command line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class VisionConfig:
    """ViT trunk of Qwen-VL (paper section 2.1; `visual.py` of the original)."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    patch: int
    """Pixels of a patch's side; the patch embedding's stride."""
    position_grid: int
    """Side of the stored table of absolute positions; other grids are interpolated from it."""
    activation: str = "gelu"
    """`gelu` (exact, the original's) or `relu2` (squared ReLU: a tenth of the cost on a CPU)."""


@dataclass(frozen=True)
class AdapterConfig:
    """Position-aware cross-attention adapter (`Resampler` of the original)."""

    query_grid: int
    """Side of the grid of learned queries; an image becomes query_grid ** 2 vision tokens."""
    heads: int
    initial_sharpness: float = 0.0
    """0: random query and key kernels, as the original. Above: both start as the same multiple of the identity, so that a
    query attends around its own position from the first step (for training from random weights)."""

    @property
    def queries(self) -> int:
        return self.query_grid**2


@dataclass(frozen=True)
class LanguageConfig:
    """Qwen LLM (`modeling_qwen.py` of the original)."""

    vocab_size: int
    """Rows of the embedding; at least the tokenizer's ids."""
    width: int
    layers: int
    heads: int
    mlp_width: int
    """Width of each of the two input matrices (half of the original's `intermediate_size`)."""
    rope_base: float = 10000.0
    training_length: int = 2048
    """Tokens of the rows that it was trained on (`seq_length`); the two fields below act on longer prompts, at inference."""
    dynamic_ntk: bool = True
    """Raises the rotary base with the length of the prompt (`use_dynamic_ntk`)."""
    logn: bool = True
    """Scales queries with the logarithm of their position (`use_logn_attn`)."""

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values: one for each of the queries."""
        return self.heads


@dataclass(frozen=True)
class QwenVLConfig:
    """All of Qwen-VL."""

    vision: VisionConfig
    adapter: AdapterConfig
    language: LanguageConfig


@dataclass(frozen=True)
class Qwen2VisionConfig:
    """ViT trunk and merger of Qwen2-VL (paper section 2.1; `vision_config` of the original)."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    patch: int = 14
    """Pixels of a patch's side."""
    temporal_patch: int = 2
    """Frames of a patch; an image is a pair of equal frames."""
    merge: int = 2
    """Side of the square of patches that becomes one vision token."""
    activation: str = "quick_gelu"
    """`quick_gelu` (the original's) or another name of `qwenvl_jax.models.layers.ACTIVATIONS`."""

    @property
    def patch_size(self) -> int:
        """Values of a patch: 3 channels, frames, rows, columns."""
        return 3 * self.temporal_patch * self.patch**2


@dataclass(frozen=True)
class Qwen2LanguageConfig:
    """Qwen2 LLM with M-RoPE (`modeling_qwen2_vl.py` of the original)."""

    vocab_size: int
    """Rows of the embedding; at least the tokenizer's ids."""
    width: int
    layers: int
    heads: int
    kv_heads: int
    """Heads of keys and values, each shared by heads / kv_heads queries."""
    mlp_width: int
    tied: bool
    """The output layer is the embedding (`tie_word_embeddings`)."""
    mrope_sections: tuple[int, ...] = (16, 24, 24)
    """Pairs of a head's dimensions that turn with the position in time, row and column."""
    rope_base: float = 1e6
    norm_eps: float = 1e-6
    """`rms_norm_eps`; text Qwen2-72B has 1e-5, so read it from the checkpoint."""


@dataclass(frozen=True)
class Qwen2VLConfig:
    """All of Qwen2-VL."""

    vision: Qwen2VisionConfig
    language: Qwen2LanguageConfig


ModelConfig = QwenVLConfig | Qwen2VLConfig
ARCHITECTURES: Mapping[str, type] = {"qwen_vl": QwenVLConfig, "qwen2_vl": Qwen2VLConfig}
"""What config.json calls the kinds of a model's configuration."""


@dataclass(frozen=True)
class PixelLimits:
    """How large a picture is shown to Qwen2-VL, in pixels; a vision token has 28 x 28 of them."""

    min_pixels: int
    max_pixels: int


@dataclass(frozen=True)
class VideoLimits:
    """Which frames of a video Qwen2-VL sees, and how large they are."""

    frames_per_second: float
    min_frames: int
    max_frames: int
    frame: PixelLimits
    """Limits of one frame."""
    total_pixels: int
    """Limit of all pairs of frames together: a token stands for two frames."""
    round_down: bool
    """Numbers of frames become even by rounding down instead of to the nearest."""


RELEASED_IMAGES = PixelLimits(4 * 784, 16384 * 784)
"""`preprocessor_config.json` of the released checkpoints; a vision token has 28 x 28 pixels."""
PAPER_VIDEOS = VideoLimits(2.0, 4, 768, PixelLimits(4 * 784, 768 * 784), 16384 * 784, round_down=False)
"""The paper's training: two frames per second, at most 16,384 tokens. It gives no least size of a frame; with that of
qwen-vl-utils 768 frames would have 49,152 tokens, so here it is that of images."""


@dataclass(frozen=True)
class Component:
    """One line of a mixture: samples of one task made from the records of one source."""

    task: str
    """A name of `data_pipelines.tasks.TASKS`."""
    source: str
    """A path below `DataConfig.root`, or an address (`gs://...`): see data_pipelines/README.md."""
    weight: float
    """Share of the samples (any scale; only ratios count)."""
    lanes: bool = False
    """Shuffled in lanes (`DataConfig.lanes`) rather than globally, for more shards than a disk holds. A source that lies
    elsewhere always is."""


@dataclass(frozen=True)
class ParameterRule:
    """One line of the parameter table: the first rule whose pattern matches a parameter's path decides."""

    pattern: str
    """Regular expression, matched against the whole path, e.g. `vision/blocks/.*`."""
    learning_rate: float = 1.0
    """Multiplier of the stage's learning rate."""
    weight_decay: float = 0.0
    layer_decay: float = 1.0
    """Stacked layers only: layer i of L gets layer_decay ** (L - i) (BEiT's rule; the paper publishes only 0.95)."""
    embedding_decay: int = 0
    """For what lies before the layers: layer_decay ** embedding_decay (BEiT: number of layers + 1)."""
    frozen: bool = False
    matrix: str = ""
    """Updated by Muon instead of Adam: the einops pattern that makes matrices of inputs and outputs of the dimensions, e.g.
    `l d n h -> l d (n h)`, or `(p4 d) f -> p4 d f` for four of them (an axis' number is its size). Muon's updates are about
    1 / sqrt(size) of Adam's, so the learning rate is higher."""


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `peak`, then cosine decay that reaches `end` at the stage's last step."""

    peak: float
    end: float
    warmup: int


@dataclass(frozen=True)
class Stage:
    """One stage of training: what is learned from which data, for how long."""

    name: str
    steps: int
    mixture: tuple[Component, ...]
    rows: int
    """Packed rows of a global batch."""
    sequence_length: int
    schedule: Schedule
    parameters: tuple[ParameterRule, ...]
    images_per_row: int = 0
    """Qwen-VL: image slots of a row (0: a stage of text alone)."""
    resolution: int = 0
    """Qwen-VL: side of the square that every image is resized to, in pixels."""
    patches_per_row: int = 0
    """Qwen2-VL: patches of a row, four for a vision token (0: a stage of text alone)."""
    image_limits: PixelLimits = RELEASED_IMAGES
    """Qwen2-VL: how large images are shown; one that has more patches than a row is shown smaller."""
    video_limits: VideoLimits = PAPER_VIDEOS
    """Qwen2-VL: which frames of videos are shown, and how large."""
    accumulation: int = 1
    """Slices of a global batch whose gradients are summed before the update."""
    pack_within_task: bool = True
    """A row holds samples of one task only, as in the paper (section 3.2); False packs across tasks."""
    patch_classes: tuple[int, ...] = ()
    """Not text but labels of the patches are learned, by the ViT alone: the number of classes of each kind of label."""

    @property
    def vision_per_row(self) -> int:
        """Room for images and videos in a row, as its model counts it: image slots, or patches."""
        return self.images_per_row or self.patches_per_row


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, as in Table 8 of the Qwen-VL paper."""

    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-6
    clip_norm: float = 1.0
    skip_above: float = 0.0
    """Norm of the gradient above which an update is skipped; 0: only one that is not finite is."""
    most_skipped: int = 20
    """Steps in a row whose update may be skipped; one more ends the run."""


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh's axes; -1 takes the devices that remain."""

    data: int = -1
    """Rows are split over it, parameters are whole; several slices of a TPU lie along it."""
    fsdp: int = 1
    """Rows and parameters are split over it."""
    tensor: int = 1
    """Heads, mlp and vocabulary are split over it."""
    context: int = 1
    """The positions of a row are split over it, for rows too long for one device, and the parameters. Attention exchanges
    positions for heads, so that context x tensor must divide the heads of every part of the model."""


@dataclass(frozen=True)
class PrecisionConfig:
    """Types of the training step, what it computes again, and what it keeps on the hosts."""

    compute: str = "bfloat16"
    """Type of activations and of matmul inputs; trained parameters keep float32 masters."""
    remat: str = "nothing"
    """What a layer keeps for the backward pass: a name of `qwenvl_jax.models.layers.REMAT_POLICIES`."""
    vision_remat: str = ""
    """The same for layers of the vision tower; as `remat` where it is empty."""
    attention: str = "auto"
    """`splash` (TPU), `cudnn` (NVIDIA's GPUs; Qwen2-VL's ViT keeps its own loop), `xla` (anywhere), or `auto`: splash on
    a TPU, xla elsewhere."""
    loss_chunks: int = 8
    """Slices of the vocabulary in which the loss is computed, so that no [B, S, vocabulary] array exists."""
    unroll: int = 1
    """Layers that one iteration of the scan over layers holds."""
    offload_moments: bool = False
    """Keeps the optimizer's moments in the hosts' memory: less on the devices; each step carries them there and back."""

    @property
    def remat_of_vision(self) -> str:
        """What a layer of the vision tower keeps."""
        return self.vision_remat or self.remat


@dataclass(frozen=True)
class DataConfig:
    """Where the data lies and how it is ordered."""

    root: str = "data"
    """Folder with the sources that mixtures name; `gs://`, `s3://` and `http(s)://` too."""
    cache: str = "data/.cache"
    """Folder that files of sources elsewhere are fetched into, on a local disk; processes of a machine may share it."""
    cache_bytes: int = 64 << 30
    """Bytes of the files in it: at least what is in use at a time, see `lane_window`."""
    tokenizer: str = "bytes"
    """`bytes`, `world` or `native` (byte pairs of a synthetic world), or a `qwen.tiktoken` file (or its folder)."""
    seed: int = 0
    window: int = 1024
    """Samples that are packed together."""
    workers: int = 0
    """Loader processes; 0 reads in a thread of the training process. The order is the same for every number."""
    max_bad_share: float = 0.2
    """Share of unreadable records, of a source or of the samples read so far, above which the run stops."""
    streams: int = 1
    """Equal parts of a batch's rows, each with samples of its own: a multiple of the processes, where each of them shall
    read and plan a part of the shards instead of all."""
    lanes: int = 16
    """Components in lanes: how many places of the corpus a stream reads from in turn."""
    lane_window: int = 8
    """Components in lanes: shards of a lane that are shuffled together. At most streams x lanes x (lane_window + 1)
    shards are in use at a time."""


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written."""

    every: int = 1000
    """Steps between two checkpoints."""
    keep: int = 3
    """Newest checkpoints that stay on disk."""


@dataclass(frozen=True)
class Run:
    """Everything that a run is."""

    name: str
    model: ModelConfig
    stages: tuple[Stage, ...]
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    seed: int = 0
    initial: str = ""
    """Run, checkpoint or converted folder that the first stage starts from; empty starts from random weights."""
    log_every: int = 10
    """Steps between two lines of metrics."""
    profile: tuple[int, ...] = ()
    """First and last step of each stage of which a trace is written, to WORKDIR/profile; empty writes none."""
    hang_seconds: float = 600.0
    """Within which a batch must come from the loader, and a step from the devices; else the run ends, to be started again.
    The first batch and the compiling may take six times as long, saving and evaluation any time."""
    lost_seconds: int = 100
    """Of several processes, one that gives no sign of life for so long counts as lost, and the others end."""
