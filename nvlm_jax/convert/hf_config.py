"""`config.json` of Hugging Face checkpoints -> this project's configuration.

Whole NVLM models and the backbones that it is made of. No code of a checkpoint is ever run: an architecture is read if
it stands here, and a setting that would change what the model computes and that we do not have is an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvlm_jax.config import (
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
from nvlm_jax.convert.shards import CheckpointError, Shards, open_shards, read_json

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
GENERATION_CONFIG = "generation_config.json"
# Ours: in the config.json that we export, what the released layout has no key for.
OWN_KEY = "nvlm_jax"
MODELS = {"NVLM_D": "d", "NVLM_D_Model": "d", "NVLM_X": "x", "NVLM_H": "h"}
VISION_MODELS = ("InternVisionModel",)
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
    names = config.get("architectures") or ["none"]
    known = [*MODELS, *VISION_MODELS, *LLM_MODELS]
    if names[0] not in known:
        remote = " (its `auto_map` asks for code of the checkpoint to be run, which we never do)"
        raise CheckpointError(
            f"{Path(path) / CONFIG}: architectures {names} is unknown{remote * ('auto_map' in config)}; "
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
    config = read_json(path / CONFIG)
    name = architecture(config, path)
    if name not in MODELS:
        raise CheckpointError(f"{path / CONFIG}: {name} is a single backbone; expected one of {', '.join(MODELS)}")
    own = config.get(OWN_KEY, {})
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
    if faults := run_faults(RunConfig(model=model, inputs=inputs)):
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
    get = _getter(config, "vision_config", path)
    _require(get("norm_type", "rms_norm"), ("rms_norm",), "vision_config.norm_type", path)
    _require(get("hidden_act", "gelu"), ("gelu",), "vision_config.hidden_act", path)
    _require(get("num_channels", 3), (3,), "vision_config.num_channels", path)
    return VisionConfig(
        image_size=image_size or get("image_size"),
        patch_size=get("patch_size"),
        width=get("hidden_size"),
        layers=get("num_hidden_layers"),
        heads=get("num_attention_heads"),
        head_dim=get("hidden_size") // get("num_attention_heads"),
        ff=get("intermediate_size"),
        norm_eps=float(get("layer_norm_eps", 1e-6)),
        qk_norm=get("qk_normalization", True),
        qkv_bias=get("qkv_bias", False),
        layer_scale_init=float(get("initializer_factor", 0.1)),
    )


def decoder_from_hf(config: Mapping[str, Any], path: str | Path) -> DecoderConfig:
    """The section of a Qwen2 or Llama decoder.

    `architectures` says which, not `model_type`: the released NVLM-D has model_type "llama" for a Qwen2.

    Raises:
        CheckpointError: a missing key, or a setting that we do not have.
    """
    get = _getter(config, "llm_config", path)
    by_type = {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}.get(config.get("model_type"), "none")
    name = (config.get("architectures") or [by_type])[0]
    _require(name, tuple(LLM_MODELS), "llm_config.architectures", path)
    _require(get("hidden_act", "silu"), ("silu",), "llm_config.hidden_act", path)
    _require(bool(get("use_sliding_window", False)), (False,), "llm_config.use_sliding_window", path)
    _require(bool(get("mlp_bias", False)), (False,), "llm_config.mlp_bias", path)
    if not LLM_MODELS[name]:  # in Llama this key also puts a bias on o_proj; Qwen2 ignores it
        _require(bool(get("attention_bias", False)), (False,), "llm_config.attention_bias", path)
    heads = get("num_attention_heads")
    rope_theta, rope_scaling_factor = _rope(config, path)
    return DecoderConfig(
        vocab_size=get("vocab_size"),
        width=get("hidden_size"),
        layers=get("num_hidden_layers"),
        heads=heads,
        kv_heads=get("num_key_value_heads", heads) or heads,
        head_dim=get("head_dim", None) or get("hidden_size") // heads,
        ff=get("intermediate_size"),
        rope_theta=rope_theta,
        norm_eps=float(get("rms_norm_eps", 1e-6)),
        qkv_bias=LLM_MODELS[name],
        tied_embeddings=bool(get("tie_word_embeddings", False)),
        max_positions=get("max_position_embeddings", DecoderConfig.max_positions),
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
    candidates = [read_json(file) if file.exists() else {}, config.get("llm_config", {}), config]
    ends = next((c["eos_token_id"] for c in candidates if c.get("eos_token_id") is not None), [])
    return ends if isinstance(ends, list) else [ends]


def _rope(config: Mapping[str, Any], path: str | Path) -> tuple[float, float]:
    """The base of the rotary positions, and the factor of dynamic scaling, which sets in beyond all positions."""
    newer = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or newer
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    _require(kind, ("default", "dynamic"), "llm_config.rope_scaling.type", path)
    factor = float(scaling.get("factor", 1.0)) if kind == "dynamic" else 0.0
    return float(config.get("rope_theta", newer.get("rope_theta", 10000.0))), factor


def _inputs(config: Mapping[str, Any], path: Path) -> InputConfig:
    llama = (config["llm_config"].get("architectures") or [""])[0] == "LlamaForCausalLM"
    inputs = InputConfig(
        tile_tags="1d" if config.get("image_tag_type") == "nvlm" else "none",
        max_tiles=config.get("max_dynamic_patch", 6) if config.get("dynamic_image_size", True) else 1,
        thumbnail=config.get("use_thumbnail", True),
        thumbnail_tag="<tile_global>" if llama else "<tile_global_thumbnail>",
    )
    return conversing(path, inputs)


def _pixel_shuffle(config: Mapping[str, Any], path: Path) -> int:
    _require(config.get("ps_version", "v2"), ("v2",), "ps_version", path)
    _require(config.get("select_layer", -1), (-1,), "select_layer", path)
    ratio = config.get("downsample_ratio", 0.5)
    factor = round(1 / ratio) if ratio else 0
    if not factor or abs(factor * ratio - 1) > 1e-6:
        raise CheckpointError(f"{path / CONFIG}: downsample_ratio {ratio}; expected 1, 1/2, 1/3 ...")
    return factor


def _projector_width(shards: Shards, path: Path) -> int:
    if "mlp1.3.weight" not in shards:
        return 0
    if "mlp1.1.weight" not in shards:
        raise CheckpointError(f"{path}: mlp1.1.weight is missing, found mlp1.3.weight; is the checkpoint complete?")
    return shards["mlp1.1.weight"].shape[0]


def _section(config: Mapping[str, Any], key: str, path: str | Path) -> Mapping[str, Any]:
    value = config.get(key)
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{Path(path) / CONFIG}: expected a section {key}, got {value!r}")
    return value


def _own(cls: type, value: Any, path: Path) -> Any:
    try:
        return from_mapping(cls, value)
    except ConfigError as error:
        raise CheckpointError(f"{path / CONFIG}: {OWN_KEY}: {error}") from error


def _getter(config: Mapping[str, Any], section: str, path: str | Path) -> Any:
    missing = object()

    def get(key: str, default: Any = missing) -> Any:
        value = config.get(key, default)
        if value is missing:
            raise CheckpointError(f"{Path(path) / CONFIG}: {section}.{key} is missing")
        return value

    return get


def _require(value: Any, allowed: tuple[Any, ...], key: str, path: str | Path) -> None:
    if value not in allowed:
        raise CheckpointError(f"{Path(path) / CONFIG}: {key} is {value!r}; supported: {', '.join(map(repr, allowed))}")
