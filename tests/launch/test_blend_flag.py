import pytest
from absl import flags
from absl.testing import flagsaver

from configs.nvlm import get_config
from data_pipelines.records import DatasetError, write_dataset
from launch.blends import with_blend
from nvlm_jax.config import RunConfig, from_mapping
from nvlm_jax.inputs.batch import Message, Sample


def test_what_is_prepared_of_a_blend_replaces_the_configs(tmp_path):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    turns = (Message("user", "why?"), Message("assistant", "so"))
    for name, size in (("orcamath", 30), ("magicoder", 10), ("textvqa", 10)):
        write_dataset(tmp_path / name, [Sample(f"s{i}", turns) for i in range(size)])
    config = get_config("arch=d,size=tiny,stage=sft")
    assert with_blend(config) == config.to_dict()
    with flagsaver.as_parsed(blend="text", data=str(tmp_path)):
        found = from_mapping(RunConfig, with_blend(config)).data.blend
    assert [(d.name, d.path, d.weight) for d in found] == [
        ("orcamath", f"{tmp_path}/orcamath", 0.75),
        ("magicoder", f"{tmp_path}/magicoder", 0.25),
    ]
    with flagsaver.as_parsed(blend="sft", data=str(tmp_path)):
        assert {d["name"] for d in with_blend(config)["data"]["blend"]} == {"orcamath", "magicoder", "textvqa"}
    with (
        flagsaver.as_parsed(blend="pretrain", data=str(tmp_path)),
        pytest.raises(DatasetError, match="--blend=pretrain: no dataset of the blend is prepared"),
    ):
        with_blend(config)
