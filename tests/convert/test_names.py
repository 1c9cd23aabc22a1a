"""The table of names, held against the facts about the released 72B checkpoint and against the model itself."""

import dataclasses
import math

import numpy as np
import pytest
from flax import nnx

from configs.nvlm import model_config
from nvlm_jax.convert import names
from nvlm_jax.models.build import abstract_model
from tests.convert.support import small


def released_72b() -> dict[str, tuple[int, ...]]:
    """Names and shapes of nvidia/NVLM-D-72B, written down from its index: 25 + 7 heads of 128 in the encoder."""
    found = {
        "vision_model.embeddings.class_embedding": (1, 1, 3200),
        "vision_model.embeddings.patch_embedding.bias": (3200,),
        "vision_model.embeddings.patch_embedding.weight": (3200, 3, 14, 14),
        "vision_model.embeddings.position_embedding": (1, 1025, 3200),
        "mlp1.0.weight": (12800,),
        "mlp1.0.bias": (12800,),
        "mlp1.1.weight": (29568, 12800),
        "mlp1.3.weight": (8192, 29568),
        "language_model.model.embed_tokens.weight": (152064, 8192),
        "language_model.model.norm.weight": (8192,),
        "language_model.lm_head.weight": (152064, 8192),
    }
    vision = {
        "attn.k_norm.weight": (4096,),
        "attn.proj.bias": (3200,),
        "attn.proj.weight": (3200, 4096),
        "attn.q_norm.weight": (4096,),
        "attn.qkv.weight": (12288, 3200),
        "ls1": (3200,),
        "ls2": (3200,),
        "mlp.fc1.bias": (12800,),
        "mlp.fc1.weight": (12800, 3200),
        "mlp.fc2.bias": (3200,),
        "mlp.fc2.weight": (3200, 12800),
        "norm1.weight": (3200,),
        "norm2.weight": (3200,),
    }
    llm = {
        "input_layernorm.weight": (8192,),
        "mlp.down_proj.weight": (8192, 29568),
        "mlp.gate_proj.weight": (29568, 8192),
        "mlp.up_proj.weight": (29568, 8192),
        "post_attention_layernorm.weight": (8192,),
        "self_attn.k_proj.bias": (1024,),
        "self_attn.k_proj.weight": (1024, 8192),
        "self_attn.o_proj.weight": (8192, 8192),
        "self_attn.q_proj.bias": (8192,),
        "self_attn.q_proj.weight": (8192, 8192),
        "self_attn.v_proj.bias": (1024,),
        "self_attn.v_proj.weight": (1024, 8192),
    }
    for i in range(45):
        found |= {f"vision_model.encoder.layers.{i}.{name}": shape for name, shape in vision.items()}
    for i in range(80):
        found |= {f"language_model.model.layers.{i}.{name}": shape for name, shape in llm.items()}
    return found


def their_shapes(config, dummy: int = 0) -> dict[str, tuple[int, ...]]:
    tensors = [t for part in names.parts_of(config) for t in names.tensors(config, part)]
    return {name: t.their_shape(dummy if "vision_model" in name else 0) for t in tensors for name in t.names}


def test_72b_matches_every_name_and_shape_of_the_released_index():
    config = model_config("d", "72b")
    assert their_shapes(config, dummy=7 * 128) == released_72b()
    assert sum(map(math.prod, released_72b().values())) == 79_379_593_344
    assert sum(map(math.prod, their_shapes(config).values())) < 79_379_593_344


@pytest.mark.parametrize("size", ["tiny", "1b", "34b", "72b"])
@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_table_covers_exactly_the_parameters_of_the_model(arch, size):
    config = model_config(arch, size)
    model = nnx.to_flat_state(nnx.state(abstract_model(config), nnx.Param))
    table = [t for part in names.parts_of(config) for t in names.tensors(config, part)]
    assert {path: value.shape for path, value in model} == {t.ours: t.stacked_shape for t in table}


@pytest.mark.parametrize("dummy", [0, 10])
def test_every_form_is_inverted(dummy):
    config = small("h")
    config = dataclasses.replace(config, vision=dataclasses.replace(config.vision, qkv_bias=True))
    rng, seen = np.random.default_rng(0), set()
    for part in names.parts_of(config):
        for tensor in names.tensors(config, part):
            ours = rng.normal(size=tensor.shape)
            theirs = tensor.to_theirs(ours, dummy)
            assert theirs.shape == tensor.their_shape(dummy)
            np.testing.assert_array_equal(tensor.to_ours(theirs), ours)
            seen.add(tensor.form)
    assert seen == {"plain", "matrix", "gate", "patch", "heads", "heads_in", "qkv", "qkv_bias"}


def test_patch_convolution_equals_the_product_with_flattened_patches():
    tensor = next(t for t in names.tensors(small(), "vision") if t.form == "patch")
    rng = np.random.default_rng(0)
    weight = rng.normal(size=tensor.their_shape())  # [C, 3, p, p]
    patch = rng.normal(size=(7, 7, 3))  # one patch of an image, channels last
    by_convolution = np.einsum("cixy,xyi->c", weight, patch)
    np.testing.assert_allclose(patch.reshape(-1) @ tensor.to_ours(weight), by_convolution)


def test_dummy_heads_are_whole_heads():
    vision = small().vision
    assert names.dummy_channels(vision, 15) == 0
    assert names.dummy_channels(vision, 25) == 10
    with pytest.raises(ValueError, match="17 wide; expected 3 heads of 5"):
        names.dummy_channels(vision, 17)
