"""`config.json` of Hugging Face checkpoints -> this project's configuration.

Whole NVLM models and the backbones that it is made of. No code of a checkpoint is ever run: an architecture is read if
it stands here, and a setting that would change what the model computes and that we do not have is an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nvlm_jax.config import (
    TILE_TAGS,
    ConfigError,
    CrossAttentionConfig,
    DecoderConfig,
    InputConfig,
    ModelConfig,
    RunConfig,
    VisionConfig,
    from_mapping,
    run_faults,
)
from nvlm_jax.convert.chat_template import conversing
from nvlm_jax.convert.shards import NAMED, CheckpointError, Shards, open_shards, read_json
from nvlm_jax.ranges import range_faults

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
GENERATION_CONFIG = "generation_config.json"
# Ours: in the config.json that we export, what the released layout has no key for.
OWN_KEY = "nvlm_jax"
MODELS = {"NVLM_D": "d", "NVLM_D_Model": "d", "NVLM_X": "x", "NVLM_H": "h"}
VISION_MODELS = ("InternVisionModel",)
# What no model is near: hostile numbers end here and not in memory. By key, of other sizes 10**7.
LARGEST = {"num_hidden_layers": 10**4, "max_position_embeddings": 10**9, "max_dynamic_patch": 10**4}
LARGEST_NUMBER = 1e15
LLM_MODELS = {"Qwen2ForCausalLM": True, "LlamaForCausalLM": False}  # -> biases on q, k and v


def read_config(path: str | Path) -> dict[str, Any] | None:
    """The `config.json` of a checkpoint directory, or beside a single shard; None if there is none."""
    path = Path(path)
    file = (path.parent if path.is_file() else path) / CONFIG
    return read_json(file) if file.exists() else None


def architecture(config: Mapping[str, Any], path: str | Path) -> str:
    """The first of `architectures`.

    Raises:
        CheckpointError: it is none that we read, for example one that needs code of the checkpoint to be run.
    """
    names = _architectures(config) or ["none"]
    known = [*MODELS, *VISION_MODELS, *LLM_MODELS]
    if names[0] not in known:
        remote = " (its `auto_map` asks for code of the checkpoint to be run, which we never do)"
        raise CheckpointError(
            f"{Path(path) / CONFIG}: architectures {names!s:.{NAMED}} is unknown{remote * ('auto_map' in config)}; "
            f"known are {', '.join(known)}"
        )
    return names[0]


def config_from_hf(path: str | Path) -> tuple[ModelConfig, InputConfig]:
    """The model and the inputs of a whole NVLM model in Hugging Face layout.

    The inner width of the projector is in no config and is read from the shape of `mlp1.1.weight`.

    Raises:
        CheckpointError: no config.json, an unknown architecture, or a setting that we do not have.
    """
    path = Path(path)
    if not path.is_dir():
        expected = "a Hugging Face directory, a workdir or a step of one"
        raise CheckpointError(f"{path}: no such directory; expected {expected}")
    config = read_json(path / CONFIG)
    name = architecture(config, path)
    if name not in MODELS:
        raise CheckpointError(f"{path / CONFIG}: {name} is a single backbone; expected one of {', '.join(MODELS)}")
    own = _section(config, OWN_KEY, path) if OWN_KEY in config else {}
    dtype = dtype_from_hf(config)
    cross = own.get("cross_attention")
    model = ModelConfig(
        arch=MODELS[name],
        vision=vision_from_hf(_section(config, "vision_config", path), path, config.get("force_image_size")),
        decoder=decoder_from_hf(_section(config, "llm_config", path), path),
        projector_width=_projector_width(open_shards(path), path),
        cross_attention=None if cross is None else _own(CrossAttentionConfig, cross, path),
        pixel_shuffle=_pixel_shuffle(config, path),
        dtype=dtype,
        frozen_dtype=dtype,
    )
    inputs = _own(InputConfig, own["inputs"], path) if "inputs" in own else _inputs(config, path)
    inputs = dataclasses.replace(inputs, tokenizer=str(path) if (path / TOKENIZER).exists() else "")
    run = RunConfig(model=model, inputs=inputs)
    if faults := range_faults(run) or run_faults(run):
        raise CheckpointError(f"{path / CONFIG}: " + "; ".join(faults))
    return model, inputs


def backbone_from_hf(path: str | Path) -> tuple[str, VisionConfig | DecoderConfig]:
    """Which part a single backbone is, "vision" or "llm", and its sizes.

    Raises:
        CheckpointError: as `config_from_hf`.
    """
    config = read_json(Path(path) / CONFIG)
    name = architecture(config, path)
    if name in VISION_MODELS:
        return "vision", vision_from_hf(config, path)
    if name in LLM_MODELS:
        return "llm", decoder_from_hf(config, path)
    raise CheckpointError(f"{Path(path) / CONFIG}: {name} is a whole model; expected a single backbone")


def part_from_hf(path: str | Path, part: str) -> VisionConfig | DecoderConfig | None:
    """Sizes of one backbone in the checkpoint at `path`, whole model or single; None without a config.json."""
    config = read_config(path)
    if config is None:
        return None
    name = architecture(config, path)
    if part == "vision" and (name in MODELS or name in VISION_MODELS):
        section = config if name in VISION_MODELS else _section(config, "vision_config", path)
        return vision_from_hf(section, path, config.get("force_image_size"))
    if part == "llm" and (name in MODELS or name in LLM_MODELS):
        return decoder_from_hf(config if name in LLM_MODELS else _section(config, "llm_config", path), path)
    raise CheckpointError(f"{path}: {name} has no {part} in it")


def vision_from_hf(config: Mapping[str, Any], path: str | Path, image_size: int | None = None) -> VisionConfig:
    """InternViT's section. `image_size` overrides the section's own, as `force_image_size` does.

    Raises:
        CheckpointError: a missing key, or a setting that we do not have.
    """
    forced = {} if image_size is None else {"image_size": image_size}
    get = _Getter({**config, **forced}, "vision_config", path)
    _require(get("norm_type", "rms_norm"), ("rms_norm",), "vision_config.norm_type", path)
    _require(get("hidden_act", "gelu"), ("gelu",), "vision_config.hidden_act", path)
    _require(get("num_channels", 3), (3,), "vision_config.num_channels", path)
    width, heads = get.size("hidden_size"), get.size("num_attention_heads")
    return VisionConfig(
        image_size=get.size("image_size"),
        patch_size=get.size("patch_size"),
        width=width,
        layers=get.size("num_hidden_layers"),
        heads=heads,
        head_dim=width // heads,
        ff=get.size("intermediate_size"),
        norm_eps=get.number("layer_norm_eps", 1e-6),
        qk_norm=get.flag("qk_normalization", True),
        qkv_bias=get.flag("qkv_bias", False),
        layer_scale_init=get.number("initializer_factor", 0.1, zero=True),  # of fresh weights alone
    )


def decoder_from_hf(config: Mapping[str, Any], path: str | Path) -> DecoderConfig:
    """The section of a Qwen2 or Llama decoder.

    `architectures` says which, not `model_type`: the released NVLM-D has model_type "llama" for a Qwen2.

    Raises:
        CheckpointError: a missing key, or a setting that we do not have.
    """
    get = _Getter(config, "llm_config", path)
    by_type = {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}.get(str(config.get("model_type")), "none")
    name = (_architectures(config) or [by_type])[0]
    _require(name, tuple(LLM_MODELS), "llm_config.architectures", path)
    _require(get("hidden_act", "silu"), ("silu",), "llm_config.hidden_act", path)
    _require(get.flag("use_sliding_window", False), (False,), "llm_config.use_sliding_window", path)
    _require(get.flag("mlp_bias", False), (False,), "llm_config.mlp_bias", path)
    if not LLM_MODELS[name]:  # in Llama this key also puts a bias on o_proj; Qwen2 ignores it
        _require(get.flag("attention_bias", False), (False,), "llm_config.attention_bias", path)
    width, heads = get.size("hidden_size"), get.size("num_attention_heads")
    rope_theta, rope_scaling_factor = _rope(config, path)
    return DecoderConfig(
        vocab_size=get.size("vocab_size"),
        width=width,
        layers=get.size("num_hidden_layers"),
        heads=heads,
        kv_heads=get.size("num_key_value_heads", heads),
        head_dim=get.size("head_dim", width // heads),
        ff=get.size("intermediate_size"),
        rope_theta=rope_theta,
        norm_eps=get.number("rms_norm_eps", 1e-6),
        qkv_bias=LLM_MODELS[name],
        tied_embeddings=get.flag("tie_word_embeddings", False),
        max_positions=get.size("max_position_embeddings", DecoderConfig.max_positions),
        rope_scaling_factor=rope_scaling_factor,
    )


def dtype_from_hf(config: Mapping[str, Any]) -> str:
    """ "bfloat16" or "float32"; float16 checkpoints compute in bfloat16."""
    name = str(config.get("torch_dtype") or config.get("dtype") or "bfloat16").removeprefix("torch.")
    return "float32" if name in ("float32", "float64") else "bfloat16"


def end_ids(path: str | Path) -> list[int]:
    """The ids that end an answer, by generation_config.json or config.json; none if neither says."""
    config = read_config(path) or {}
    file = Path(path) / GENERATION_CONFIG
    candidates = [read_json(file) if file.exists() else {}, config.get("llm_config") or {}, config]
    ends = next((c["eos_token_id"] for c in candidates if c.get("eos_token_id") is not None), [])
    return ends if isinstance(ends, list) else [ends]


def _architectures(config: Mapping[str, Any]) -> list[Any]:
    names = config.get("architectures") or []
    return names if isinstance(names, list) else [names]


def _rope(config: Mapping[str, Any], path: str | Path) -> tuple[float, float]:
    """The base of the rotary positions, and the factor of dynamic scaling, which sets in beyond all positions."""
    newer = _section(config, "rope_parameters", path) if config.get("rope_parameters") else {}
    scaling = _section(config, "rope_scaling", path) if config.get("rope_scaling") else newer
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    _require(kind, ("default", "dynamic"), "llm_config.rope_scaling.type", path)
    factor = _Getter(scaling, "llm_config.rope_scaling", path).number("factor", 1.0) if kind == "dynamic" else 0.0
    return _Getter({**newer, **config}, "llm_config", path).number("rope_theta", 10000.0), factor


def _inputs(config: Mapping[str, Any], path: Path) -> InputConfig:
    llama = _architectures(config["llm_config"])[:1] == ["LlamaForCausalLM"]
    get, tags = _Getter(config, "config", path), {"nvlm": "1d", None: "none"} | {style: style for style in TILE_TAGS}
    _require(config.get("image_tag_type"), tuple(tags), "image_tag_type", path)
    inputs = InputConfig(
        tile_tags=tags[config.get("image_tag_type")],
        max_tiles=get.size("max_dynamic_patch", 6) if get.flag("dynamic_image_size", True) else 1,
        thumbnail=get.flag("use_thumbnail", True),
        thumbnail_tag="<tile_global>" if llama else "<tile_global_thumbnail>",
    )
    return conversing(path, inputs)


def _pixel_shuffle(config: Mapping[str, Any], path: Path) -> int:
    _require(config.get("ps_version", "v2"), ("v2",), "ps_version", path)
    _require(config.get("select_layer", -1), (-1,), "select_layer", path)
    ratio = _Getter(config, "config", path).number("downsample_ratio", 0.5)
    factor = round(1 / ratio)
    if not factor or abs(factor * ratio - 1) > 1e-6:
        raise CheckpointError(f"{path / CONFIG}: downsample_ratio {ratio}; expected 1, 1/2, 1/3 ...")
    return factor


def _projector_width(shards: Shards, path: Path) -> int:
    if "mlp1.3.weight" not in shards:
        return 0
    if "mlp1.1.weight" not in shards:
        raise CheckpointError(f"{path}: mlp1.1.weight is missing, found mlp1.3.weight; is the checkpoint complete?")
    return next(iter(shards["mlp1.1.weight"].shape), 1)


def _section(config: Mapping[str, Any], key: str, path: str | Path) -> Mapping[str, Any]:
    value = config.get(key)
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{Path(path) / CONFIG}: expected a section {key}, got {value!r:.{NAMED}}")
    return value


def _own(cls: type, value: Any, path: Path) -> Any:
    try:
        return from_mapping(cls, value)
    except ConfigError as error:
        raise CheckpointError(f"{path / CONFIG}: {OWN_KEY}: {error}") from error


class _Getter:
    """Values of a section, of the type that is wanted. An absent or null value is the default, if there is one.

    Raises:
        CheckpointError: a value is missing or of another type.
    """

    def __init__(self, config: Mapping[str, Any], section: str, path: str | Path):
        self.config, self.section, self.file = config, section, Path(path) / CONFIG

    def __call__(self, key: str, default: Any) -> Any:
        value = self.config.get(key)
        return default if value is None else value

    def size(self, key: str, default: int | None = None) -> int:
        most = LARGEST.get(key, 10**7)
        wanted = f"a whole number above 0, {most} at most"
        return self._checked(key, default, lambda x: type(x) is int and 0 < x <= most, wanted)

    def number(self, key: str, default: float, zero: bool = False) -> float:
        def fits(x: Any) -> bool:
            return type(x) in (int, float) and (0 < x <= LARGEST_NUMBER or (zero and x == 0))

        return float(self._checked(key, default, fits, "a number from 0 on" if zero else "a number above 0"))

    def flag(self, key: str, default: bool) -> bool:
        return self._checked(key, default, lambda x: type(x) is bool, "true or false")

    def _checked(self, key: str, default: Any, fits: Callable[[Any], bool], wanted: str) -> Any:
        value = self(key, default)
        if value is None:
            raise CheckpointError(f"{self.file}: {self.section}.{key} is missing")
        if not fits(value):
            raise CheckpointError(f"{self.file}: {self.section}.{key} is {value!r:.{NAMED}}; expected {wanted}")
        return value


def _require(value: Any, allowed: tuple[Any, ...], key: str, path: str | Path) -> None:
    if value not in allowed:
        supported = ", ".join(map(repr, allowed))
        raise CheckpointError(f"{Path(path) / CONFIG}: {key} is {value!r:.{NAMED}}; supported: {supported}")
