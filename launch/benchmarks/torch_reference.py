"""NVLM-D in PyTorch: InternViT and Qwen2 of `transformers`, the projector between them, with the weights of a run.

What this project is measured beside, in training (`beside_pytorch.py`) and in answering (`decode.py`).
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nvlm_jax.convert.shards import open_shards
from nvlm_jax.inputs.batch import Example
from nvlm_jax.pretrained import LoadedModel
from nvlm_jax.training.imported import export_hf

# Names of the released vision encoder -> those of transformers, which has q, k and v apart.
RENAMED = (
    ("embeddings.class_embedding", "embeddings.cls_token"),
    ("embeddings.position_embedding", "embeddings.position_embeddings"),
    ("embeddings.patch_embedding", "embeddings.patch_embeddings.projection"),
    ("encoder.layers.", "encoder.layer."),
    ("attn.proj", "attention.projection_layer"),
    ("attn.q_norm", "attention.q_norm"),
    ("attn.k_norm", "attention.k_norm"),
    ("norm1", "layernorm_before"),
    ("norm2", "layernorm_after"),
    (".ls", ".lambda_"),
)


class Reference:
    """The model of a checkpoint, in PyTorch and in float32."""

    def __init__(self, model: LoadedModel, checkpoint: str):
        """
        Args:
            model: NVLM-D, as `nvlm_jax.load` gives it.
            checkpoint: what it was loaded from.
        """
        import torch
        from transformers import InternVLVisionConfig, InternVLVisionModel, Qwen2Config, Qwen2ForCausalLM

        torch.set_grad_enabled(False)
        config, self._torch = model.config, torch
        vision, decoder = config.vision, config.decoder
        self._ends = list(model.end_token_ids)
        self._shuffle, self._side = config.pixel_shuffle, vision.image_size // vision.patch_size
        self._vision = InternVLVisionModel(
            InternVLVisionConfig(
                hidden_size=vision.width, num_hidden_layers=vision.layers, num_attention_heads=vision.heads,
                intermediate_size=vision.ff, image_size=[vision.image_size] * 2, patch_size=[vision.patch_size] * 2,
                use_qk_norm=True, attention_bias=False, norm_type="rms_norm", layer_norm_eps=vision.norm_eps,
                hidden_act="gelu", use_mean_pooling=True, use_absolute_position_embeddings=True,
            )
        ).eval()  # fmt: skip
        self._llm = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=decoder.vocab_size, hidden_size=decoder.width, intermediate_size=decoder.ff,
                num_hidden_layers=decoder.layers, num_attention_heads=decoder.heads,
                num_key_value_heads=decoder.kv_heads, rope_theta=decoder.rope_theta, rms_norm_eps=decoder.norm_eps,
                tie_word_embeddings=decoder.tied_embeddings, max_position_embeddings=32768,
            )
        ).eval()  # fmt: skip
        linear, width = torch.nn.Linear, vision.width * config.pixel_shuffle**2
        inner = config.projector_width
        self._projector = torch.nn.Sequential(
            torch.nn.LayerNorm(width), linear(width, inner, bias=False), torch.nn.GELU(),
            linear(inner, decoder.width, bias=False),
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as directory:
            export_hf(checkpoint, Path(directory) / "hf")
            self._load(Path(directory) / "hf")

    def generate(self, examples: Sequence[Example], most: Sequence[int], ends: bool, batch: int) -> list[list[int]]:
        """Greedy answers, `batch` prompts of similar length together, until the last of them is answered.

        Args:
            examples: the prompts.
            most: tokens of each answer at most.
            ends: whether an end token ends it.
            batch: prompts at once.
        """
        order = sorted(range(len(examples)), key=lambda i: len(examples[i].tokens))
        answers: list[list[int]] = [[] for _ in examples]
        for start in range(0, len(order), batch):
            members = order[start : start + batch]
            found = self._batch([examples[i] for i in members], max(most[i] for i in members), ends)
            for i, ids in zip(members, found, strict=True):
                answers[i] = ids[: most[i]]
        return answers

    def _batch(self, examples: Sequence[Example], tokens: int, ends: bool) -> list[list[int]]:
        torch = self._torch
        longest = max(len(example.tokens) for example in examples)
        tiles = np.concatenate([example.tiles for example in examples])
        images = self._see(tiles) if len(tiles) else self._torch.zeros(0, 1, 1)
        rows, mask, seen = [], torch.zeros(len(examples), longest, dtype=torch.long), 0
        embed = self._llm.get_input_embeddings()
        for row, example in enumerate(examples):
            x = embed(torch.as_tensor(example.tokens, dtype=torch.long))
            own = images[seen : seen + len(example.tiles)].flatten(0, 1)
            slots = torch.as_tensor(example.image_slots, dtype=torch.long)
            if len(example.tiles):
                x[slots >= 0] = own[slots[slots >= 0]]
            rows.append(torch.nn.functional.pad(x, (0, 0, longest - len(x), 0)))
            mask[row, longest - len(x) :] = 1
            seen += len(example.tiles)
        out = self._llm.generate(
            inputs_embeds=torch.stack(rows), attention_mask=mask, max_new_tokens=tokens, do_sample=False,
            eos_token_id=self._ends if ends else None, pad_token_id=self._ends[0],
        )  # fmt: skip
        end = self._ends if ends else ()
        return [list(itertools.takewhile(lambda token: token not in end, row)) for row in out.tolist()]

    def _see(self, tiles: np.ndarray) -> Any:
        """uint8 [T, P, P, 3] -> [T, N, D]."""
        torch, r, side = self._torch, self._shuffle, self._side
        mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
        pixels = ((torch.as_tensor(tiles) / 255 - mean) / std).permute(0, 3, 1, 2)
        features = self._vision(pixels).last_hidden_state[:, 1:]
        blocks = features.reshape(len(tiles), side // r, r, side // r, r, -1).permute(0, 1, 3, 2, 4, 5)
        return self._projector(blocks.flatten(3).flatten(1, 2))

    def _load(self, directory: Path) -> None:
        """Released names to those of `transformers`."""
        torch, shards = self._torch, open_shards(directory)
        tensors = {name: torch.as_tensor(np.array(shards.read(name))) for name in shards}
        vision = {}
        for name, value in _of(tensors, "vision_model.").items():
            for released, theirs in RENAMED:
                name = name.replace(released, theirs)
            if ".attn.qkv." in name:
                for letter, part in zip("qkv", value.chunk(3), strict=True):
                    vision[name.replace("attn.qkv", f"attention.{letter}_proj")] = part
            else:
                vision[name] = value
        self._vision.load_state_dict(vision)
        self._projector.load_state_dict(_of(tensors, "mlp1."))
        self._llm.load_state_dict(_of(tensors, "language_model."))


def _of(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
