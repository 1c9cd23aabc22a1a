"""Initial weights: fresh, from a previous stage, part by part; and what does not fit."""

import dataclasses
import logging
import pathlib
import shutil

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from configs.nvlm import get_config
from nvlm_jax.config import ConfigError, InitConfig, InputConfig, MeshConfig, RunConfig, from_mapping
from nvlm_jax.convert import CheckpointError
from nvlm_jax.convert.write import write_hf
from nvlm_jax.parallel.mesh import make_mesh
from nvlm_jax.training import initial
from nvlm_jax.training.checkpoints import restore_model
from nvlm_jax.training.imported import import_hf
from nvlm_jax.training.initial import check_same_model, initial_model
from nvlm_jax.training.workdir import open_workdir
from tests.tiny import TRAINABLE, make_model
from tests.training.test_checkpoints import arrays

TINY = pathlib.Path(__file__).parents[2] / "nvlm_jax" / "assets" / "tiny" / "tokenizer.json"


def next_stage(config, **changes):
    """SFT after pretraining: the decoder trains too, on longer inputs in another template."""
    inputs = dataclasses.replace(config.inputs, template="plain", max_tiles=3, **changes.pop("inputs", {}))
    train = dataclasses.replace(config.train, trainable=TRAINABLE[config.model.arch])
    return dataclasses.replace(config, inputs=inputs, train=train, **changes)


def test_the_model_of_a_previous_stage(runs, caplog):
    caplog.set_level(logging.DEBUG, logger=initial.__name__)
    config = next_stage(runs.config, init=InitConfig(checkpoint=str(runs.whole)))
    found, expected = arrays(initial_model(config)), arrays(restore_model(runs.whole)[1])
    assert set(found) == set(expected)
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value)
    assert "loaded decoder/layers/attention/q/kernel (2, 32, 32)" in caplog.text and "fresh  " not in caplog.text


@pytest.mark.parametrize(("every", "place"), [(1, 0), (2, 1)])
def test_gated_layers_that_begin_as_the_decoder_layers_behind_them(every, place):
    """With the shipped tiny LLM, whose norms are trained."""
    mapping = get_config("arch=x,size=tiny,stage=pretrain")
    mapping.model.cross_attention.every, mapping.model.cross_attention.place = every, place
    config = from_mapping(RunConfig, mapping.to_dict())
    found = arrays(initial_model(config))
    pairs = {("q",): ("attention", "q"), ("out",): ("attention", "out"), ("norm1",): ("norm1",), ("norm2",): ("norm2",)}
    pairs |= {("k",): ("attention", "k"), ("v",): ("attention", "v"), ("mlp", "down"): ("mlp", "down")}
    norm = found["decoder", "layers", "norm1", "scale"][place::every]
    assert np.ptp(norm) > 0.1
    for gated, behind in pairs.items():
        name = "scale" if "norm" in gated[0] else "kernel"
        copy, source = found["cross_attention", "layers", *gated, name], found["decoder", "layers", *behind, name]
        source = source[place::every]
        # Keys and values are of image tokens as they come; the decoder's are of normed states.
        np.testing.assert_array_equal(copy, source * norm[:, :, None] if gated in (("k",), ("v",)) else source)
    cross = config.model.cross_attention
    gates = found["cross_attention", "layers", "attention_gate"]
    np.testing.assert_allclose(gates, [cross.gate_init] * (4 // every - 1) + [cross.last_gate_init], rtol=1e-6)
    shut = [cross.gate_init] * (4 // every)
    np.testing.assert_allclose(found["cross_attention", "layers", "mlp_gate"], shut, rtol=1e-6)


def test_dtypes_are_those_of_the_step(runs):
    model = dataclasses.replace(runs.config.model, frozen_dtype="bfloat16")
    config = next_stage(runs.config, init=InitConfig(checkpoint=str(runs.whole)), model=model)
    dtypes = {(path[0], str(value.dtype)) for path, value in arrays(initial_model(config)).items()}
    assert dtypes == {("vision", "bfloat16"), *((part, "float32") for part in TRAINABLE["x"])}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"tile_tags": "grid"}, "inputs.tile_tags: '1d' there, 'grid' now"),
        ({"thumbnail_tag": "<tile_global>"}, "inputs.thumbnail_tag: '<tile_global_thumbnail>' there, '<tile_global>'"),
        ({"thumbnail": False}, "inputs.thumbnail: True there, False now"),
    ],
)
def test_another_tag_format(inputs, message, runs):
    config = next_stage(runs.config, init=InitConfig(checkpoint=str(runs.whole)), inputs=inputs)
    with pytest.raises(ConfigError, match=r"init.checkpoint: the checkpoint .* does not fit this run") as error:
        initial_model(config)
    assert message in str(error.value) and "Set these keys to the checkpoint's values" in str(error.value)


def test_another_architecture(runs, tiny_model_config):
    init = InitConfig(checkpoint=str(runs.whole))
    config = next_stage(runs.config, init=init, model=tiny_model_config("h"))
    with pytest.raises(ConfigError, match=r"model.arch: 'x' there, 'h' now\n  model.projector_width: 0 there, 40 now"):
        initial_model(config)


def test_parts_of_a_checkpoint(runs, caplog):
    """The vision encoder from a run of this project, the rest fresh and drawn from the seed."""
    caplog.set_level(logging.DEBUG, logger=initial.__name__)
    config = dataclasses.replace(runs.config, init=InitConfig(vision=str(runs.whole)), seed=3)
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    found, saved = arrays(initial_model(config, mesh)), arrays(restore_model(runs.whole)[1])
    same = {path[0] for path in saved if np.array_equal(found[path], saved[path]) and path[-1] == "kernel"}
    assert same == {"vision"}
    assert "loaded vision/layers/up/kernel" in caplog.text and "fresh  decoder/embedding" in caplog.text
    again = arrays(initial_model(config, mesh))
    assert all(np.array_equal(found[path], again[path]) for path in found)


def test_fresh_parameters_do_not_depend_on_the_mesh(runs):
    one = arrays(initial_model(runs.config))
    eight = initial_model(runs.config, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    assert len(eight.decoder.embedding[...].sharding.device_set) == 8
    for path, value in arrays(eight).items():
        np.testing.assert_allclose(value, one[path], rtol=1e-6, atol=1e-8)


def test_a_part_with_names_or_shapes_of_another_model(runs, monkeypatch):
    decoder = dataclasses.replace(runs.config.model.decoder, qkv_bias=False, ff=56)
    model = dataclasses.replace(runs.config.model, decoder=decoder)
    config = dataclasses.replace(runs.config, model=model, init=InitConfig(llm=str(runs.whole)))
    with pytest.raises(ConfigError, match=r"init.llm: the parameters of .* do not fit this model") as error:
        initial_model(config)
    assert "decoder/layers/attention/q/bias: of no use here" in str(error.value)
    assert "decoder/layers/mlp/up/kernel: (2, 32, 48) there, (2, 32, 56) here" in str(error.value)


@pytest.mark.parametrize("mesh", [None, MeshConfig(fsdp=4, tensor=2)])
@pytest.mark.parametrize("form", ["hugging face", "imported"])
def test_parts_of_a_hugging_face_directory(form, mesh, runs, tmp_path):
    """As it is or imported, each part on its own: a single backbone too."""
    model = runs.config.model
    source = {path: np.asarray(value) for path, value in arrays(make_model(model, seed=5)).items()}
    where = {}
    for name, parts in (("vision", ("vision",)), ("llm", ("llm",)), ("projector", None)):
        write_hf(tmp_path / name, model, InputConfig(), source, parts=parts, dummy_heads=2)
        where[name] = str(tmp_path / name)
        if form == "imported":
            import_hf(where[name], tmp_path / "imported" / name)
            where[name] = str(tmp_path / "imported" / name)
    config = dataclasses.replace(runs.config, init=InitConfig(**where))
    state = nnx.to_flat_state(nnx.state(initial_model(config, None if mesh is None else make_mesh(mesh))))
    loaded = {path: leaf[...] for path, leaf in state if path[0] in initial.PARTS.values()}
    for path, value in loaded.items():
        np.testing.assert_array_equal(value, source[path], err_msg="/".join(path))
        assert len(value.sharding.device_set) == (1 if mesh is None else 8)


def test_a_part_that_lacks_a_tensor(runs, tmp_path):
    write_hf(tmp_path / "hf", runs.config.model, InputConfig(), arrays(make_model(runs.config.model)))
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    del tensors["mlp1.0.weight"]
    save_file(tensors, tmp_path / "hf" / "model.safetensors")
    config = dataclasses.replace(runs.config, init=InitConfig(projector=str(tmp_path / "hf")))
    with pytest.raises(CheckpointError, match=r"does not fit the projector:\n  mlp1.0.weight is missing"):
        initial_model(config)


def test_a_part_that_the_model_has_not(runs, tiny_model_config, tmp_path):
    model = tiny_model_config("d", dense_labels=2)
    inputs = dataclasses.replace(runs.config.inputs, template="dense")
    config = dataclasses.replace(runs.config, model=model, inputs=inputs, init=InitConfig(llm=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"init.llm: .* is given, but this model has no part decoder"):
        initial_model(config)


def test_a_stage_does_not_begin_with_another_tokenizer(runs, tmp_path):
    """Than that of the stage before, which its workdir holds."""
    ours = tmp_path / "tokenizer.json"
    shutil.copy(TINY, ours)
    before = dataclasses.replace(runs.config, inputs=dataclasses.replace(runs.config.inputs, tokenizer=str(ours)))
    config = next_stage(before, init=InitConfig(checkpoint="the stage before"))
    check_same_model(before, config, "the stage before", "init.checkpoint")
    held = open_workdir(tmp_path / "before", before) / "tokenizer"
    ours.write_text(ours.read_text() + " ")
    before = dataclasses.replace(before, inputs=dataclasses.replace(before.inputs, tokenizer=str(held)))
    message = r"inputs\.tokenizer: \S+/before/tokenizer \(\w{16}\) there, \S+ \(\w{16}\) now"
    with pytest.raises(ConfigError, match=message):
        check_same_model(before, config, "the stage before", "init.checkpoint")
