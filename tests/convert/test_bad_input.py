"""Damaged and unfit checkpoints: an error that says what and where, before anything is written."""

import dataclasses
import json
import os
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nvlm_jax.convert import CheckpointError, open_part, read_part
from nvlm_jax.convert.shards import INDEX, open_shards, write_shard
from nvlm_jax.convert.stream import save_blocks
from nvlm_jax.convert.write import complete_or_absent, write_hf
from nvlm_jax.training import imported
from nvlm_jax.training.imported import import_hf
from tests import golden
from tests.convert.support import INPUTS, random_parameters, small

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def hf(tmp_path):
    """A copy of the golden checkpoint, to be damaged."""
    files = [*SHARDS, INDEX, "config.json"]
    (tmp_path / "hf").mkdir()
    for name in files:
        shutil.copy(golden.DIRECTORY / name, tmp_path / "hf" / name)
    return tmp_path / "hf"


def refused(hf, message: str) -> None:
    """Importing fails with this message and leaves nothing."""
    before = sorted(os.listdir(hf.parent))
    with pytest.raises(CheckpointError, match=message):
        import_hf(hf, hf.parent / "out")
    assert sorted(os.listdir(hf.parent)) == before


def edit_tensors(hf, shard: str, change) -> None:
    tensors = load_file(hf / shard)
    change(tensors)
    save_file(tensors, hf / shard)
    weight_map = {name: file for file in SHARDS for name in load_file(hf / file)}
    (hf / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def edit_config(hf, section: str | None = None, **changes) -> None:
    config = json.loads((hf / "config.json").read_text())
    (config if section is None else config[section]).update(changes)
    (hf / "config.json").write_text(json.dumps(config))


def test_missing_extra_and_misshaped_tensors_are_all_named(hf):
    def change(tensors):
        del tensors["language_model.model.norm.weight"]
        tensors["language_model.model.layers.9.mlp.up_proj.weight"] = np.zeros((3, 4), np.float32)
        tensors["language_model.lm_head.weight"] = np.zeros((512, 60), np.float32)

    edit_tensors(hf, SHARDS[1], change)
    refused(hf, re.escape("language_model.model.norm.weight is missing, expected [64]"))
    refused(hf, re.escape("layers.9.mlp.up_proj.weight [3, 4] is extra"))
    refused(hf, re.escape("language_model.lm_head.weight has shape [512, 60], expected [512, 64]"))


def test_tensor_of_no_part(hf):
    edit_tensors(hf, SHARDS[0], lambda t: t.update({"resampler.weight": np.zeros(2, np.float32)}))
    refused(hf, "resampler.weight belongs to no part of NVLM-D")


def test_missing_part(hf):
    def change(tensors):
        for name in [n for n in tensors if n.startswith("mlp1")]:
            del tensors[name]

    edit_tensors(hf, SHARDS[0], change)
    refused(hf, re.escape("no tensor of the projector; expected names such as mlp1.*"))


def test_truncated_shard(hf):
    data = (hf / SHARDS[1]).read_bytes()
    (hf / SHARDS[1]).write_bytes(data[:-100])
    refused(hf, f"{SHARDS[1]}: truncated or no safetensors file")


@pytest.mark.parametrize("data", [b"", b"\x00" * 4, b"\xff" * 64, b"\x10" + b"\x00" * 7 + b"{not json at all"])
def test_corrupt_shard(hf, data):
    (hf / SHARDS[0]).write_bytes(data)
    refused(hf, f"{SHARDS[0]}: truncated or no safetensors file")


def test_index_that_names_a_missing_file(hf):
    (hf / SHARDS[1]).unlink()
    refused(hf, f"names {SHARDS[1]}, which is missing")


@pytest.mark.parametrize("name", ["../hf2/model.safetensors", "/etc/passwd", "a/../../b.safetensors", "..\\b"])
def test_index_that_leads_out_of_the_directory(hf, name):
    index = json.loads((hf / INDEX).read_text())
    index["weight_map"]["mlp1.0.bias"] = name
    (hf / INDEX).write_text(json.dumps(index))
    refused(hf, "leads out of the directory")


def test_index_that_disagrees_with_the_shards(hf):
    index = json.loads((hf / INDEX).read_text())
    index["weight_map"]["mlp1.0.bias"] = SHARDS[1]
    (hf / INDEX).write_text(json.dumps(index))
    refused(hf, f"says that {SHARDS[1]} holds mlp1.0.bias; it does not")
    del index["weight_map"]["mlp1.0.bias"]
    (hf / INDEX).write_text(json.dumps(index))
    refused(hf, "does not list mlp1.0.bias")


@pytest.mark.parametrize("text", ["", "[]", '{"weight_map": 3}', "{"])
def test_index_that_is_none(hf, text):
    (hf / INDEX).write_text(text)
    refused(hf, INDEX)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "pytorch_model.bin.index.json", "weights.pth"])
def test_pickles_are_refused_with_the_reason(hf, name):
    for file in (*SHARDS, INDEX):
        (hf / file).unlink()
    (hf / name).write_bytes(b"anything")
    refused(hf, "a pickle can run any code when it is opened and is refused")
    with pytest.raises(CheckpointError, match="a pickle can run any code"):
        open_shards(hf / name)


def test_index_that_names_a_pickle(hf):
    index = json.loads((hf / INDEX).read_text())
    index["weight_map"]["mlp1.0.bias"] = "pytorch_model.bin"
    (hf / INDEX).write_text(json.dumps(index))
    (hf / "pytorch_model.bin").write_bytes(b"anything")
    refused(hf, "a pickle can run any code")


def test_unknown_architectures_and_remote_code(hf):
    edit_config(hf, architectures=["LlavaForConditionalGeneration"])
    refused(hf, r"architectures \['LlavaForConditionalGeneration'\] is unknown.*auto_map.*known are NVLM_D")
    edit_config(hf, architectures=None)
    refused(hf, "is unknown .its `auto_map` asks for code of the checkpoint to be run, which we never do")


def test_missing_config(hf):
    with pytest.raises(CheckpointError, match=r"shard: no config\.json; expected a Hugging Face directory"):
        import_hf((hf / SHARDS[0]).rename(hf / "shard"), hf.parent / "out")
    (hf / "config.json").unlink()
    refused(hf, "no config.json")
    (hf / "config.json").mkdir()
    refused(hf, r"config\.json: cannot be read")


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        (None, {"ps_version": "v1"}, "ps_version is 'v1'; supported: 'v2'"),
        (None, {"select_layer": -4}, "select_layer is -4"),
        (None, {"downsample_ratio": 0.4}, "downsample_ratio 0.4"),
        (None, {"vision_config": None}, "expected a section vision_config"),
        ("vision_config", {"norm_type": "layer_norm"}, "vision_config.norm_type is 'layer_norm'"),
        ("vision_config", {"hidden_act": "gelu_pytorch_tanh"}, "vision_config.hidden_act"),
        ("llm_config", {"hidden_act": "gelu"}, "llm_config.hidden_act is 'gelu'; supported: 'silu'"),
        ("llm_config", {"architectures": ["MistralForCausalLM"]}, "llm_config.architectures is 'MistralForCausalLM'"),
        ("llm_config", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "llm_config.rope_scaling.type is 'linear'"),
        ("llm_config", {"use_sliding_window": True}, "llm_config.use_sliding_window is True"),
        ("llm_config", {"architectures": ["LlamaForCausalLM"]}, "llm_config.attention_bias is True"),
        ("llm_config", {"num_key_value_heads": 3}, "kv_heads: 3 does not divide heads 4"),
        ("llm_config", {"hidden_size": "64"}, "llm_config.hidden_size is '64'; expected a whole number above 0"),
        ("llm_config", {"vocab_size": None}, "llm_config.vocab_size is missing"),
        ("llm_config", {"rope_theta": 0}, "llm_config.rope_theta is 0; expected a number above 0"),
        ("llm_config", {"rope_scaling": "dynamic"}, "expected a section rope_scaling, got 'dynamic'"),
        ("llm_config", {"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'; expected true or false"),
        ("llm_config", {"architectures": 3}, "llm_config.architectures is 3; supported: 'Qwen2ForCausalLM'"),
        ("llm_config", {"eos_token_id": "<|im_end|>"}, "eos_token_id '<|im_end|>' is none of the vocabulary's 512 ids"),
        ("vision_config", {"num_attention_heads": 0}, "vision_config.num_attention_heads is 0"),
        (None, {"force_image_size": 56.0}, "vision_config.image_size is 56.0; expected a whole number"),
        (None, {"downsample_ratio": "half"}, "config.downsample_ratio is 'half'"),
        (None, {"image_tag_type": "internvl"}, "image_tag_type is 'internvl'; supported: 'nvlm'"),
        (None, {"architectures": 3}, "architectures [3] is unknown"),
        (None, {"nvlm_jax": []}, "expected a section nvlm_jax, got []"),
        ("llm_config", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; expected a whole number"),
        ("vision_config", {"num_hidden_layers": 10**9}, "vision_config.num_hidden_layers is 1000000000; expected"),
        ("llm_config", {"intermediate_size": 10**400}, "expected a whole number above 0, 10000000 at most"),
        ("llm_config", {"rope_theta": 1e300}, "llm_config.rope_theta is 1e+300; expected a number above 0"),
        (None, {"downsample_ratio": 1e-9}, "model.pixel_shuffle: 1000000000 is out of range"),
    ],
)
def test_settings_that_would_change_the_result(hf, section, change, message):
    edit_config(hf, section, **change)
    refused(hf, re.escape(message))


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", INDEX])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(hf, name):
    (hf / name).unlink(missing_ok=True)
    os.mkfifo(hf / name)
    refused(hf, rf"{re.escape(name)}: is no regular file")


def test_part_that_does_not_fit_the_run():
    config = golden.config()
    other = dataclasses.replace(
        config, decoder=dataclasses.replace(config.decoder, rope_theta=1e4, heads=8, head_dim=8)
    )
    with pytest.raises(CheckpointError) as error:
        read_part(golden.DIRECTORY, "llm", other)
    assert "rope_theta is 1000000.0, the run's 10000.0" in str(error.value)
    assert "heads is 4, the run's 8" in str(error.value)
    with pytest.raises(CheckpointError, match="'decoder' is no part of a checkpoint; expected one of vision"):
        read_part(golden.DIRECTORY, "decoder", config)


def test_dummy_heads_that_are_none(hf):
    def fill(tensors):
        for name, value in tensors.items():
            if "layers.1.attn.qkv" in name or "layers.1.attn.proj.weight" in name:
                value[...] = 1.0

    edit_tensors(hf, SHARDS[1], fill)
    refused(hf, r"layers.1.attn.qkv.weight and .*layers.1.attn.proj.weight have weights beyond 48 channels")


def test_width_of_dummy_heads_that_are_no_heads(hf):
    def widen(tensors):
        for i in range(3):
            for name in ("q_norm", "k_norm"):
                tensors[f"vision_model.encoder.layers.{i}.attn.{name}.weight"] = np.ones(60, np.float32)

    edit_tensors(hf, SHARDS[1], widen)
    refused(hf, "60 wide; expected 3 heads of 16 and any number of whole dummy heads")


def test_tokenizer_that_does_not_fit_the_embedding(hf, tmp_path):
    shutil.copy("nvlm_jax/assets/tiny/tokenizer.json", hf / "tokenizer.json")
    tokenizer = json.loads((hf / "tokenizer.json").read_text())
    some = tokenizer["added_tokens"][0]
    tokenizer["added_tokens"] += [some | {"id": 404 + i, "content": f"<|more_{i}|>"} for i in range(109)]
    (hf / "tokenizer.json").write_text(json.dumps(tokenizer))
    refused(hf, "the tokenizer has ids up to 512, but the embedding 512 rows")
    config = small(vocab_size=70)
    inputs = dataclasses.replace(INPUTS, tokenizer="nvlm_jax/assets/tiny")
    with pytest.raises(CheckpointError, match="the tokenizer has ids up to 403, but the embedding 70 rows"):
        write_hf(tmp_path / "out", config, inputs, random_parameters(config))
    assert not (tmp_path / "out").exists()


def test_export_of_parameters_that_do_not_fit(tmp_path):
    config, parameters = small(), random_parameters(small())
    parameters["projector", "first", "kernel"] = np.zeros((2, 2), np.float32)
    del parameters["decoder", "norm", "scale"]
    with pytest.raises(CheckpointError) as error:
        write_hf(tmp_path / "out", config, INPUTS, parameters)
    assert "projector/first/kernel has shape (2, 2), expected (60, 11)" in str(error.value)
    assert "decoder/norm/scale is missing" in str(error.value)
    assert not os.listdir(tmp_path)


def test_nothing_is_overwritten(hf, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    refused(hf, "out: exists and is not empty")
    assert (tmp_path / "out" / "mine").read_text() == "precious"


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_interrupted_conversion_leaves_nothing(hf, monkeypatch, error):
    calls = []

    def save_some(directory, tree):
        calls.append(directory)
        if len(calls) == 2:
            raise error
        save_blocks(directory, tree)

    monkeypatch.setattr(imported, "save_blocks", save_some)
    before = sorted(os.listdir(hf.parent))
    with pytest.raises(type(error)):
        import_hf(hf, hf.parent / "out")
    assert len(calls) == 2 and sorted(os.listdir(hf.parent)) == before


def test_what_a_killed_process_leaves_has_another_name(tmp_path):
    context = complete_or_absent(tmp_path / "out")
    partial = context.__enter__()  # never left, as by a kill
    assert partial.is_dir() and not (tmp_path / "out").exists()
    assert ".partial-" in partial.name


def test_writer_refuses_blocks_out_of_place(tmp_path):
    config, parameters = small(), random_parameters(small())
    write_hf(tmp_path / "hf", config, INPUTS, parameters)
    reader = open_part(tmp_path / "hf", "projector", config)
    entries = {name: entry for name, entry in reader.shards.items() if name == "mlp1.0.bias"}
    with pytest.raises(ValueError, match="out of place"):
        write_shard(tmp_path / "x", entries, [("mlp1.0.weight", np.zeros(60, np.float32))])
    with pytest.raises(ValueError, match=r"mlp1.0.bias has 40 bytes; 240 declared"):
        write_shard(tmp_path / "x", entries, [("mlp1.0.bias", np.zeros(10, np.float32))])
