"""Plain mappings become checked dataclasses: every fault at once, each with its key and what would be right."""

import dataclasses
import json
import math
import typing

import pytest

from configs.nvlm import get_config
from nvlm_jax.config import (
    ConfigError,
    CrossAttentionConfig,
    InputConfig,
    ModelConfig,
    RunConfig,
    from_mapping,
    to_mapping,
)
from nvlm_jax.mapping import nearest_key
from nvlm_jax.ranges import range_faults, range_of
from nvlm_jax.training.loop import train
from nvlm_jax.training.workdir import open_workdir


def changed(argument="arch=d,size=tiny,stage=pretrain", **values):
    """A named config with dotted keys set, `__` standing for the dot."""
    mapping = get_config(argument).to_dict()
    for key, value in values.items():
        *folders, name = key.split("__")
        inner = mapping
        for folder in folders:
            inner = inner[folder]
        inner[name] = value
    return mapping


def faults(mapping):
    with pytest.raises(ConfigError) as error:
        from_mapping(RunConfig, mapping)
    first, *lines = str(error.value).splitlines()
    assert first == "invalid configuration:"
    return [line.strip() for line in lines]


def test_there_and_back():
    config = from_mapping(RunConfig, get_config("arch=h,size=72b,stage=sft").to_dict())
    assert from_mapping(RunConfig, to_mapping(config)) == config


def test_a_way_to_resize_that_does_not_exist():
    assert faults(changed(inputs__resize="lanczos")) == ["inputs.resize: 'lanczos' is none of pillow, opencv"]


def test_a_whole_number_may_stand_for_a_fraction():
    config = from_mapping(RunConfig, changed(optimizer__clip_norm=1))
    assert config.optimizer.clip_norm == 1.0 and isinstance(config.optimizer.clip_norm, float)


def test_all_faults_of_keys_and_types_are_listed_at_once():
    mapping = changed(train__stesp=3, model__vision__witdh=4, train__steps="many", data__blend="qa", inputs=7)
    assert sorted(faults(mapping)) == [
        "data.blend: expected a list, got 'qa'",
        "inputs: expected keys of InputConfig, got 7",
        "model.vision.witdh: no such key; did you mean model.vision.width?",
        "train.steps: expected int, got 'many'",
        "train.stesp: no such key; did you mean train.steps?",
    ]


def test_true_is_no_number_and_a_list_is_checked_item_by_item():
    blend, parts = [{"name": "qa", "wieght": 1.0}], ["vision", 3]
    assert sorted(faults(changed(train__steps=True, data__blend=blend, train__trainable=parts))) == [
        "data.blend[0].wieght: no such key; did you mean data.blend[0].weight?",
        "train.steps: expected int, got True",
        "train.trainable[1]: expected str, got 3",
    ]


# Where one value is wrong in two ways, the other line is left out here.
CROSS = {"every": 1, "gate_init": 0.0, "tag_embeddings": 0}


@pytest.mark.parametrize(
    ("argument", "values", "message"),
    [
        ("arch=d", {"model__cross_attention": CROSS}, "model.cross_attention: arch d has no cross-attention"),
        ("arch=x", {"model__cross_attention": None}, "model.cross_attention: arch x needs it; it is None"),
        ("arch=d", {"model__arch": "q"}, "model.arch: 'q' is none of d, x, h"),
        ("arch=d", {"inputs__max_tiles": 0}, "inputs.max_tiles: 0 is out of range; from 1 to 10000 would be right"),
        ("arch=d", {"inputs__tile_tags": "2d"}, "inputs.tile_tags: '2d' is none of none, 1d, grid, box"),
        ("arch=d", {"inputs__template": "chat"}, "inputs.template: 'chat' is none of chatml, plain, checkpoint, dense"),
        ("arch=d", {"model__remat": "some"}, "model.remat: 'some' is none of none, dots, full"),
        ("arch=d", {"inputs__template": "dense"}, "model.dense_labels: 0 with inputs.template 'dense'"),
        ("arch=d", {"init__checkpoint": "runs/a"}, "init.checkpoint: is the whole model; leave init.vision, init.llm"),
        ("arch=x", {"init__cross_attention": "llm"}, "init.cross_attention: 'llm' is neither empty nor 'decoder'"),
        ("arch=d", {"init__cross_attention": "decoder"}, "init.cross_attention: for archs x and h without"),
        ("arch=d", {"train__accumulation": 3}, "train.accumulation: 3 does not divide train.batch_rows 4"),
        ("arch=d", {"train__trainable": []}, "train.trainable: names no part; nothing would be trained"),
        ("arch=d", {"train__steps": 0}, "train.steps: 0 is out of range; from 1 to"),
        ("arch=d", {"model__vision__image_size": 60}, "model.vision.image_size: 60 is no multiple of patch_size *"),
        ("arch=d", {"model__decoder__kv_heads": 3}, "model.decoder.kv_heads: 3 does not divide heads 4"),
        ("arch=x", {"model__cross_attention__every": 3}, "model.cross_attention.every: 3 does not divide"),
        ("arch=x", {"model__cross_attention__place": 1}, "model.cross_attention.place: 1 is none of a group"),
        ("arch=x", {"model__cross_attention__resampler_latents": -1}, "model.cross_attention.resampler_latents: -1"),
        ("arch=d", {"optimizer__min_learning_rate": 0.5}, "optimizer.min_learning_rate: 0.5 is above"),
        ("arch=d", {"inputs__image_token": "<|im_end|>"}, "inputs.image_token: '<|im_end|>' begins or ends"),
        ("arch=d", {"model__dtype": "float12"}, "model.dtype: 'float12' is none of float32, bfloat16"),
    ],
)
def test_combinations_that_cannot_run(argument, values, message):
    found = faults(changed(f"{argument},size=tiny,stage=pretrain", **values))
    assert sum(line.startswith(message) for line in found) == 1 and len(found) <= 2


NONSENSE = {
    "train.keep_checkpoints": 0,
    "train.log_every": 0,
    "train.checkpoint_every": -5,
    "train.batch_rows": -4,
    "train.accumulation": 0,
    "train.steps": 10**12,
    "train.hang_seconds": math.inf,
    "optimizer.learning_rate": math.nan,
    "optimizer.beta1": 1.0,
    "optimizer.beta2": 1.5,
    "optimizer.eps": 0.0,
    "optimizer.weight_decay": -0.1,
    "optimizer.clip_norm": 0.0,
    "optimizer.warmup_steps": -1,
    "data.tokens_per_row": 0,
    "data.tiles_per_row": -1,
    "data.pack_window": 0,
    "data.workers": -2,
    "data.max_bad_share": 1.5,
    "inputs.max_images": 0,
    "model.vision.layers": 0,
    "model.vision.patch_size": 0,
    "model.decoder.kv_heads": 0,
    "model.decoder.rope_theta": -math.inf,
    "mesh.fsdp": 0,
    "seed": -1,
}


def test_every_number_out_of_its_range_is_named_at_once():
    found = faults(changed(train__stesp=3, **{key.replace(".", "__"): value for key, value in NONSENSE.items()}))
    for key, value in NONSENSE.items():
        assert sum(line.startswith(f"{key}: {value} is out of range; ") for line in found) == 1, (key, found)
    assert "optimizer.beta2: 1.5 is out of range; from 0 below 1 would be right" in found
    assert "mesh.fsdp: 0 is out of range; -1 or from 1 to 1000000 would be right" in found
    assert "train.stesp: no such key; did you mean train.steps?" in found and len(found) == len(NONSENSE) + 1


def test_numbers_of_a_blend_have_ranges_too():
    blend = [{"name": "qa", "path": "a", "weight": -1.0}]
    assert faults(changed(data__blend=blend)) == [
        "data.blend[0].weight: -1.0 is out of range; from 0 to 1e+12 would be right"
    ]


def numbers(cls):
    """Every number of a dataclass and of those in it: (key, hint)."""
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        inner = [
            each for each in (hint, *typing.get_args(hint)) if isinstance(each, type) and dataclasses.is_dataclass(each)
        ]
        for each in inner:
            yield from ((f"{name}.{key}", kind) for key, kind in numbers(each))
        if {int, float} & {hint, *typing.get_args(hint)}:
            yield name, hint


def test_every_number_has_a_range_and_its_default_is_in_it():
    assert len(dict(numbers(RunConfig))) > 50
    without = [key for key, hint in numbers(RunConfig) if range_of(hint) is None]
    assert not without, "annotate them with a range of nvlm_jax/ranges.py"
    assert not range_faults(RunConfig(model=ModelConfig(cross_attention=CrossAttentionConfig())))


def test_what_was_saved_with_such_numbers_is_still_read_and_not_trained(tmp_path):
    mapping = changed(train__keep_checkpoints=0, optimizer__beta2=1.5)
    config = from_mapping(RunConfig, mapping, stored=True)
    assert (config.train.keep_checkpoints, config.optimizer.beta2) == (0, 1.5)
    with pytest.raises(ConfigError, match=r"optimizer\.beta2: 1\.5 is out of range(.|\n)*keep_checkpoints: 0 is"):
        train(config, tmp_path / "run", lambda step: iter(()))
    assert not (tmp_path / "run").exists()


def test_the_nearest_key_may_lie_in_another_folder():
    hints = {
        "steps": "train.steps",
        "train.stepz": "train.steps",
        "optimiser.learning_rate": "optimizer.learning_rate",
        "lerning_rate": "optimizer.learning_rate",
        "model.depth.layers": "model.vision.layers",
        "data.blends": "data.blend",
        "sead": "seed",
    }
    assert {key: nearest_key(RunConfig, key) for key in hints} == hints


def test_keys_of_earlier_versions_are_still_read():
    assert from_mapping(InputConfig, {"joined_image_prefix": True}).joined_as_released_hf


def test_a_workdir_of_an_earlier_version_goes_on(tmp_path):
    open_workdir(tmp_path, RunConfig())
    record = json.loads((tmp_path / "config.json").read_text())
    record["config"]["inputs"]["joined_image_prefix"] = record["config"]["inputs"].pop("joined_as_released_hf")
    del record["config"]["model"]["decoder"]["max_positions"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    open_workdir(tmp_path, RunConfig())
    with pytest.raises(ConfigError, match=r"seed: 0 there, 1 now"):
        open_workdir(tmp_path, RunConfig(seed=1))
