"""Chat templates that come with checkpoints, and the one that goes out with ours."""

import json
import shutil

import pytest

import nvlm_jax
from nvlm_jax.config import ConfigError, InputConfig
from nvlm_jax.convert import CheckpointError, config_from_hf
from nvlm_jax.convert.chat_template import agrees, chatml_text, conversing, render_template, write_template
from nvlm_jax.convert.write import write_hf
from nvlm_jax.inputs.batch import Message
from nvlm_jax.training.imported import export_hf, import_hf
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
    assert conversing(directory(tmp_path, QWEN2), InputConfig()).system == "You are a helpful assistant."
    without = QWEN2.replace("{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}", "")
    assert conversing(directory(tmp_path, without), InputConfig()).system == ""
    assert conversing(directory(tmp_path, None), InputConfig(system="kept")).system == "kept"
    named = [{"name": "tool_use", "template": PLAIN}, {"name": "default", "template": QWEN2}]
    assert conversing(directory(tmp_path, named), InputConfig()).system == "You are a helpful assistant."
    (tmp_path / "chat_template.jinja").write_text(without)  # the newer place goes before the older
    assert conversing(tmp_path, InputConfig()).system == ""


NO_BREAK = ("<|im_end|>' + '\n'", "<|im_end|>'")
STRIPPED = ("message['content']", "message['content'] | trim")


@pytest.mark.parametrize("change", [NO_BREAK, STRIPPED])
def test_template_that_is_not_our_chatml_is_used_itself(tmp_path, change):
    shutil.copy("nvlm_jax/assets/tiny/tokenizer.json", tmp_path)
    found = conversing(directory(tmp_path, QWEN2.replace(*change)), InputConfig(system="not this"))
    assert (found.template, found.system, found.end_token) == ("checkpoint", "", "<|im_end|>")


def test_template_that_ends_no_answer_is_refused(tmp_path):
    assert conversing(directory(tmp_path, PLAIN), InputConfig()) == InputConfig()  # no tokenizer to converse with
    shutil.copy("nvlm_jax/assets/tiny/tokenizer.json", tmp_path)
    with pytest.raises(ConfigError, match="ends answers with no special token"):
        conversing(tmp_path, InputConfig())


def test_checkpoint_with_a_template_of_its_own_keeps_it_there_and_back(tmp_path):
    template = "{% for m in messages %}{{ '<|im_start|>' + m.role + m.content | trim + '<|im_end|>' }}{% endfor %}"
    config, parameters = small(vocab_size=512), random_parameters(small(vocab_size=512), scale=0.3)
    write_hf(tmp_path / "hf", config, InputConfig(tokenizer="nvlm_jax/assets/tiny"), parameters)
    settings = json.loads((tmp_path / "hf/config.json").read_text())
    del settings["nvlm_jax"]  # as a checkpoint that is not of our making
    (tmp_path / "hf/config.json").write_text(json.dumps(settings))
    directory(tmp_path / "hf", template)
    import_hf(tmp_path / "hf", tmp_path / "ckpt")
    export_hf(tmp_path / "ckpt", tmp_path / "again")
    for path in ("hf", "ckpt", "again"):
        model = nvlm_jax.load(tmp_path / path)
        assert model.inputs.template == "checkpoint"
        prompt = model.builder.prompt([Message("user", " one ")])
        assert model.builder.tokenizer.decode(prompt.tokens, skip_special=False) == "<|im_start|>userone<|im_end|>"


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
            conversing(directory(tmp_path, hostile), InputConfig())
