"""Whole NVLM-D models of other sizes than the golden one, as PyTorch computes them from the released layout."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import InternVLVisionConfig, InternVLVisionModel, Qwen2Config, Qwen2ForCausalLM

import nvlm_jax
from nvlm_jax.training.imported import export_hf, import_hf
from tests.parity.test_vision import released_names

IMAGE_TOKEN, END = 7, 3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Vision: patch, patches a side, heads, head width, layers, dummy heads. LLM: heads, K/V heads, head width."""

    patch: int
    side: int
    heads: int
    head: int
    layers: int
    dummy: int
    shuffle: int
    llm_heads: int
    kv_heads: int
    llm_head: int
    tied: bool = False
    shards: int = 1


SIZES = {
    "gqa8": Sizes(7, 6, 5, 6, 2, 3, 2, 8, 1, 6, shards=3),
    "mha": Sizes(16, 4, 2, 10, 4, 0, 4, 3, 3, 14, tied=True),
    "gqa3": Sizes(14, 2, 7, 4, 1, 1, 2, 6, 2, 10, shards=2),  # one image token a tile
}


class Reference(torch.nn.Module):
    """NVLM-D put together from `transformers`' parts, and a plain statement of what is between them."""

    def __init__(self, s: Sizes):
        super().__init__()
        self.sizes, width, llm = s, s.heads * s.head, s.llm_heads * s.llm_head
        image, shuffled = s.patch * s.side, width * s.shuffle**2
        vision = InternVLVisionConfig(
            hidden_size=width, num_hidden_layers=s.layers, num_attention_heads=s.heads, intermediate_size=2 * width + 3,
            image_size=[image, image], patch_size=[s.patch, s.patch], use_qk_norm=True, attention_bias=False,
            norm_type="rms_norm", layer_norm_eps=1e-6, hidden_act="gelu", use_mean_pooling=True,
            use_absolute_position_embeddings=True,
        )  # fmt: skip
        decoder = Qwen2Config(
            vocab_size=211, hidden_size=llm, intermediate_size=2 * llm + 5, num_hidden_layers=3,
            num_attention_heads=s.llm_heads, num_key_value_heads=s.kv_heads, rope_theta=1e6,
            tie_word_embeddings=s.tied, initializer_range=0.15,
        )  # fmt: skip
        self.vision, self.llm = InternVLVisionModel(vision), Qwen2ForCausalLM(decoder)
        layers = (torch.nn.Linear(shuffled, 37, bias=False), torch.nn.GELU(), torch.nn.Linear(37, llm, bias=False))
        self.mlp1 = torch.nn.Sequential(torch.nn.LayerNorm(shuffled), *layers)

    def forward(self, tokens: torch.Tensor, tiles: torch.Tensor) -> torch.Tensor:
        """Logits [S, V] of int [S] and uint8 [T, P, P, 3]."""
        embedded = self.llm.get_input_embeddings()(tokens).clone()
        if len(tiles):
            pixels = (tiles / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
            features = self.vision(pixels.permute(0, 3, 1, 2)).last_hidden_state[:, 1:]
            side, r = self.sizes.side, self.sizes.shuffle
            blocks = features.reshape(len(tiles), side // r, r, side // r, r, -1).permute(0, 1, 3, 2, 4, 5)
            embedded[tokens == IMAGE_TOKEN] = self.mlp1(blocks.flatten(3).flatten(1, 2)).flatten(0, 1)
        return self.llm(inputs_embeds=embedded[None]).logits[0]

    def write(self, directory) -> None:
        """The released layout: names, dummy heads of zeros, config.json, shards with an index."""
        s = self.sizes
        tensors = {f"vision_model.{k}": v for k, v in released_names(self.vision.state_dict()).items()}
        extra = s.dummy * s.head
        for name, value in tensors.items():
            if "attn.q_norm" in name or "attn.k_norm" in name:
                tensors[name] = np.pad(value, (0, extra))
            elif "attn.proj.weight" in name:
                tensors[name] = np.pad(value, ((0, 0), (0, extra)))
            elif "attn.qkv" in name:
                parts = value.reshape(3, -1, value.shape[1])
                tensors[name] = np.pad(parts, ((0, 0), (0, extra), (0, 0))).reshape(-1, value.shape[1])
        tensors |= {f"mlp1.{k}": v.numpy() for k, v in self.mlp1.state_dict().items()}
        llm = {f"language_model.{k}": v.numpy() for k, v in self.llm.state_dict().items()}
        tensors |= {k: v for k, v in llm.items() if not (s.tied and "lm_head" in k)}
        files: dict[str, dict[str, torch.Tensor]] = {}
        for i, (name, value) in enumerate(tensors.items()):
            files.setdefault(f"model-{i % s.shards:05d}.safetensors", {})[name] = torch.tensor(value).contiguous()
        for file, members in files.items():
            save_file(members, directory / file)
        index = {"metadata": {}, "weight_map": {name: file for file, members in files.items() for name in members}}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
        (directory / "config.json").write_text(json.dumps(self.config()))

    def config(self) -> dict:
        """`config.json` as released: "llama" for a Qwen2, scaling without effect, no key for what shapes show."""
        s, vision, llm = self.sizes, self.vision.config, self.llm.config
        return {
            "architectures": ["NVLM_D"],
            "torch_dtype": "float32",
            "force_image_size": s.patch * s.side,
            "downsample_ratio": 1 / s.shuffle,
            "image_tag_type": "nvlm",
            "vision_config": {
                "hidden_size": vision.hidden_size,
                "num_hidden_layers": s.layers,
                "num_attention_heads": s.heads,
                "intermediate_size": vision.intermediate_size,
                "image_size": 9999,  # force_image_size counts
                "patch_size": s.patch,
                "qk_normalization": True,
                "qkv_bias": False,
                "layer_norm_eps": 1e-6,
                "norm_type": "rms_norm",
            },
            "llm_config": {
                "architectures": ["Qwen2ForCausalLM"],
                "model_type": "llama",
                "attention_bias": True,
                "vocab_size": llm.vocab_size,
                "hidden_size": llm.hidden_size,
                "intermediate_size": llm.intermediate_size,
                "num_hidden_layers": llm.num_hidden_layers,
                "num_attention_heads": s.llm_heads,
                "num_key_value_heads": s.kv_heads,
                "rms_norm_eps": 1e-6,
                "rope_theta": 1e6,
                "rope_scaling": {"type": "dynamic", "factor": 3.0},
                "tie_word_embeddings": s.tied,
                "eos_token_id": END,
            },
        }


@pytest.fixture(scope="module", params=SIZES)
def written(request, tmp_path_factory):
    """A reference with random weights, and its directory."""
    torch.manual_seed(1)
    model, path = Reference(SIZES[request.param]).eval(), tmp_path_factory.mktemp(request.param)
    with torch.no_grad():
        for value in model.parameters():  # biases and norms start at 0 and 1
            value.add_(0.1 * torch.randn_like(value))
        if SIZES[request.param].tied:
            model.llm.tie_weights()
        model.requires_grad_(False).write(path)
    return model, path


def prompt(model: Reference, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids with `count` tiles' image tokens among them, each tile behind a few others; and the tiles."""
    s, rng = model.sizes, np.random.default_rng(count)
    tiles = rng.integers(0, 256, (count, s.patch * s.side, s.patch * s.side, 3), dtype=np.uint8)
    tokens = list(rng.integers(10, 211, 9))
    for _ in range(count):
        tokens += [*rng.integers(10, 211, 3), *[IMAGE_TOKEN] * (s.side // s.shuffle) ** 2]
    return np.array([*tokens, *rng.integers(10, 211, 8)]), tiles


@pytest.mark.parametrize("form", ["hf", "orbax", "hf again"])
def test_logits_and_greedy_tokens(written, form, tmp_path):
    model, path = written
    if form != "hf":
        import_hf(path, tmp_path / "orbax")
        path = tmp_path / "orbax"
    if form == "hf again":
        export_hf(path, tmp_path / "again", dummy_heads=2)
        path = tmp_path / "again"
    loaded = nvlm_jax.load(path, image_token_id=IMAGE_TOKEN)
    for count in (0, 1, 4) if form == "hf" else (1,):
        tokens, tiles = prompt(model, count)
        with torch.no_grad():
            want = model(torch.tensor(tokens), torch.tensor(tiles)).numpy()
        assert np.abs(want).max() > 1
        np.testing.assert_allclose(loaded.logits(tokens, tiles if count else None), want, rtol=0, atol=1e-4)
    got = loaded.generate_tokens(tokens, tiles, max_new_tokens=6)
    ids = list(tokens)
    with torch.no_grad():
        for _ in range(6):
            ids.append(int(model(torch.tensor(ids), torch.tensor(tiles))[-1].argmax()))
    expected = ids[len(tokens) :]
    assert got == expected[: expected.index(END)] if END in expected else got == expected
