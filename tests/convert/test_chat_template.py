"""Chat templates that come with checkpoints, and the one that goes out with ours."""

import json
import logging
import shutil

import pytest

from nvlm_jax.config import InputConfig
from nvlm_jax.convert import CheckpointError, config_from_hf
from nvlm_jax.convert.chat_template import agrees, chatml_text, render_template, system_text, write_template
from nvlm_jax.convert.write import write_hf
from nvlm_jax.inputs.batch import Message
from tests.convert.support import random_parameters, small

# As Qwen2's own: a default system text, tokens by message.
QWEN2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
TALK = [Message("user", "one"), Message("assistant", "two"), Message("user", "three")]


def directory(path, template):
    (path / "tokenizer_config.json").write_text(json.dumps({} if template is None else {"chat_template": template}))
    return path


def test_system_text_is_taken_from_the_template(tmp_path):
    assert system_text(directory(tmp_path, QWEN2), InputConfig()) == "You are a helpful assistant."
    without = QWEN2.replace("{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}", "")
    assert system_text(directory(tmp_path, without), InputConfig()) == ""
    assert system_text(directory(tmp_path, None), InputConfig(system="kept")) == "kept"
    named = [{"name": "tool_use", "template": PLAIN}, {"name": "default", "template": QWEN2}]
    assert system_text(directory(tmp_path, named), InputConfig()) == "You are a helpful assistant."
    (tmp_path / "chat_template.jinja").write_text(without)  # the newer place goes before the older
    assert system_text(tmp_path, InputConfig()) == ""


def test_template_that_is_not_chatml_is_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert system_text(directory(tmp_path, PLAIN), InputConfig(system="kept")) == "kept"
    assert "is not ChatML" in caplog.text


@pytest.mark.parametrize("system", ["Be brief.", "", "Say \"no\" \\ {{ x }} 'ü'"])
@pytest.mark.parametrize("own_system", [False, True])
@pytest.mark.parametrize("prompt", [False, True])
def test_written_template_renders_as_we_do(tmp_path, system, own_system, prompt):
    inputs = InputConfig(system=system)
    talk = [Message("system", "Own.")] * own_system + (TALK if prompt else TALK[:2])
    text = render_template(write_template(inputs), talk, prompt, tmp_path)
    assert text == chatml_text(talk, system, "<|im_end|>", prompt)
    assert agrees(directory(tmp_path, write_template(inputs)), inputs)


def test_template_of_a_whole_checkpoint_sets_its_system_text(tmp_path):
    config = small()
    write_hf(tmp_path, config, InputConfig(), random_parameters(config))
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings["nvlm_jax"]  # as a checkpoint that is not of our making
    (tmp_path / "config.json").write_text(json.dumps(settings))
    directory(tmp_path, QWEN2)
    assert config_from_hf(tmp_path)[1].system == "You are a helpful assistant."


def test_export_replaces_a_template_that_the_model_was_not_trained_on(tmp_path):
    (tmp_path / "llm").mkdir()
    shutil.copy("nvlm_jax/assets/tiny/tokenizer.json", tmp_path / "llm")
    (tmp_path / "llm" / "chat_template.jinja").write_text(QWEN2)
    config, inputs = small(vocab_size=512), InputConfig(tokenizer=str(tmp_path / "llm"))
    write_hf(tmp_path / "hf", config, inputs, random_parameters(config))
    assert not agrees(tmp_path / "llm", inputs) and agrees(tmp_path / "hf", inputs)


def test_templates_run_in_a_sandbox_and_their_errors_name_the_checkpoint(tmp_path):
    for hostile in ("{{ messages.__class__.__mro__ }}{{ ''.__class__.__base__.__subclasses__() }}", "{% if %}"):
        with pytest.raises(CheckpointError, match="its chat template cannot be rendered"):
            system_text(directory(tmp_path, hostile), InputConfig())
