"""`transformers`' Qwen2 and Llama with random weights, in both directions."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from nvlm_jax.config import InputConfig, ModelConfig
from nvlm_jax.convert import backbone_from_hf, read_part
from nvlm_jax.convert.write import write_hf
from nvlm_jax.inputs.batch import Message
from nvlm_jax.inputs.chat import render, turns
from nvlm_jax.inputs.tokenizer import Tokenizer
from nvlm_jax.models.attention import CausalMask
from nvlm_jax.models.build import abstract_model
from tests.convert.support import random_parameters, small

# width, layers, heads, kv_heads, head_dim, ff, vocab: grouping 1, 2 and 8, nothing divisible by anything handy.
SHAPES = [(45, 3, 5, 5, 10, 71, 101), (42, 2, 6, 3, 14, 53, 97), (56, 3, 8, 1, 6, 37, 83)]
KINDS = {
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
}


def our_logits(path, tokens: np.ndarray) -> np.ndarray:
    """Logits [S, V] of a single backbone's directory."""
    part, decoder = backbone_from_hf(path)
    assert part == "llm"
    config = ModelConfig(vision=small().vision, decoder=decoder, projector_width=8, dtype="float32", remat="none")
    graphdef, state = nnx.split(abstract_model(config).decoder)
    found = {k[1:]: v for k, v in read_part(path, "llm", config).items()}
    leaves = [(path, leaf.replace(jax.numpy.asarray(found[path]))) for path, leaf in nnx.to_flat_state(state)]
    model = nnx.merge(graphdef, nnx.from_flat_state(leaves))
    index = np.arange(len(tokens))[None]
    ones = np.ones_like(index)
    mask = CausalMask(ones, index, ones, index, aligned=True)

    @jax.jit
    def logits(model, tokens):
        return model.logits(model(model.embed(tokens), index, mask)[0])

    return np.asarray(logits(model, tokens[None])[0])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_their_checkpoint_gives_the_same_logits(tmp_path, kind, shape, tied):
    width, layers, heads, kv_heads, head_dim, ff, vocab = shape
    make_config, make_model = KINDS[kind]
    config = make_config(
        vocab_size=vocab, hidden_size=width, intermediate_size=ff, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=head_dim, rms_norm_eps=1e-5 if kind == "llama" else 1e-6,
        rope_theta=5e6 if kind == "llama" else 1e6, tie_word_embeddings=tied, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = make_model(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():  # biases and norms start at 0 and 1
            if value.ndim == 1:
                value.add_(0.3 * torch.randn_like(value))
            assert torch.isfinite(value).all(), name
    model.save_pretrained(tmp_path)
    tokens = np.random.default_rng(0).integers(0, vocab, 37)
    with torch.no_grad():
        want = model(torch.tensor(tokens[None])).logits[0].numpy()
    got = our_logits(tmp_path, tokens)
    assert np.abs(want).max() > 1
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_our_export_loads_with_transformers(tmp_path, bias, tied):
    config = small(vocab_size=407, qkv_bias=bias, tied_embeddings=tied, rope_theta=1e6)
    parameters = random_parameters(config, scale=0.3)
    inputs = InputConfig(tokenizer="nvlm_jax/assets/tiny")
    write_hf(tmp_path, config, inputs, parameters, parts=("llm",), shard_bytes=9000)
    assert len(json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]) > 9
    model, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(model) is (transformers.Qwen2ForCausalLM if bias else transformers.LlamaForCausalLM)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    tokens = np.random.default_rng(1).integers(0, 407, 29)
    with torch.no_grad():
        want = model.eval()(torch.tensor(tokens[None])).logits[0].numpy()
    np.testing.assert_allclose(our_logits(tmp_path, tokens), want, rtol=0, atol=1e-4)
    generation = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert generation.eos_token_id == Tokenizer(inputs.tokenizer).special("<|im_end|>") and not generation.do_sample


def test_qwen2_part_of_a_whole_export_loads_with_transformers(tmp_path):
    config = small(vocab_size=407, rope_scaling_factor=3.0)  # as released, without effect on a text so short
    parameters = random_parameters(config, scale=0.3)
    write_hf(tmp_path / "whole", config, InputConfig(), parameters, shard_bytes=9000, dummy_heads=2)
    write_hf(tmp_path / "llm", config, InputConfig(), parameters, parts=("llm",))
    section = json.loads((tmp_path / "whole" / "config.json").read_text())["llm_config"]
    model, report = transformers.Qwen2ForCausalLM.from_pretrained(
        tmp_path / "whole",
        config=transformers.Qwen2Config(**section),
        key_mapping={r"^language_model\.": ""},
        output_loading_info=True,
    )
    assert not report["missing_keys"], report
    tokens = np.random.default_rng(1).integers(0, 407, 29)
    with torch.no_grad():
        want = model.eval()(torch.tensor(tokens[None])).logits[0].numpy()
    np.testing.assert_allclose(our_logits(tmp_path / "llm", tokens), want, rtol=0, atol=1e-4)


CONVERSATIONS = [
    [("user", "what is in <tile_2>?")],
    [("user", "one"), ("assistant", "two"), ("user", "three")],
    [("system", "Be brief."), ("user", "one"), ("assistant", "two\n\nthree "), ("user", "four")],
    [("user", "one"), ("assistant", "two")],
]


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("system", ["Follow the user's instruction and answer questions.", 'Say "no" \\ {{ x }}', ""])
def test_exported_chat_template_gives_our_ids(tmp_path, conversation, system):
    inputs = dataclasses.replace(InputConfig(tokenizer="nvlm_jax/assets/tiny"), system=system)
    write_hf(tmp_path, small(vocab_size=407), inputs, random_parameters(small(vocab_size=407)), parts=("llm",))
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    prompt = conversation[-1][0] == "user"
    messages = [{"role": role, "content": content} for role, content in conversation]
    text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    want = theirs(text, add_special_tokens=False)["input_ids"]

    ours, got = Tokenizer(inputs.tokenizer), []
    found = turns("test", [Message(role, content) for role, content in conversation], "chatml", prompt)
    for pieces in render(found, "chatml", system, inputs.end_token, prompt):
        for piece in pieces:
            got += [ours.special(piece.text)] if piece.kind == "special" else ours.encode(piece.text)
    assert got == want
