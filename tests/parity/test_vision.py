"""`transformers`' InternVL vision model with QK-norm, random weights, in float64."""

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import InternVLVisionConfig, InternVLVisionModel

from nvlm_jax.config import ModelConfig, VisionConfig
from nvlm_jax.convert import names
from nvlm_jax.models.vision import VisionEncoder, normalise

# Their names -> the released checkpoint's, which have q, k and v in one tensor.
RENAMED = {
    "embeddings.cls_token": "embeddings.class_embedding",
    "embeddings.position_embeddings": "embeddings.position_embedding",
    "embeddings.patch_embeddings.projection": "embeddings.patch_embedding",
    "encoder.layer.": "encoder.layers.",
    "attention.projection_layer": "attn.proj",
    "attention.q_norm": "attn.q_norm",
    "attention.k_norm": "attn.k_norm",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "lambda_": "ls",
}


def released_names(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    found = {}
    for name, value in state.items():
        for theirs, released in RENAMED.items():
            name = name.replace(theirs, released)
        found[name] = value.numpy()
    for name in [n for n in found if ".attention.q_proj." in n]:
        parts = [found.pop(name.replace("q_proj", f"{c}_proj")) for c in "qkv"]
        found[name.replace("attention.q_proj", "attn.qkv")] = np.concatenate(parts)
    return found


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(35, 5, 3, 51, 14, 3), (36, 3, 2, 77, 7, 4)])
def test_vision_encoder(shape, bias):
    width, heads, layers, ff, patch, side = shape
    size = patch * side
    torch.manual_seed(0)
    theirs = InternVLVisionModel(
        InternVLVisionConfig(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=ff,
            image_size=[size, size], patch_size=[patch, patch], use_qk_norm=True, attention_bias=bias,
            norm_type="rms_norm", layer_norm_eps=1e-6, hidden_act="gelu", use_mean_pooling=True,
            use_absolute_position_embeddings=True,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for value in theirs.parameters():
            value.add_(0.3 * torch.randn_like(value))
    tiles = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    pixels = torch.tensor(np.asarray(normalise(tiles))).permute(0, 3, 1, 2)
    with torch.no_grad():
        want = theirs.double()(pixels.double()).last_hidden_state[:, 1:].numpy()
    theirs.float()

    config = VisionConfig(size, patch, width, layers, heads, width // heads, ff, qkv_bias=bias)
    state = released_names(theirs.state_dict())
    values = {}
    for tensor in names.tensors(ModelConfig(vision=config), "vision", prefix=""):
        layers_ = [tensor.to_ours(state.pop(name)) for name in tensor.names]
        values[tensor.ours[1:]] = jax.numpy.asarray(layers_[0] if tensor.layers is None else np.stack(layers_))
    assert not state, "tensors of theirs that we have no place for"
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: VisionEncoder(config, nnx.Rngs(0))))
    flat = [(path, leaf.replace(values[path])) for path, leaf in nnx.to_flat_state(abstract)]
    encoder = nnx.merge(graphdef, nnx.from_flat_state(flat))
    got = nnx.jit(lambda encoder, tiles: encoder(tiles))(encoder, tiles)
    assert np.abs(want).max() > 1
    # In float32 theirs is 5e-7 of the largest value away from float64, and ours a little less, on one machine.
    np.testing.assert_allclose(np.asarray(got), want, rtol=0, atol=1e-6 * np.abs(want).max())
