"""Out and in again: every tensor bit for bit, settings and files included."""

import dataclasses
import filecmp
import json
import os
import pathlib
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from safetensors.numpy import load_file

import nvlm_jax
from nvlm_jax.config import MeshConfig
from nvlm_jax.convert import CheckpointError, config_from_hf, names, open_model, read_part
from nvlm_jax.convert import read as read_module
from nvlm_jax.convert.hf_files import llm_config_json
from nvlm_jax.convert.shards import SINGLE, open_shards
from nvlm_jax.convert.write import shard_layout, write_hf
from nvlm_jax.inputs.tokenizer import Tokenizer
from nvlm_jax.parallel.mesh import make_mesh
from nvlm_jax.training.checkpoints import restore_model
from nvlm_jax.training.imported import export_hf, import_hf, open_checkpoint
from tests import golden
from tests.convert.support import INPUTS, assert_same, random_parameters, small

TOKENIZER = "nvlm_jax/assets/tiny"


def read_all(path, config):
    return {k: v for part in names.parts_of(config) for k, v in read_part(path, part, config).items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "mixed"])
@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_hf_and_orbax_round_trip(tmp_path, arch, dtype):
    config, want = small(arch), random_parameters(small(arch), dtype)
    write_hf(tmp_path / "hf", config, INPUTS, want, shard_bytes=9_000, dummy_heads=2)
    found, inputs = config_from_hf(tmp_path / "hf")
    assert dataclasses.replace(found, dtype="float32", frozen_dtype="float32") == config
    assert inputs == INPUTS
    assert_same(read_all(tmp_path / "hf", config), want)

    import_hf(tmp_path / "hf", tmp_path / "ckpt")
    run, arrays = open_checkpoint(tmp_path / "ckpt")
    assert run.model == found and run.inputs == INPUTS
    assert_same(arrays, want)

    export_hf(tmp_path / "ckpt", tmp_path / "again", dummy_heads=2)
    shards = [f for f in os.listdir(tmp_path / "hf") if f.endswith(".safetensors")]
    assert len(shards) > 3
    assert filecmp.cmpfiles(tmp_path / "hf", tmp_path / "again", [*shards, "config.json"], shallow=False)[1:] == (
        [],
        [],
    )


def test_golden_checkpoint_comes_back_byte_for_byte(tmp_path):
    import_hf(golden.DIRECTORY, tmp_path / "ckpt")
    export_hf(tmp_path / "ckpt", tmp_path / "hf", dummy_heads=1)
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert filecmp.cmpfiles(golden.DIRECTORY, tmp_path / "hf", files, shallow=False)[0] == files
    index = "model.safetensors.index.json"
    want, got = (json.loads((d / index).read_text()) for d in (golden.DIRECTORY, tmp_path / "hf"))
    assert got["weight_map"] == want["weight_map"]
    assert json.loads((tmp_path / "hf/generation_config.json").read_text())["eos_token_id"] == 510
    assert json.loads((tmp_path / "hf/config.json").read_text())["llm_config"]["eos_token_id"] == 510


def test_shards_are_cut_as_in_the_source_or_as_asked_where_that_fits(tmp_path):
    config, want = small(), random_parameters(small())
    write_hf(tmp_path / "hf", config, INPUTS, want, shard_bytes=9_000)
    write_hf(tmp_path / "pattern", config, INPUTS, want, shard_bytes=14_000)
    import_hf(tmp_path / "hf", tmp_path / "ckpt")
    layout = shard_layout(open_shards(tmp_path / "hf"))
    other = shard_layout(open_shards(tmp_path / "pattern"))
    assert len(layout) > len(other) > 2
    exports = {"plain": {}, "like": {"like": tmp_path / "pattern"}, "llm": {"part": "llm"}}
    for name, options in exports.items():
        export_hf(tmp_path / "ckpt", tmp_path / name, **options)
    assert shard_layout(open_shards(tmp_path / "plain")) == layout
    assert shard_layout(open_shards(tmp_path / "like")) == other
    assert os.path.exists(tmp_path / "llm" / SINGLE)
    # Not where a shard would come out larger than it may be.
    write_hf(tmp_path / "small", config, INPUTS, want, layout=other, shard_bytes=9_000)
    assert shard_layout(open_shards(tmp_path / "small")) == layout


@pytest.mark.parametrize("ends", [[5], [5, 3]])
def test_ids_that_end_an_answer_travel_without_a_tokenizer(tmp_path, ends):
    write_hf(tmp_path / "hf", small(), INPUTS, random_parameters(small()), ends=ends)
    import_hf(tmp_path / "hf", tmp_path / "ckpt")
    export_hf(tmp_path / "ckpt", tmp_path / "again")
    for path in ("hf", "ckpt", "again"):
        assert nvlm_jax.load(tmp_path / path).end_token_ids == ends


def test_a_language_model_needs_no_image_token(tmp_path):
    """Qwen2-*-Instruct and Yi have none in their tokenizers; a whole model must."""
    raw = json.loads(pathlib.Path(TOKENIZER, "tokenizer.json").read_text())
    raw["added_tokens"] = [token for token in raw["added_tokens"] if token["content"] != "<|vision_pad|>"]
    config, parameters = small(vocab_size=512), random_parameters(small(vocab_size=512))
    inputs = dataclasses.replace(INPUTS, tokenizer=str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    write_hf(tmp_path / "hf", config, inputs, parameters, parts=("llm",))
    run = import_hf(tmp_path / "hf", tmp_path / "ckpt")
    assert Tokenizer(run.inputs.tokenizer).special("<|im_end|>")
    with pytest.raises(CheckpointError, match=r"has no token '<\|vision_pad\|>'"):
        write_hf(tmp_path / "whole", config, inputs, parameters)


@pytest.mark.parametrize("form", ["whole", "single"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_single_backbones(tmp_path, form, bias, tied):
    config = small(qkv_bias=bias, tied_embeddings=tied, rope_theta=5e6, norm_eps=1e-5)
    want = random_parameters(config)
    for part in ("vision", "llm"):
        parts = [part] if form == "single" else None
        write_hf(tmp_path / part, config, INPUTS, want, parts=parts)
        got = read_part(tmp_path / part / SINGLE, part, config)
        assert_same(got, {k: v for k, v in want.items() if k[0] == names.PARTS[part]})
        if form == "single":
            import_hf(tmp_path / part, tmp_path / f"{part}-ckpt")
            run, arrays = open_checkpoint(tmp_path / f"{part}-ckpt")
            assert_same(arrays, got)
            expected = config.vision if part == "vision" else config.decoder
            assert getattr(run.model, names.PARTS[part]) == expected


@pytest.mark.parametrize("dummy_heads", [0, 2])
def test_large_tensors_are_read_and_written_in_blocks(tmp_path, monkeypatch, dummy_heads):
    config = small("h")
    want = random_parameters(config, "mixed")
    monkeypatch.setattr(read_module, "BLOCK_BYTES", 300)  # a row or two of most matrices
    write_hf(tmp_path / "hf", config, INPUTS, want, dummy_heads=dummy_heads)
    readers = open_model(tmp_path / "hf", config).values()
    matrices = [(r, t) for r in readers for t in r.tensors if t.form == "matrix"]
    biggest = max(block.nbytes for reader, tensor in matrices for _, block in reader.blocks(tensor))
    assert 150 < biggest <= 300
    import_hf(tmp_path / "hf", tmp_path / "ckpt")
    assert_same(open_checkpoint(tmp_path / "ckpt")[1], want)
    export_hf(tmp_path / "ckpt", tmp_path / "again", like=tmp_path / "hf", dummy_heads=dummy_heads)
    assert filecmp.cmp(tmp_path / "hf" / SINGLE, tmp_path / "again" / SINGLE, shallow=False)


def refusing(method):
    def checked(tensor, *arguments):
        assert tensor.form not in ("plain", "matrix", "qkv"), tensor.theirs
        return method(tensor, *arguments)

    return checked


def test_a_piece_that_ends_too_early_is_an_error(tmp_path):
    import_hf(golden.DIRECTORY, tmp_path / "ckpt")
    assert_same(open_checkpoint(tmp_path / "ckpt")[1], read_all(golden.DIRECTORY, golden.config()))
    piece = tmp_path / "ckpt/frozen/decoder.embedding/0.0"
    os.truncate(piece, 1000)
    with pytest.raises(CheckpointError, match=r"frozen: decoder.embedding cannot be read"):
        export_hf(tmp_path / "ckpt", tmp_path / "hf")
    with pytest.raises(CheckpointError, match=r"frozen: decoder.embedding cannot be read"):
        nvlm_jax.load(tmp_path / "ckpt")
    assert os.listdir(tmp_path) == ["ckpt"]


def test_rows_are_copied_and_never_turned(tmp_path, monkeypatch):
    """Both ways, all but the vision attention's output, from whose rows dummy heads are cut."""
    config, want = small("x"), random_parameters(small("x"))
    write_hf(tmp_path / "hf", config, INPUTS, want, dummy_heads=2)

    for name in ("to_ours", "to_theirs"):
        monkeypatch.setattr(names.Tensor, name, refusing(getattr(names.Tensor, name)))
    import_hf(tmp_path / "hf", tmp_path / "ckpt")
    export_hf(tmp_path / "ckpt", tmp_path / "again", dummy_heads=2)
    assert filecmp.cmp(tmp_path / "hf" / SINGLE, tmp_path / "again" / SINGLE, shallow=False)


def test_imported_checkpoint_restores_with_plain_orbax_and_with_the_trainer(tmp_path):
    want = read_all(golden.DIRECTORY, golden.config())
    import_hf(golden.DIRECTORY, tmp_path)
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(tmp_path / "frozen")
    np.testing.assert_array_equal(tree["vision"]["layers"]["up"]["kernel"], want["vision", "layers", "up", "kernel"])
    run, model = restore_model(tmp_path)
    assert run.model == golden.config()
    path = ("decoder", "layers", "attention", "q", "kernel")
    np.testing.assert_array_equal(model.decoder.layers.attention.q.kernel[...], want[path])


@pytest.mark.parametrize("count", [1, 2, 8])
def test_imported_checkpoint_restores_onto_meshes(tmp_path, count):
    want = read_all(golden.DIRECTORY, golden.config())
    import_hf(golden.DIRECTORY, tmp_path)
    mesh = make_mesh(MeshConfig(fsdp=-1, tensor=min(count, 2)), jax.devices()[:count])
    state = nnx.to_flat_state(nnx.state(nvlm_jax.load(tmp_path, mesh=mesh).model))
    assert {path for path, _ in state} == want.keys()
    for path, value in state:
        array = value[...]
        np.testing.assert_array_equal(array, want[path])
        assert len(array.sharding.device_set) == count
        if path[-1] == "kernel" and path[0] == "decoder":  # no device ever held it whole
            assert {shard.data.size for shard in array.addressable_shards} == {array.size // count}, path


def test_shards_are_those_of_the_safetensors_library(tmp_path):
    config = small()
    want = random_parameters(config, "mixed")
    write_hf(tmp_path, config, INPUTS, want)
    library, ours = load_file(tmp_path / SINGLE), open_shards(tmp_path)
    assert library.keys() == ours.keys()
    for name, value in library.items():
        assert value.dtype == ours[name].dtype
        np.testing.assert_array_equal(value, ours.read(name))


def test_tokenizer_and_generation_settings_travel(tmp_path):
    config = small(vocab_size=512)
    inputs = dataclasses.replace(INPUTS, tokenizer=TOKENIZER)
    write_hf(tmp_path / "hf", config, inputs, random_parameters(config))
    end = Tokenizer(TOKENIZER).special("<|im_end|>")
    assert json.loads((tmp_path / "hf/generation_config.json").read_text())["eos_token_id"] == end
    assert "<|im_start|>" in json.loads((tmp_path / "hf/tokenizer_config.json").read_text())["chat_template"]
    run = import_hf(tmp_path / "hf", tmp_path / "ckpt")
    os.rename(tmp_path / "ckpt", tmp_path / "moved")  # the tokenizer moves with the checkpoint
    inputs = open_checkpoint(tmp_path / "moved")[0].inputs
    assert Tokenizer(inputs.tokenizer).encode("abc") == Tokenizer(TOKENIZER).encode("abc")
    assert run.inputs.system == INPUTS.system


@pytest.mark.parametrize("newer", [False, True])
def test_positions_and_rope_scaling_are_those_of_the_source(tmp_path, newer):
    shutil.copytree(golden.DIRECTORY, tmp_path / "hf")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    section = config["llm_config"] | {"max_position_embeddings": 40, "rope_scaling": {"type": "dynamic", "factor": 2.5}}
    if newer:  # as transformers 5 writes it
        del section["rope_scaling"], section["rope_theta"]
        section["rope_parameters"] = {"rope_type": "dynamic", "factor": 2.5, "rope_theta": 1e6}
    (tmp_path / "hf/config.json").write_text(json.dumps(config | {"llm_config": section}))
    import_hf(tmp_path / "hf", tmp_path / "ckpt")
    export_hf(tmp_path / "ckpt", tmp_path / "again")
    found = json.loads((tmp_path / "again/config.json").read_text())["llm_config"]
    assert (found["max_position_embeddings"], found["rope_theta"]) == (40, 1e6)
    assert found["rope_scaling"] == {"type": "dynamic", "factor": 2.5}
    model = nvlm_jax.load(tmp_path / "ckpt")
    for call in (lambda: model.logits(range(41)), lambda: model.generate_tokens(range(30), max_new_tokens=11)):
        with pytest.raises(ValueError, match="41 with those to come; at most 40"):
            call()
    made_here = llm_config_json(small().decoder, "float32", [])
    assert (made_here["max_position_embeddings"], made_here["rope_scaling"]) == (32768, None)
