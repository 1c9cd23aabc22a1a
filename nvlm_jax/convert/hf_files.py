"""The small files of an exported checkpoint: config.json, generation_config.json, tokenizer files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nvlm_jax.config import DecoderConfig, InputConfig, ModelConfig, VisionConfig, to_mapping
from nvlm_jax.convert import chat_template
from nvlm_jax.convert.hf_config import GENERATION_CONFIG, OWN_KEY
from nvlm_jax.convert.shards import CheckpointError, read_json
from nvlm_jax.inputs.tokenizer import Tokenizer, copy_files


def model_config_json(model: ModelConfig, inputs: InputConfig, dtype: str, ends: Sequence[int]) -> dict[str, Any]:
    """`config.json` of a whole model with the keys of nvidia/NVLM-D-72B; what has no key there stands under `nvlm_jax`.

    `llm_config.model_type` is the true one, not the released "llama".
    """
    own: dict[str, Any] = {"inputs": to_mapping(inputs) | {"tokenizer": ""}}
    if model.cross_attention is not None:
        own["cross_attention"] = to_mapping(model.cross_attention)
    return {
        "architectures": [f"NVLM_{model.arch.upper()}"],
        "model_type": f"NVLM_{model.arch.upper()}",
        "torch_dtype": dtype,
        "force_image_size": model.vision.image_size,
        "patch_size": model.vision.patch_size,
        "downsample_ratio": 1 / model.pixel_shuffle,
        "ps_version": "v2",
        "select_layer": -1,
        "dynamic_image_size": inputs.max_tiles > 1,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": inputs.max_tiles,
        "use_thumbnail": inputs.thumbnail,
        "image_tag_type": "nvlm" if inputs.tile_tags == "1d" else inputs.tile_tags,
        "template": inputs.template,
        "vision_config": vision_config_json(model.vision, dtype),
        "llm_config": llm_config_json(model.decoder, dtype, ends),
        OWN_KEY: own,
    }


def vision_config_json(vision: VisionConfig, dtype: str) -> dict[str, Any]:
    """`config.json` of InternViT alone; also the section of a whole model."""
    return {
        "architectures": ["InternVisionModel"],
        "model_type": "intern_vit_6b",
        "torch_dtype": dtype,
        "hidden_size": vision.width,
        "num_hidden_layers": vision.layers,
        "num_attention_heads": vision.heads,
        "intermediate_size": vision.ff,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "num_channels": 3,
        "layer_norm_eps": vision.norm_eps,
        "norm_type": "rms_norm",
        "hidden_act": "gelu",
        "qk_normalization": vision.qk_norm,
        "qkv_bias": vision.qkv_bias,
        "initializer_factor": vision.layer_scale_init,
        "initializer_range": 0.02,
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "drop_path_rate": 0.0,
    }


def llm_config_json(decoder: DecoderConfig, dtype: str, ends: Sequence[int]) -> dict[str, Any]:
    """`config.json` of Qwen2 or Llama alone; also the section of a whole model. `ends`: ids that end an answer."""
    qwen = decoder.qkv_bias
    return {
        "architectures": ["Qwen2ForCausalLM" if qwen else "LlamaForCausalLM"],
        "model_type": "qwen2" if qwen else "llama",
        "torch_dtype": dtype,
        "hidden_size": decoder.width,
        "num_hidden_layers": decoder.layers,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.kv_heads,
        "head_dim": decoder.head_dim,
        "intermediate_size": decoder.ff,
        "vocab_size": decoder.vocab_size,
        "max_position_embeddings": decoder.max_positions,
        "rope_theta": decoder.rope_theta,
        "rope_scaling": {"type": "dynamic", "factor": factor} if (factor := decoder.rope_scaling_factor) else None,
        "rms_norm_eps": decoder.norm_eps,
        "hidden_act": "silu",
        "attention_bias": qwen,
        "mlp_bias": False,
        "tie_word_embeddings": decoder.tied_embeddings,
        "initializer_range": 0.02,
        "bos_token_id": None,
        "eos_token_id": ends[0] if ends else None,
        "use_cache": True,
    }


def write_text_files(directory: Path, model: ModelConfig, inputs: InputConfig, ends: Sequence[int]) -> None:
    """Write generation_config.json, and the tokenizer's files where there is one."""
    end = {"eos_token_id": ends[0] if len(ends) == 1 else list(ends), "pad_token_id": ends[0]} if ends else {}
    write_json(directory / GENERATION_CONFIG, {"do_sample": False} | end)
    if inputs.tokenizer:
        copy_tokenizer(directory, inputs, model.decoder.max_positions)


def end_token_ids(
    inputs: InputConfig, model: ModelConfig, known: Sequence[int] = (), images: bool = True
) -> list[int]:
    """The ids that end an answer: `known` ones, and the tokenizer's end token where there is a tokenizer.

    Args:
        inputs: names the tokenizer, and its tokens that are needed.
        model: for its vocabulary.
        known: what the checkpoint says, the most important first.
        images: whether the image token is needed. A language model alone, such as Qwen2-*-Instruct, has none.

    Raises:
        CheckpointError: the tokenizer cannot be read, lacks the end or image token, or has more entries than the
            embedding has rows; or a known id is beyond them.
    """
    ends, rows = list(known), model.decoder.vocab_size
    if inputs.tokenizer:
        try:
            tokenizer = Tokenizer(inputs.tokenizer)
            ends.append(tokenizer.special(inputs.end_token))
            if images:
                tokenizer.special(inputs.image_token)
        except (OSError, ValueError) as error:
            raise CheckpointError(str(error)) from error
        if tokenizer.vocab_size > rows:
            raise CheckpointError(
                f"{inputs.tokenizer}: the tokenizer has ids up to {tokenizer.vocab_size - 1}, but the embedding "
                f"{rows} rows; take the decoder's own tokenizer"
            )
    if beyond := [i for i in ends if type(i) is not int or not 0 <= i < rows]:
        where = "generation_config.json or config.json"
        raise CheckpointError(f"{where}: eos_token_id {beyond[0]!r:.200} is none of the vocabulary's {rows} ids")
    return list(dict.fromkeys(ends))


def copy_tokenizer(directory: Path, inputs: InputConfig, max_positions: int) -> None:
    """The tokenizer's files as they are, but a chat template that says what the model was trained on."""
    source = Path(inputs.tokenizer)
    copy_files(source, directory)
    existing = directory / chat_template.CONFIG
    config = read_json(existing) if existing.is_file() else {}
    config.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    config.setdefault("eos_token", inputs.end_token)
    config.setdefault("model_max_length", max_positions)
    if inputs.template == "chatml" and not (source.is_dir() and chat_template.agrees(source, inputs)):
        config["chat_template"] = chat_template.write_template(inputs)
        (directory / chat_template.FILE).unlink(missing_ok=True)
    write_json(directory / chat_template.CONFIG, config)


def write_json(file: Path, value: Any) -> None:
    """Indented, with a line break at the end."""
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
