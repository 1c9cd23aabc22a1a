"""One table between the tensor names of Hugging Face checkpoints and the parameter paths of this project.

    theirs   language_model.model.layers.7.self_attn.q_proj.weight   [out, in]
    ours     ('decoder', 'layers', 'attention', 'q', 'kernel')       [L, in, out], layer 7 of the stack

Every other file of `convert/` asks this one: what is read, checked, written and exported is the same list. The names of
NVLM-D are those of nvidia/NVLM-D-72B; NVLM-X and NVLM-H have no public layout, theirs stand in docs/checkpoints.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from nvlm_jax.config import ConfigError, ModelConfig, VisionConfig

# Parts of a checkpoint as `init.*` and `read_part` name them -> top-level part of our parameters.
PARTS = {"vision": "vision", "projector": "projector", "cross_attention": "cross_attention", "llm": "decoder"}
# What stands before a part's names in the checkpoint of a whole model. A single backbone has none of it.
PREFIXES = {"vision": "vision_model.", "projector": "mlp1.", "cross_attention": "cross_attention.",
            "llm": "language_model."}  # fmt: skip

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One of our parameters and the tensor, or the tensor of each layer, that holds it in a checkpoint.

    `shape` is that of one layer as we hold it. `form` says how it differs from theirs:

        plain      not at all
        matrix     [out, in] -> [in, out]
        gate       [1] -> []
        patch      convolution [C, 3, p, p] -> [p * p * 3, C], inputs in the order (row, column, colour)
        heads      [heads and dummy heads] -> [heads]
        heads_in   [out, heads and dummy heads] -> [heads, out]
        qkv        [3 * heads and dummy heads, in] -> [in, 3 * heads]
        qkv_bias   [3 * heads and dummy heads] -> [3 * heads]
    """

    ours: Path
    theirs: str  # the layer's number stands at {}
    form: str
    shape: tuple[int, ...]
    layers: int | None = None  # length of our leading axis; None = not stacked

    @property
    def names(self) -> list[str]:
        """Their names, in the order of our layers."""
        return [self.theirs] if self.layers is None else [self.theirs.format(i) for i in range(self.layers)]

    @property
    def turned(self) -> bool:
        """Whether rows of theirs are columns of ours."""
        return self.form in ("matrix", "heads_in", "qkv")

    @property
    def stacked_shape(self) -> tuple[int, ...]:
        """The shape of the parameter as the model holds it."""
        return self.shape if self.layers is None else (self.layers, *self.shape)

    def their_shape(self, dummy: int = 0) -> tuple[int, ...]:
        """The shape of one of their tensors, `dummy` channels of dummy heads in each of q, k and v included."""
        shape = self.shape
        match self.form:
            case "matrix":
                return shape[::-1]
            case "gate":
                return (1,)
            case "patch":
                side = int((shape[0] // 3) ** 0.5)
                return (shape[1], 3, side, side)
            case "heads":
                return (shape[0] + dummy,)
            case "heads_in":
                return (shape[1], shape[0] + dummy)
            case "qkv":
                return (shape[1] + 3 * dummy, shape[0])
            case "qkv_bias":
                return (shape[0] + 3 * dummy,)
        return shape

    @property
    def rows(self) -> Tensor:
        """What a block of rows of theirs is, within one of its `groups`: q, k and v are matrices."""
        return dataclasses.replace(self, form="matrix") if self.form == "qkv" else self

    @property
    def groups(self) -> int:
        """Into how many parts, each with dummy heads at its end, rows of theirs fall."""
        return 3 if self.form == "qkv" else 1

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """One of their tensors as one layer of ours, without dummy heads; a view where it can be."""
        match self.form:
            case "matrix":
                return array.T
            case "gate":
                return array.reshape(())
            case "patch":
                return array.transpose(2, 3, 1, 0).reshape(self.shape)
            case "heads":
                return array[: self.shape[0]]
            case "heads_in":
                return array[:, : self.shape[0]].T
            case "qkv":
                each = self.shape[1] // 3
                return array.reshape(3, -1, self.shape[0])[:, :each].reshape(3 * each, -1).T
            case "qkv_bias":
                each = self.shape[0] // 3
                return array.reshape(3, -1)[:, :each].reshape(-1)
        return array

    def to_theirs(self, array: np.ndarray, dummy: int = 0) -> np.ndarray:
        """The inverse of `to_ours`, with `dummy` channels of zeros put back in each of q, k and v."""
        match self.form:
            case "matrix":
                return transposed(array)
            case "gate":
                return array.reshape(1)
            case "patch":
                channels, _, side, _ = self.their_shape()
                return array.reshape(side, side, 3, channels).transpose(3, 2, 0, 1)
            case "heads":
                return np.pad(array, (0, dummy))
            case "heads_in":
                return np.pad(transposed(array), ((0, 0), (0, dummy)))
            case "qkv":
                parts = array.T.reshape(3, -1, self.shape[0])
                return np.pad(parts, ((0, 0), (0, dummy), (0, 0))).reshape(self.their_shape(dummy))
            case "qkv_bias":
                return np.pad(array.reshape(3, -1), ((0, 0), (0, dummy))).reshape(-1)
        return array


def tensors(config: ModelConfig, part: str, prefix: str | None = None) -> list[Tensor]:
    """All parameters of a part, in the order in which a checkpoint holds them.

    Args:
        config: sizes of the model.
        part: "vision", "projector", "cross_attention" or "llm".
        prefix: what stands before the names; None = as in the checkpoint of a whole model.
    """
    prefix = PREFIXES[part] if prefix is None else prefix
    table = {"vision": _vision, "projector": _projector, "cross_attention": _cross_attention, "llm": _llm}[part]
    return [dataclasses.replace(t, ours=(PARTS[part], *t.ours), theirs=prefix + t.theirs) for t in table(config)]


def parts_of(config: ModelConfig) -> list[str]:
    """The parts of a whole model of this architecture."""
    return [part for part in PARTS if part != "cross_attention" or config.cross_attention is not None]


def _linear(ours: Path, theirs: str, din: int, dout: int, bias: bool, layers: int | None) -> Iterator[Tensor]:
    yield Tensor((*ours, "kernel"), f"{theirs}.weight", "matrix", (din, dout), layers)
    if bias:
        yield Tensor((*ours, "bias"), f"{theirs}.bias", "plain", (dout,), layers)


def _vision(config: ModelConfig) -> Iterator[Tensor]:
    v = config.vision
    width, inner, count = v.width, v.heads * v.head_dim, v.layers
    patches = (v.image_size // v.patch_size) ** 2
    yield Tensor(("class_token",), "embeddings.class_embedding", "plain", (1, 1, width))
    yield Tensor(("patch", "bias"), "embeddings.patch_embedding.bias", "plain", (width,))
    yield Tensor(("patch", "kernel"), "embeddings.patch_embedding.weight", "patch", (3 * v.patch_size**2, width))
    yield Tensor(("position",), "embeddings.position_embedding", "plain", (1, 1 + patches, width))
    layer, ours = "encoder.layers.{}.", "layers"
    if v.qk_norm:
        for name in ("k_norm", "q_norm"):
            yield Tensor((ours, "attention", name, "scale"), f"{layer}attn.{name}.weight", "heads", (inner,), count)
    yield Tensor((ours, "attention", "out", "bias"), f"{layer}attn.proj.bias", "plain", (width,), count)
    yield Tensor((ours, "attention", "out", "kernel"), f"{layer}attn.proj.weight", "heads_in", (inner, width), count)
    if v.qkv_bias:
        yield Tensor((ours, "attention", "qkv", "bias"), f"{layer}attn.qkv.bias", "qkv_bias", (3 * inner,), count)
    yield Tensor((ours, "attention", "qkv", "kernel"), f"{layer}attn.qkv.weight", "qkv", (width, 3 * inner), count)
    yield Tensor((ours, "scale1"), f"{layer}ls1", "plain", (width,), count)
    yield Tensor((ours, "scale2"), f"{layer}ls2", "plain", (width,), count)
    yield from _linear((ours, "up"), f"{layer}mlp.fc1", width, v.ff, True, count)
    yield from _linear((ours, "down"), f"{layer}mlp.fc2", v.ff, width, True, count)
    yield Tensor((ours, "norm1", "scale"), f"{layer}norm1.weight", "plain", (width,), count)
    yield Tensor((ours, "norm2", "scale"), f"{layer}norm2.weight", "plain", (width,), count)


def _projector(config: ModelConfig) -> Iterator[Tensor]:
    shuffled, inner, width = config.vision.width * config.pixel_shuffle**2, config.projector_width, config.decoder.width
    yield Tensor(("norm", "bias"), "0.bias", "plain", (shuffled,))
    yield Tensor(("norm", "scale"), "0.weight", "plain", (shuffled,))
    yield from _linear(("first",), "1", shuffled, inner or width, False, None)
    if inner:
        yield from _linear(("second",), "3", inner, width, False, None)


def _llm(config: ModelConfig) -> Iterator[Tensor]:
    d = config.decoder
    yield Tensor(("embedding",), "model.embed_tokens.weight", "plain", (d.vocab_size, d.width))
    layer = "model.layers.{}."
    yield Tensor(("layers", "norm1", "scale"), f"{layer}input_layernorm.weight", "plain", (d.width,), d.layers)
    yield from _gated_mlp(config, layer, d.layers)
    name = f"{layer}post_attention_layernorm.weight"
    yield Tensor(("layers", "norm2", "scale"), name, "plain", (d.width,), d.layers)
    yield from _attention(config, ("layers", "attention"), f"{layer}self_attn.", d.qkv_bias, d.layers)
    yield Tensor(("norm", "scale"), "model.norm.weight", "plain", (d.width,))
    if not d.tied_embeddings:
        yield from _linear(("head",), "lm_head", d.width, d.vocab_size, False, None)


def _cross_attention(config: ModelConfig) -> Iterator[Tensor]:
    if config.cross_attention is None:
        return
    if config.cross_attention.resampler_latents:
        raise ConfigError("model.cross_attention.resampler_latents: an ablation, with no names in the released layout")
    d, layer = config.decoder, "layers.{}."
    count = d.layers // config.cross_attention.every
    if rows := config.cross_attention.tag_embeddings:
        yield Tensor(("tags",), "tag_embeddings.weight", "plain", (rows, d.width))
    yield Tensor(("layers", "norm1", "scale"), f"{layer}input_layernorm.weight", "plain", (d.width,), count)
    yield from _attention(config, ("layers",), f"{layer}cross_attn.", False, count)
    yield Tensor(("layers", "attention_gate"), f"{layer}cross_attn_attn_gate", "gate", (), count)
    yield Tensor(("layers", "norm2", "scale"), f"{layer}post_attention_layernorm.weight", "plain", (d.width,), count)
    yield from _gated_mlp(config, layer, count)
    yield Tensor(("layers", "mlp_gate"), f"{layer}cross_attn_mlp_gate", "gate", (), count)


def _attention(config: ModelConfig, ours: Path, theirs: str, bias: bool, count: int) -> Iterator[Tensor]:
    d = config.decoder
    inner, kv = d.heads * d.head_dim, d.kv_heads * d.head_dim
    for name, width in (("k", kv), ("q", inner), ("v", kv)):
        yield from _linear((*ours, name), f"{theirs}{name}_proj", d.width, width, bias, count)
    yield from _linear((*ours, "out"), f"{theirs}o_proj", inner, d.width, False, count)


def _gated_mlp(config: ModelConfig, layer: str, count: int) -> Iterator[Tensor]:
    d, ours = config.decoder, ("layers", "mlp")
    yield from _linear((*ours, "down"), f"{layer}mlp.down_proj", d.ff, d.width, False, count)
    yield from _linear((*ours, "gate"), f"{layer}mlp.gate_proj", d.width, d.ff, False, count)
    yield from _linear((*ours, "up"), f"{layer}mlp.up_proj", d.width, d.ff, False, count)


def transposed(matrix: np.ndarray, strip: int = 16) -> np.ndarray:
    """The transpose with its rows in one piece: a view where they are, else a copy.

    Copied a few rows at a time, for in one go every value would be a cache miss.
    """
    if matrix.flags.f_contiguous:
        return matrix.T
    out = np.empty(matrix.shape[::-1], matrix.dtype)
    for start in range(0, len(matrix), strip):
        out[:, start : start + strip] = matrix[start : start + strip].T
    return out


def dummy_channels(vision: VisionConfig, qk_norm_width: int) -> int:
    """Channels of dummy heads, from the width of a checkpoint's QK-norm; the config has no key for them.

    Raises:
        ValueError: the width is not that of whole heads, at least the real ones.
    """
    extra = qk_norm_width - vision.heads * vision.head_dim
    if extra < 0 or extra % vision.head_dim:
        real = f"{vision.heads} heads of {vision.head_dim}"
        raise ValueError(f"{qk_norm_width} wide; expected {real} and any number of whole dummy heads")
    return extra
