"""Gated cross-attention against a statement of it in plain PyTorch, and against Mllama's layer where the two agree."""

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import MllamaTextConfig
from transformers.models.mllama.modeling_mllama import MllamaCrossAttentionDecoderLayer

from nvlm_jax.config import CrossAttentionConfig, DecoderConfig, ModelConfig
from nvlm_jax.convert import names
from nvlm_jax.models.cross_attention import GatedCrossAttention

S, TILES, N = 13, 3, 4
DECODER = DecoderConfig(vocab_size=10, width=42, layers=1, heads=6, kv_heads=2, head_dim=7, ff=51, norm_eps=1e-5)
MODEL = ModelConfig(arch="x", decoder=DECODER, cross_attention=CrossAttentionConfig(every=1))


@pytest.fixture(scope="module")
def layer():
    """Random weights of one layer, by the exported names and as our module."""
    rng = np.random.default_rng(0)
    exported, values = {}, {}
    for tensor in names.tensors(MODEL, "cross_attention"):
        theirs = (0.2 * rng.normal(size=tensor.their_shape())).astype(np.float32)
        if "layernorm" in tensor.theirs:
            theirs += 1
        exported[tensor.theirs.format(0).removeprefix("cross_attention.layers.0.")] = torch.tensor(theirs)
        values[tensor.ours[2:]] = jax.numpy.asarray(tensor.to_ours(theirs))
    make = lambda: GatedCrossAttention(MODEL.cross_attention, DECODER, nnx.Rngs(0), "float32")  # noqa: E731
    graphdef, abstract = nnx.split(nnx.eval_shape(make))
    flat = [(path, leaf.replace(values[path])) for path, leaf in nnx.to_flat_state(abstract)]
    return exported, nnx.merge(graphdef, nnx.from_flat_state(flat))


@pytest.fixture(scope="module")
def inputs():
    """x [1, S, D], media [1, T, N, D], visible [1, S, T]: some tokens see nothing, some one tile, some all."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1, S, DECODER.width)).astype(np.float32)
    media = rng.normal(size=(1, TILES, N, DECODER.width)).astype(np.float32)
    visible = rng.random((1, S, TILES)) < 0.5
    visible[0, :3] = False
    visible[0, 3:6] = np.eye(TILES, dtype=bool)
    visible[0, 6] = True
    return x, media, visible


def ours(layer, x, media, visible):
    return np.asarray(jax.jit(lambda l, x, m, v: l(x, *l.keys_values(m), v))(layer, x, media, visible))  # noqa: E741


def stated(w, x, media, visible):
    """The layer as the paper and Flamingo describe it, one token and one head at a time."""

    def norm(v, scale):
        return v / torch.sqrt((v * v).mean() + DECODER.norm_eps) * scale

    group, h = DECODER.heads // DECODER.kv_heads, DECODER.head_dim
    x, keys = torch.tensor(x[0]), torch.tensor(media[0])
    out = []
    for s in range(S):
        seen = [keys[t, n] for t in range(TILES) if visible[0, s, t] for n in range(N)]
        token = x[s]
        if seen:
            q = w["cross_attn.q_proj.weight"] @ norm(token, w["input_layernorm.weight"])
            heads = []
            for head in range(DECODER.heads):
                rows = slice(head // group * h, (head // group + 1) * h)
                k = torch.stack([w["cross_attn.k_proj.weight"][rows] @ m for m in seen])
                v = torch.stack([w["cross_attn.v_proj.weight"][rows] @ m for m in seen])
                weights = torch.softmax(k @ q[head * h : (head + 1) * h] / h**0.5, dim=0)
                heads.append(weights @ v)
            attended = w["cross_attn.o_proj.weight"] @ torch.cat(heads)
            token = token + torch.tanh(w["cross_attn_attn_gate"]) * attended
            y = norm(token, w["post_attention_layernorm.weight"])
            gate = torch.nn.functional.silu(w["mlp.gate_proj.weight"] @ y)
            fed = w["mlp.down_proj.weight"] @ (gate * (w["mlp.up_proj.weight"] @ y))
            token = token + torch.tanh(w["cross_attn_mlp_gate"]) * fed
        out.append(token)
    return torch.stack(out).numpy()


def test_layer_equals_its_statement(layer, inputs):
    exported, module = layer
    got = ours(module, *inputs)[0]
    np.testing.assert_allclose(got, stated(exported, *inputs), rtol=0, atol=2e-5)
    np.testing.assert_array_equal(got[:3], inputs[0][0, :3])  # a token that sees nothing passes through untouched
    assert np.abs(got[3:] - inputs[0][0, 3:]).max() > 0.1


def test_layer_equals_mllamas_without_its_qk_norm(layer, inputs):
    exported, module = layer
    x, media, visible = inputs
    visible = visible.copy()
    visible[~visible.any(axis=-1)] = True  # a token that sees nothing attends to everything there
    config = MllamaTextConfig(
        hidden_size=DECODER.width, intermediate_size=DECODER.ff, num_attention_heads=DECODER.heads,
        num_key_value_heads=DECODER.kv_heads, rms_norm_eps=DECODER.norm_eps, hidden_act="silu", dropout=0.0,
        attn_implementation="eager", num_hidden_layers=1, cross_attention_layers=[0],
    )  # fmt: skip
    theirs = MllamaCrossAttentionDecoderLayer(config, 0).eval()
    theirs.cross_attn.q_norm = theirs.cross_attn.k_norm = torch.nn.Identity()
    theirs.load_state_dict(exported)  # the exported names are Mllama's own
    seen = torch.tensor(np.repeat(visible, N, axis=2))[:, None]
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    with torch.no_grad():
        want = theirs(
            torch.tensor(x),
            cross_attention_states=torch.tensor(media.reshape(1, TILES * N, -1)),
            cross_attention_mask=mask,
            attention_mask=None,
            full_text_row_masked_out_mask=None,
        )
    np.testing.assert_allclose(ours(module, x, media, visible), want.numpy(), rtol=0, atol=2e-5)
