"""The HParams tab's sessions, read back from the event files as TensorBoard's plugin does."""

import struct

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from nvlm_jax.sweeps import hparams

FOUND = {
    "variant": "tile_tags=1d",
    "seed": 3,
    "settings": {"tile_tags": "1d", "learning_rate": 0.01, "trainable": ["projector"]},
    "accuracy": {"vision": 0.5, "text": None},
    "loss": 1.5,
    "seconds": 12.0,
    "samples_per_second": 4.0,
    "parameters": 110,
    "flops": 1e9,
}


def events(directory):
    """Records of the event files: length, checksum, bytes, checksum."""
    for file in directory.iterdir():
        data, place = file.read_bytes(), 0
        while place < len(data):
            (size,) = struct.unpack_from("<Q", data, place)
            yield Event.FromString(data[place + 12 : place + 12 + size])
            place += 12 + size + 4


def test_one_session_with_settings_and_results(tmp_path):
    hparams.write(tmp_path / "tb", FOUND | {"loss": 9.0}, "accuracy.vision")
    hparams.write(tmp_path / "tb", FOUND, "accuracy.vision")  # again: replaces the first
    values = [value for event in events(tmp_path / "tb") for value in event.summary.value]
    plugin = {
        value.tag: HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for value in values
        if value.metadata.plugin_data.plugin_name == "hparams"
    }
    started = plugin["_hparams_/session_start_info"].session_start_info.hparams
    assert started["tile_tags"].string_value == "1d" and started["seed"].number_value == 3
    assert started["learning_rate"].number_value == 0.01 and started["trainable"].string_value == "['projector']"
    experiment = plugin["_hparams_/experiment"].experiment
    assert {info.name for info in experiment.hparam_infos} == {"variant", "seed", *FOUND["settings"]}
    scalars = {value.tag: value.simple_value for value in values if value.tag.startswith("result/")}
    assert {info.name.tag for info in experiment.metric_infos} == set(scalars)
    assert scalars["result/accuracy.vision"] == 0.5 and scalars["result/loss"] == 1.5
    assert "result/accuracy/text" not in scalars and "_hparams_/session_end_info" in plugin
