import pytest
from absl import flags
from absl.testing import flagsaver

from configs.nvlm import get_config
from data_pipelines.records import DatasetError, write_dataset
from launch.blends import blend_flags, with_blend
from launch.config_flag import with_brackets
from nvlm_jax.config import ConfigError, RunConfig, from_mapping
from nvlm_jax.inputs.batch import Message, Sample
from tests.commands import command


@pytest.fixture(autouse=True)
def parsed():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def named(**values) -> list[tuple[str, str, float]]:
    """Datasets of the tiny run with these flags, or with this `blend` in its config."""
    config = get_config("arch=d,size=tiny,stage=sft")
    if "config" in values:
        config.data.blend = values.pop("config")
    with flagsaver.as_parsed(**values):
        blend = from_mapping(RunConfig, with_blend(config)).data.blend
    return [(d.name, d.path, d.weight) for d in blend]


def test_datasets_of_ones_own():
    assert named(blend=["mine:runs/data/mine:0.8", "text:runs/data/text:2"]) == [
        ("mine", "runs/data/mine", 0.8),
        ("text", "runs/data/text", 2.0),
    ]
    assert named(blend=["mine:runs/data/mine"]) == [("mine", "runs/data/mine", 1.0)]
    assert named(blend=["far:gs://bucket/far:3", "near:s3://bucket/near"]) == [
        ("far", "gs://bucket/far", 3.0),
        ("near", "s3://bucket/near", 1.0),
    ]
    assert named(config=(("mine", "p", 2.0), ("other", "q"), "third:r:0.5", {"name": "fourth", "path": "s"})) == [
        *(("mine", "p", 2.0), ("other", "q", 1.0), ("third", "r", 0.5), ("fourth", "s", 1.0))
    ]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"blend": ["mine"]}, "--blend=mine: expected NAME:PATH:WEIGHT, such as mine:runs/data/mine:0.8, or one of"),
        ({"blend": ["mine:"]}, "--blend=mine:: expected NAME:PATH:WEIGHT"),
        ({"blend": ["a:b:0"]}, "--blend=a:b:0: the weight is 0; a number above 0 would be right"),
        ({"blend": ["a:b:nan"]}, "the weight is nan"),
        ({"blend": ["a:b:1", "a:c:1"]}, "two datasets are named 'a'"),
        ({"blend": ["sft", "a:b:1"]}, "--blend=sft: is a whole blend of the paper's; give it alone"),
        ({"config": (("a",),)}, r"data.blend: ('a',) is no dataset; ('mine', 'runs/data/mine', 0.8) would be right"),
    ],
)
def test_what_names_no_dataset_says_how(values, text):
    with pytest.raises(ConfigError) as caught:
        named(**values)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_flags_for_another_command_are_as_given():
    with flagsaver.as_parsed(blend=["mine:p:1", "text:q:2"]):
        assert blend_flags() == ["--blend=mine:p:1", "--blend=text:q:2"]
    with flagsaver.as_parsed(blend=["sft"], data="d"):
        assert blend_flags() == ["--blend=sft", "--data=d"]
        config = get_config("arch=d,size=tiny,stage=sft")
        assert with_blend(config, here=False)["data"]["blend"] == list(config.to_dict()["data"]["blend"])


def test_places_of_a_blend_on_the_command_line(tmp_path):
    assert with_brackets("--config.data.blend.0.path=a.0.b") == "--config.data.blend[0].path=a.0.b"
    assert with_brackets("--workdir=runs.0.x") == "--workdir=runs.0.x"
    config = "--config=configs/nvlm.py:arch=d,size=tiny,stage=sft"
    done = command("launch.show_batch", config, f"--out={tmp_path}/a.html", "--config.data.blend.0.path=nowhere")
    assert done.returncode == 1 and "nowhere: no dataset here" in done.stderr
    done = command("launch.show_batch", config, f"--out={tmp_path}/a.html", "--config.data.blend.7.path=nowhere")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "data.blend has no dataset 7; it has 2 datasets, 0 to 1. --blend=NAME:PATH:WEIGHT" in done.stderr


def test_what_is_prepared_of_a_blend_replaces_the_configs(tmp_path):
    turns = (Message("user", "why?"), Message("assistant", "so"))
    for name, size in (("orcamath", 30), ("magicoder", 10), ("textvqa", 10)):
        write_dataset(tmp_path / name, [Sample(f"s{i}", turns) for i in range(size)])
    config = get_config("arch=d,size=tiny,stage=sft")
    assert from_mapping(RunConfig, with_blend(config)) == from_mapping(RunConfig, config.to_dict())
    with flagsaver.as_parsed(blend=["text"], data=str(tmp_path)):
        found = from_mapping(RunConfig, with_blend(config)).data.blend
    assert [(d.name, d.path, d.weight) for d in found] == [
        ("orcamath", f"{tmp_path}/orcamath", 0.75),
        ("magicoder", f"{tmp_path}/magicoder", 0.25),
    ]
    with flagsaver.as_parsed(blend=["sft"], data=str(tmp_path)):
        assert {d["name"] for d in with_blend(config)["data"]["blend"]} == {"orcamath", "magicoder", "textvqa"}
    with (
        flagsaver.as_parsed(blend=["pretrain"], data=str(tmp_path)),
        pytest.raises(DatasetError, match="--blend=pretrain: no dataset of the blend is prepared"),
    ):
        with_blend(config)
