"""Every setting of a run as typed, frozen dataclasses, and the one place where plain mappings become them.

`configs/` writes `ml_collections.ConfigDict`s; `from_mapping(RunConfig, config)` checks every key and type
and raises `ConfigError` that lists all faults at once, each with its key and what would be right.
Sizes are in tokens, tiles, rows or parameters' widths; learning rates are per step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from nvlm_jax.mapping import Unsaid, build
from nvlm_jax.mapping import to_mapping as to_mapping
from nvlm_jax.ranges import (
    Axis,
    Count,
    Epsilon,
    Factor,
    Layers,
    Momentum,
    Range,
    Rate,
    Share,
    Size,
    Steps,
    range_faults,
)

ARCHS = ("d", "x", "h")
TILE_TAGS = ("none", "1d", "grid", "box")
# How the tag of a tile enters NVLM-H's cross-attention; see models/tile_tags.py.
CROSS_TAGS = ("", "joined", "added", "positions", "joined+positions")
TEMPLATES = ("chatml", "plain", "checkpoint", "dense")
REMATS = ("none", "dots", "full")
RESIZES = ("pillow", "opencv")
LOSS_PERS = ("token", "sample", "sqrt")
CROSS_ATTENTION_INITS = ("", "decoder")
DTYPES = ("float32", "bfloat16")
LOCAL_KINDS = ("", "slices", "gke")
SYSTEM = "Follow the user's instruction and answer questions."
# Keys of earlier versions, as saved with checkpoints.
RENAMED = {"joined_image_prefix": "joined_as_released_hf"}
T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that cannot run. The message lists each faulty key."""


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """InternViT. Defaults are InternViT-6B-448px-V1-5."""

    image_size: Size = 448
    patch_size: Size = 14
    width: Size = 3200
    layers: Layers = 45
    heads: Size = 25
    head_dim: Size = 128
    ff: Size = 12800
    norm_eps: Epsilon = 1e-6
    qk_norm: bool = True  # RMSNorm over all heads' width at once, before the split into heads
    qkv_bias: bool = False
    layer_scale_init: Annotated[float, Range(-1e3, 1e3)] = 0.1


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """A Qwen2 or Llama/Yi decoder. Defaults are Qwen2-72B-Instruct."""

    vocab_size: Size = 152064
    width: Size = 8192
    layers: Layers = 80
    heads: Size = 64
    kv_heads: Size = 8
    head_dim: Size = 128
    ff: Size = 29568
    rope_theta: Annotated[float, Range(0, 1e15, above=True)] = 1e6
    norm_eps: Epsilon = 1e-6
    qkv_bias: bool = True
    tied_embeddings: bool = False
    max_positions: Annotated[int, Range(1, 10**9)] = (
        32768  # as the backbone's config.json says; a limit only where there is a factor
    )
    rope_scaling_factor: Factor = 0.0  # of "dynamic" RoPE scaling, felt beyond max_positions alone; 0 = none


@dataclasses.dataclass(frozen=True)
class CrossAttentionConfig:
    """Gated cross-attention (NVLM-X and NVLM-H): one layer to every `every` decoder layers."""

    every: Size = 8
    gate_init: Annotated[float, Range(-1e3, 1e3)] = 0.0  # of both tanh gates of a layer
    last_gate_init: Annotated[float, Range(-1e3, 1e3)] = 0.0  # of the last layer's attention gate instead
    tag_embeddings: Count = 0  # of H's before `tile_tags`: rows of a learned table of tags that join the keys; 0 = none
    resampler_latents: Count = 0  # > 0: a Perceiver in front makes so many tokens of a tile's; NVLM has none (ablation)
    resampler_layers: Annotated[int, Range(0, 10**4)] = 2
    place: Count = 0  # which of the `every` a gated layer stands before; 0 = the first, as in NVLM
    # NVLM-H: joined | added | positions | joined+positions: what a tile's keys know of its tag. Empty = nothing, or the
    # table above.
    tile_tags: str = ""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """NVLM = vision encoder + projector + decoder (+ gated cross-attention)."""

    arch: str = "d"
    vision: VisionConfig = VisionConfig()
    decoder: DecoderConfig = DecoderConfig()
    projector_width: Count = 29568  # inner width of the two-layer MLP; 0 = a single layer (NVLM-X)
    cross_attention: CrossAttentionConfig | None = None
    pixel_shuffle: Size = 2  # patches along each side that become one image token
    dtype: str = "bfloat16"  # of the computation
    frozen_dtype: str = "bfloat16"  # of the parameters that are not trained; trained ones are float32
    remat: str = "full"  # none | dots | full
    unroll: Size = 1  # layers of one step of the scans; for few small layers on CPU all at once is faster
    loss_chunk: Size = 512  # tokens of a row whose logits exist at once
    dense_labels: Count = 0  # > 0 builds the encoder with a head of so many labels an image token, to pretrain it

    @property
    def tokens_per_tile(self) -> int:
        side = self.vision.image_size // self.vision.patch_size // self.pixel_shuffle
        return side * side


@dataclasses.dataclass(frozen=True)
class InputConfig:
    """How a sample becomes tokens and tiles. Stored with every checkpoint: it is part of the model."""

    tokenizer: str = ""  # a directory with tokenizer.json, or that file; the commands take init's where it is empty
    tile_tags: str = "1d"  # none | 1d | grid | box
    max_tiles: Annotated[int, Range(1, 10**4)] = 6  # regular tiles of an image, without the thumbnail
    thumbnail: bool = True
    resize: str = "pillow"  # pillow: the rule to the pixel | opencv: quicker, some levels off (docs/performance.md)
    thumbnail_tag: str = "<tile_global_thumbnail>"  # <tile_global> with Yi
    image_token: str = "<|vision_pad|>"
    end_token: str = "<|im_end|>"
    # chatml (SFT) | plain (pretraining: image block, prompt, answer) | checkpoint (the template beside the tokenizer) |
    # dense (encoder labels)
    template: str = "chatml"
    system: str = Unsaid(SYSTEM)  # empty = none, or the checkpoint's own; with template checkpoint empty if unsaid
    date: str = "2024-07-26"  # what a template that writes today's date takes for it: lengths and runs do not age
    joined_as_released_hf: bool = False  # "<Image><tile_1>" tokenized as one string, as the released HF code serves it
    question_tags: bool = True  # a tag in a user's text reads its tile in cross-attention as the block's own tags do
    question_focus: bool = False  # and where a question names one tile, so does the rest of its turn, answer included
    max_images: Size = 8  # of one sample

    def __post_init__(self) -> None:
        unsaid = isinstance(self.system, Unsaid) and self.template == "checkpoint"
        object.__setattr__(self, "system", "" if unsaid else str(self.system))


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """Where weights come from before the first step: HF directory, Orbax checkpoint or workdir; empty = fresh."""

    vision: str = ""
    llm: str = ""
    projector: str = ""
    cross_attention: str = ""  # decoder = gated layers start as copies of the decoder layers behind them; empty = fresh
    checkpoint: str = ""  # all parts at once (a previous stage); excludes the others
    other_tokenizer: bool = False  # inputs.tokenizer may be another than that of `llm`, which then learns new ids


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """One dataset of the blend: a directory of ArrayRecord shards with an index beside them."""

    name: str = ""
    path: str = ""
    weight: Annotated[float, Range(0, 1e12)] = (
        1.0  # share of samples, normalised over the blend; see data.size_exponent
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The blend and the budgets of a packed row."""

    blend: tuple[DatasetConfig, ...] = ()
    # A dataset's share is its weight times its samples to this power: 0 = the weights alone, 1 = by size, 1/t =
    # temperature t.
    size_exponent: Share = 0.0
    text_share: Share = 0.0  # of samples from datasets without images; 0 = as their weights say
    loss_per: str = "token"  # token | sample | sqrt: a sample weighs as its trained tokens, as 1, as their square root
    tokens_per_row: Size = 8192  # S
    tiles_per_row: Count = 26  # T
    pack_window: Size = 4096  # samples looked at together when rows are filled
    workers: Annotated[int, Range(0, 1024)] = 0  # Grain worker processes; 0 reads in a thread of this process
    max_bad_share: Share = 0.01  # of the samples read so far; above it the run stops with the list


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with decoupled weight decay, cosine with warm-up, clip by global norm."""

    learning_rate: Rate = 1e-4
    min_learning_rate: Rate = 1e-5
    warmup_steps: Annotated[int, Range(0, 10**9)] = 500
    beta1: Momentum = 0.9
    beta2: Momentum = 0.95
    eps: Epsilon = 1e-8
    weight_decay: Rate = 0.1
    decay_vectors: bool = False  # True decays norms, biases and gates too
    clip_norm: Annotated[float, Range(0, 1e9, above=True)] = 1.0
    gate_learning_rate_scale: Factor = 1.0  # times the learning rate, for the tanh gates alone


@dataclasses.dataclass(frozen=True)
class LocalCheckpointConfig:
    """Checkpoints on the hosts themselves, between those of the workdir (docs/checkpoints.md)."""

    kind: str = ""  # empty = none | slices | gke
    directory: str = ""  # on each host, in memory or on its own disk; $VARIABLES are filled in
    every: Steps = 50  # steps


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    steps: Steps = 20000
    batch_rows: Size = 256  # rows of a global batch, B; accumulation divides it
    accumulation: Size = 1
    trainable: tuple[str, ...] = ("projector",)  # top-level parts: vision, projector, cross_attention, decoder
    checkpoint_every: Steps = 1000
    keep_checkpoints: Size = 3
    local: LocalCheckpointConfig = LocalCheckpointConfig()
    log_every: Steps = 10
    hang_seconds: Annotated[float, Range(0, 1e9, above=True)] = (
        1800.0  # several processes: without progress of any, the run is ended and says who hangs
    )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; -1 takes what is left."""

    data: Axis = 1
    fsdp: Axis = -1
    tensor: Axis = 1
    context: Axis = 1


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything about one run."""

    name: str = ""  # arch, size and stage, as in the config's argument string
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    model: ModelConfig = ModelConfig()
    inputs: InputConfig = InputConfig()
    init: InitConfig = InitConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()


def from_mapping(cls: type[T], mapping: Mapping[str, Any], stored: bool = False) -> T:
    """Build the dataclass `cls` from a nested mapping.

    Args:
        cls: RunConfig, or a part of it.
        mapping: its keys and values.
        stored: the mapping was saved with a checkpoint, a workdir or a sweep. It ran, so its numbers are not held to
            today's ranges; a run that goes on with them is (`check_training`).

    Raises:
        ConfigError: lists every unknown key (with the nearest valid one), every value of the wrong type, every number
            out of its range and, for a `RunConfig`, every impossible combination.
    """
    faults: list[str] = []
    value = build(cls, mapping, faults, RENAMED)
    if not stored and isinstance(value, RunConfig):
        value = _own_system(value)
    if not faults and isinstance(value, RunConfig):
        faults = run_faults(value)
    whole = isinstance(value, RunConfig)
    _raise(faults if stored else (training_faults if whole else range_faults)(value) + faults)
    return value


def check_training(run: RunConfig) -> None:
    """Raise ConfigError, with all faults, unless a run can train with its numbers; `from_mapping` has done so."""
    _raise(training_faults(run))


def _own_system(run: RunConfig) -> RunConfig:
    """Named configurations spell the default text out; it must not displace that of a checkpoint's template."""
    if run.inputs.template != "checkpoint" or run.inputs.system != SYSTEM:
        return run
    return dataclasses.replace(run, inputs=dataclasses.replace(run.inputs, system=""))


def _raise(faults: Sequence[str]) -> None:
    if faults:
        raise ConfigError("invalid configuration:\n  " + "\n  ".join(faults))


def training_faults(run: RunConfig) -> list[str]:
    """Numbers and names that a run cannot train with, one line a fault; what was saved with them is still read."""
    inputs, optimizer, model = run.inputs, run.optimizer, run.model
    highest, lowest = optimizer.learning_rate, optimizer.min_learning_rate
    checks = [
        (
            not lowest > highest,
            f"optimizer.min_learning_rate: {lowest} is above optimizer.learning_rate {highest}, which falls to it",
        ),
        (
            inputs.image_token not in (inputs.end_token, "<|im_start|>"),
            f"inputs.image_token: {inputs.image_token!r} begins or ends a message (inputs.end_token); an image's "
            "places need a token of their own",
        ),
        (model.dtype in DTYPES, f"model.dtype: {model.dtype!r} is none of {', '.join(DTYPES)}"),
        (model.frozen_dtype in DTYPES, f"model.frozen_dtype: {model.frozen_dtype!r} is none of {', '.join(DTYPES)}"),
    ]
    return range_faults(run) + [message for holds, message in checks if not holds]


def run_faults(run: RunConfig) -> list[str]:
    """What cannot work in a configuration whose keys and types are right, one line a fault."""
    model, inputs, cross = run.model, run.inputs, run.model.cross_attention
    checks = [
        (model.arch in ARCHS, f"model.arch: {model.arch!r} is none of {', '.join(ARCHS)}"),
        (model.arch != "d" or cross is None, "model.cross_attention: arch d has no cross-attention; leave it None"),
        (model.arch == "d" or cross is not None, f"model.cross_attention: arch {model.arch} needs it; it is None"),
        (inputs.tile_tags in TILE_TAGS, f"inputs.tile_tags: {inputs.tile_tags!r} is none of {', '.join(TILE_TAGS)}"),
        (inputs.resize in RESIZES, f"inputs.resize: {inputs.resize!r} is none of {', '.join(RESIZES)}"),
        (inputs.template in TEMPLATES, f"inputs.template: {inputs.template!r} is none of {', '.join(TEMPLATES)}"),
        (model.remat in REMATS, f"model.remat: {model.remat!r} is none of {', '.join(REMATS)}"),
        (
            bool(model.dense_labels) == (inputs.template == "dense"),
            f"model.dense_labels: {model.dense_labels} with inputs.template {inputs.template!r}; both or neither",
        ),
        (
            not run.init.checkpoint or not any(getattr(run.init, key) for key in ("vision", "llm", "projector")),
            "init.checkpoint: is the whole model; leave init.vision, init.llm and init.projector empty",
        ),
        (
            run.init.cross_attention in CROSS_ATTENTION_INITS,
            f"init.cross_attention: {run.init.cross_attention!r} is neither empty nor 'decoder'",
        ),
        (
            not run.init.cross_attention or (cross is not None and not run.init.checkpoint),
            "init.cross_attention: for archs x and h without init.checkpoint, which has those layers; leave it empty",
        ),
        (
            _divides(run.train.accumulation, run.train.batch_rows),
            f"train.accumulation: {run.train.accumulation} does not divide train.batch_rows {run.train.batch_rows}",
        ),
        (
            run.data.loss_per in LOSS_PERS,
            f"data.loss_per: {run.data.loss_per!r} is none of {', '.join(LOSS_PERS)}",
        ),
        (bool(run.train.trainable), "train.trainable: names no part; nothing would be trained"),
        (
            run.train.local.kind in LOCAL_KINDS,
            f"train.local.kind: {run.train.local.kind!r} is neither empty nor 'slices' or 'gke'",
        ),
        (
            not run.train.local.kind or bool(run.train.local.directory),
            f"train.local: kind {run.train.local.kind!r} needs a directory of each host",
        ),
    ]
    checks += _shape_checks(model)
    if cross is not None:
        checks += _tag_checks(model.arch, cross, inputs.max_tiles)
    return [message for holds, message in checks if not holds]


def _shape_checks(model: ModelConfig) -> list[tuple[bool, str]]:
    vision, decoder, cross = model.vision, model.decoder, model.cross_attention
    side = vision.patch_size * model.pixel_shuffle
    checks = [
        (
            _divides(side, vision.image_size),
            f"model.vision.image_size: {vision.image_size} is no multiple of patch_size * pixel_shuffle = {side}",
        ),
        (
            _divides(decoder.kv_heads, decoder.heads),
            f"model.decoder.kv_heads: {decoder.kv_heads} does not divide heads {decoder.heads}",
        ),
    ]
    if cross is not None:
        every = cross.every
        text = f"model.cross_attention.every: {every} does not divide decoder.layers {decoder.layers}"
        checks.append((_divides(every, decoder.layers), text))
        text = f"model.cross_attention.place: {cross.place} is none of a group's {every} layers, 0 to {every - 1}"
        checks.append((cross.place < max(every, 1), text))
        latents, layers = cross.resampler_latents, cross.resampler_layers
        text = f"model.cross_attention.resampler_layers: {layers} layers for {latents} latents; at least 1"
        checks.append((latents <= 0 or layers > 0, text))
    return checks


def _tag_checks(arch: str, cross: CrossAttentionConfig, max_tiles: int) -> list[tuple[bool, str]]:
    tags, rows = cross.tile_tags, cross.tag_embeddings
    known = ", ".join(map(repr, CROSS_TAGS))
    return [
        (tags in CROSS_TAGS, f"model.cross_attention.tile_tags: {tags!r} is none of {known}"),
        (
            not tags or arch == "h",
            f"model.cross_attention.tile_tags: {tags!r} is NVLM-H's; arch {arch} has tags in its text, leave it empty",
        ),
        (
            not (tags and rows),
            f"model.cross_attention.tag_embeddings: a table of {rows} beside tile_tags {tags!r}; 0 would be right, or "
            "an empty tile_tags for a checkpoint that has the table",
        ),
        (
            not rows or max_tiles <= rows,
            f"inputs.max_tiles: {max_tiles} tiles an image, but model.cross_attention.tag_embeddings is a table of "
            f"{rows} tags, one a tile; at most so many (model.cross_attention.tile_tags, for new runs, has no limit)",
        ),
    ]


def _divides(part: int, whole: int) -> bool:
    """A part that is no positive number is said by its range."""
    return part < 1 or whole % part == 0
