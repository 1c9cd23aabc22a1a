"""The LLM's tokenizer is the run's: another one is refused unless it is meant."""

import dataclasses
import json
import pathlib
import shutil

import pytest

from configs.nvlm import get_config
from nvlm_jax.config import ConfigError, InitConfig, InputConfig, RunConfig, from_mapping
from nvlm_jax.inputs.batch import Message
from nvlm_jax.inputs.example import ExampleBuilder
from nvlm_jax.training.llm_tokenizer import check_tokenizer, source_tokenizer, with_tokenizer_of_llm
from tests.commands import command

TINY = pathlib.Path(__file__).parents[2] / "nvlm_jax" / "assets" / "tiny"


def tokenizer(path: pathlib.Path, change) -> str:
    """A copy of the tiny one with its JSON changed."""
    path.mkdir()
    mapping = json.loads((TINY / "tokenizer.json").read_text())
    change(mapping)
    (path / "tokenizer.json").write_text(json.dumps(mapping))
    return str(path)


def exchanged(mapping) -> None:
    vocabulary = mapping["model"]["vocab"]
    first, second = list(vocabulary)[100:102]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]


def added_to(mapping) -> None:
    last = mapping["added_tokens"][-1]
    new = max(token["id"] for token in mapping["added_tokens"])
    new = max(new, *mapping["model"]["vocab"].values()) + 1
    mapping["added_tokens"].append(last | {"id": new, "content": "<|new|>"})


def config_of(llm: str, tokenizer: str, **init) -> RunConfig:
    return RunConfig(inputs=InputConfig(tokenizer=tokenizer), init=InitConfig(llm=llm, **init))


def test_another_tokenizer_is_refused_unless_it_is_meant(tmp_path, caplog):
    other, more = tokenizer(tmp_path / "other", exchanged), tokenizer(tmp_path / "more", added_to)
    same = shutil.copytree(TINY, tmp_path / "same")
    for tokens in (str(TINY), str(same), more):
        check_tokenizer(config_of(str(TINY), tokens))
    with pytest.raises(ConfigError, match=r"other is not the tokenizer of init\.llm, .*tiny: 2 of its \d+ tokens"):
        check_tokenizer(config_of(str(TINY), other))
    with pytest.raises(ConfigError, match=r"1 of its \d+ tokens have other ids \('<\|new\|>' is \d+ there and absent"):
        check_tokenizer(config_of(more, str(TINY)))
    check_tokenizer(config_of(str(TINY), other, other_tokenizer=True))
    assert "another than init.llm's, as init.other_tokenizer says" in caplog.text


def test_an_llm_brings_its_tokenizer(tmp_path):
    other = tokenizer(tmp_path / "llm", exchanged)
    assert with_tokenizer_of_llm(config_of(other, str(TINY))).inputs.tokenizer == other
    assert with_tokenizer_of_llm(config_of(other, "")).inputs.tokenizer == other
    (tmp_path / "llm" / "tokenizer.json").unlink()
    assert source_tokenizer(other) == "" and with_tokenizer_of_llm(config_of(other, "a")).inputs.tokenizer == "a"
    assert with_tokenizer_of_llm(config_of("no/such", "a")).inputs.tokenizer == "a"


PARSE = """
import json
from absl import app
from launch.config_flag import define_config, run_config

CONFIG = define_config("a run")


def main(_):
    inputs = run_config(CONFIG.value.to_dict()).inputs
    print(json.dumps([inputs.tokenizer, inputs.system]))


app.run(main)
"""


def test_flags_bring_it_unless_they_name_another(tmp_path):
    other = tokenizer(tmp_path / "llm", exchanged)
    named, llm = "--config=configs/nvlm.py:arch=d,size=tiny,stage=pretrain", f"--config.init.llm={other}"
    (tmp_path / "parse.py").write_text(PARSE)

    def parsed(*flags: str) -> list[str]:
        return json.loads(command("parse", named, *flags, cwd=tmp_path).stdout)

    assert parsed()[0].endswith("assets/tiny")
    assert parsed(llm)[0] == other
    assert parsed(llm, f"--config.inputs.tokenizer={TINY}")[0] == str(TINY)
    assert parsed("--config.inputs.template=checkpoint")[1] == ""
    assert parsed("--config.inputs.template=checkpoint", "--config.inputs.system=Be brief.")[1] == "Be brief."


def test_the_default_text_does_not_displace_that_of_a_checkpoints_template(tmp_path):
    assert InputConfig().system.startswith("Follow the user") and InputConfig(template="checkpoint").system == ""
    assert InputConfig(template="checkpoint", system="Be brief.").system == "Be brief."
    mapping = get_config("arch=d,size=tiny,stage=sft").to_dict()
    mapping["inputs"]["template"] = "checkpoint"
    assert from_mapping(RunConfig, mapping).inputs.system == ""
    saved = from_mapping(RunConfig, mapping, stored=True)  # of a run that learned with it
    assert saved.inputs.system.startswith("Follow the user")
    path = shutil.copytree(TINY, tmp_path / "own")
    template = (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nI am the LLM's own.<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    (path / "chat_template.jinja").write_text(template)
    inputs = dataclasses.replace(from_mapping(RunConfig, mapping).inputs, tokenizer=str(path))
    builder = ExampleBuilder(inputs, from_mapping(RunConfig, mapping).model)
    text = builder.tokenizer.decode(builder.prompt([Message("user", "Hello")]).tokens, skip_special=False)
    assert "I am the LLM's own." in text and "Follow the user" not in text
