"""Plain mappings become checked dataclasses: every fault at once, each with its key and what would be right."""

import json

import pytest

from configs.nvlm import get_config
from nvlm_jax.config import ConfigError, InputConfig, RunConfig, from_mapping, to_mapping
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
        ("arch=d", {"inputs__max_tiles": 0}, "inputs.max_tiles: 0 tiles an image; at least 1"),
        ("arch=d", {"inputs__tile_tags": "2d"}, "inputs.tile_tags: '2d' is none of none, 1d, grid, box"),
        ("arch=d", {"inputs__template": "chat"}, "inputs.template: 'chat' is none of chatml, plain, checkpoint, dense"),
        ("arch=d", {"model__remat": "some"}, "model.remat: 'some' is none of none, dots, full"),
        ("arch=d", {"inputs__template": "dense"}, "model.dense_labels: 0 with inputs.template 'dense'"),
        ("arch=d", {"init__checkpoint": "runs/a"}, "init.checkpoint: is the whole model; leave init.vision, init.llm"),
        ("arch=x", {"init__cross_attention": "llm"}, "init.cross_attention: 'llm' is neither empty nor 'decoder'"),
        ("arch=d", {"init__cross_attention": "decoder"}, "init.cross_attention: for archs x and h without"),
        ("arch=d", {"train__accumulation": 3}, "train.accumulation: 3 does not divide train.batch_rows 4"),
        ("arch=d", {"train__trainable": []}, "train.trainable: names no part; nothing would be trained"),
        ("arch=d", {"train__steps": 0}, "train.steps: 0; at least 1"),
        ("arch=d", {"model__vision__image_size": 60}, "model.vision.image_size: 60 is no multiple of patch_size *"),
        ("arch=d", {"model__decoder__kv_heads": 3}, "model.decoder.kv_heads: 3 does not divide heads 4"),
        ("arch=x", {"model__cross_attention__every": 3}, "model.cross_attention.every: 3 does not divide"),
        ("arch=x", {"model__cross_attention__place": 1}, "model.cross_attention.place: 1 is none of a group"),
        ("arch=x", {"model__cross_attention__resampler_latents": -1}, "model.cross_attention.resampler_latents: -1"),
    ],
)
def test_combinations_that_cannot_run(argument, values, message):
    found = faults(changed(f"{argument},size=tiny,stage=pretrain", **values))
    assert sum(line.startswith(message) for line in found) == 1 and len(found) <= 2


def test_keys_of_earlier_versions_are_still_read():
    assert from_mapping(InputConfig, {"joined_image_prefix": True}).joined_as_released_hf


def test_a_workdir_of_an_earlier_version_goes_on(tmp_path):
    open_workdir(tmp_path, RunConfig())
    record = json.loads((tmp_path / "config.json").read_text())
    record["config"]["inputs"]["joined_image_prefix"] = record["config"]["inputs"].pop("joined_as_released_hf")
    del record["config"]["model"]["decoder"]["max_positions"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    open_workdir(tmp_path, RunConfig())
    with pytest.raises(ConfigError, match=r"seed: 0 there, 1 now"):
        open_workdir(tmp_path, RunConfig(seed=1))
