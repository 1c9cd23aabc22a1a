"""Hostile Hugging Face directories: no code of theirs runs, nothing outside is read or written, sizes are bounded."""

import json
import os
import pickle
import random
import shutil
import tracemalloc

import pytest

from nvlm_jax.config import ConfigError
from nvlm_jax.convert import CheckpointError
from nvlm_jax.convert.shards import INDEX, SINGLE, open_shards, read_json
from nvlm_jax.inputs.tokenizer import MAX_BYTES, Tokenizer, copy_files
from nvlm_jax.pretrained import load
from nvlm_jax.training.imported import _open_hf, import_hf
from tests import golden

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
SECRET = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\n-----END PRIVATE KEY-----\n"
MARKER = "code_ran"
WRITES = f"open({{path!r}}, 'w').write('{MARKER}')\n"


class Bomb:
    """Unpickling it would write the marker."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return exec, (WRITES.format(path=self.path),)


@pytest.fixture
def hf(tmp_path):
    """A copy of the golden checkpoint that has the shipped tokenizer, to be made hostile."""
    folder = tmp_path / "hf"
    folder.mkdir()
    for name in (*SHARDS, INDEX, "config.json"):
        shutil.copy(golden.DIRECTORY / name, folder / name)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(golden.DIRECTORY.parents[2] / "nvlm_jax" / "assets" / "tiny" / name, folder / name)
    (folder / "generation_config.json").write_text('{"eos_token_id": [400], "max_length": 20}')
    return folder


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def plant_code(hf, marker):
    """Every way that other libraries run a checkpoint's code by."""
    code = WRITES.format(path=str(marker))
    names = ("modeling_evil", "configuration_evil", "tokenization_evil", "processing_evil", "setup", "__init__")
    for name in (*names, "conftest", "sitecustomize", "usercustomize", "json", "numpy"):
        (hf / f"{name}.py").write_text(code)
    auto = {
        "AutoConfig": "configuration_evil.C",
        "AutoModel": "modeling_evil.M",
        "AutoModelForCausalLM": "modeling_evil.M",
    }
    edit(hf / "config.json", auto_map=auto, trust_remote_code=True, custom_pipelines={"x": {"impl": "modeling_evil.M"}})
    tokens = {"AutoTokenizer": ["tokenization_evil.T", "tokenization_evil.T"]}
    edit(hf / "tokenizer_config.json", auto_map=tokens, tokenizer_class="evil.T", trust_remote_code=True)
    (hf / "preprocessor_config.json").write_text(json.dumps({"auto_map": {"AutoProcessor": "processing_evil.P"}}))
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "x.pkl"):
        (hf / name).write_bytes(pickle.dumps(Bomb(marker)))


def test_no_code_of_a_checkpoint_runs(hf, tmp_path, monkeypatch):
    marker = tmp_path / MARKER
    plant_code(hf, marker)
    monkeypatch.chdir(hf)  # where a careless import would find its modules
    assert "".join(load(hf).generate("a", max_new_tokens=1)) is not None
    import_hf(hf, tmp_path / "out")
    assert not marker.exists()
    copied = {file.name for file in (tmp_path / "out").rglob("*")}
    assert not any(name.endswith((".py", ".bin", ".pt", ".pth", ".pkl")) for name in copied)


def test_pickles_in_place_of_weights_are_refused_unopened(hf, tmp_path):
    marker = tmp_path / MARKER
    for name in (*SHARDS, INDEX):
        (hf / name).unlink()
    (hf / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(CheckpointError, match="a pickle can run any code"):
        load(hf)
    (hf / SINGLE).write_bytes(pickle.dumps(Bomb(marker)))  # under the other name
    with pytest.raises(CheckpointError, match="no safetensors file"):
        load(hf)
    (hf / SINGLE).unlink()
    (hf / INDEX).write_text(json.dumps({"weight_map": {"a": "pytorch_model.bin"}}))
    with pytest.raises(CheckpointError, match="a pickle can run any code"):
        load(hf)
    assert not marker.exists()


TEMPLATES = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals of a helper": "{{ cycler.__init__.__globals__.os.system('id') }}",
    "globals of a function": "{{ raise_exception.__globals__['__builtins__']['open']('x', 'w') }}",
    "a filter's code": "{{ 'a'|attr('__class__')|attr('__base__') }}",
    "a formatted attribute": "{{ '{0.__class__.__base__}'.format(messages) }}",
    "the environment": "{{ self._TemplateReference__context.environment.from_string('x') }}",
    "an import": "{% import 'os' as os %}{{ os.getcwd() }}",
    "a file": "{% include '/etc/passwd' %}",
    "a change of the messages": "{% for m in messages %}{{ messages.append(m) }}{% endfor %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_reach_nothing(hf, name):
    (hf / "chat_template.jinja").write_text(TEMPLATES[name])
    with pytest.raises((CheckpointError, ConfigError), match="chat template") as raised:
        _open_hf(hf)
    assert str(hf) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["config.json", INDEX, "tokenizer.json", "tokenizer_config.json", SHARDS[0]])
def test_a_link_to_a_secret_is_read_as_what_it_is_not(hf, tmp_path, name):
    (tmp_path / "secret").write_text(SECRET)
    (hf / name).unlink()
    (hf / name).symlink_to(tmp_path / "secret")
    with pytest.raises((CheckpointError, ConfigError)) as raised:
        import_hf(hf, tmp_path / "out")
    assert name in str(raised.value) and "MIIE" not in str(raised.value) and not (tmp_path / "out").exists()


def test_links_beside_a_tokenizer_are_not_copied_into_what_is_made(hf, tmp_path, caplog):
    (tmp_path / "secret").write_text(SECRET)
    names = ("merges.txt", "vocab.json", "added_tokens.json", "special_tokens_map.json", "tokenizer.model")
    for name in (*names, "chat_template.jinja"):
        (hf / name).symlink_to(tmp_path / "secret")
    (tmp_path / "made").mkdir()
    copy_files(hf, tmp_path / "made")
    assert {file.name for file in (tmp_path / "made").iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    assert all(name in caplog.text for name in names) and "MIIE" not in caplog.text


def test_true_files_beside_a_tokenizer_are_copied(hf, tmp_path):
    texts = {
        "merges.txt": "#version: 0.2\nĠ a\nb c\n\n",
        "vocab.json": '{"a": 0}',
        "added_tokens.json": "{}",
        "special_tokens_map.json": "{}",
        "tokenizer.model": "\n\x0e",
        "chat_template.jinja": "{{ messages }}",
    }
    for name, text in texts.items():
        (hf / name).write_text(text)
    (tmp_path / "made").mkdir()
    copy_files(hf, tmp_path / "made")
    assert {name: (tmp_path / "made" / name).read_text() for name in texts} == texts


def test_ordinary_links_are_followed(hf, tmp_path):
    """As in the cache of huggingface_hub, where every file is a link to a blob."""
    (tmp_path / "blobs").mkdir()
    for file in list(hf.iterdir()):
        file.rename(tmp_path / "blobs" / file.name)
        file.symlink_to(f"../blobs/{file.name}")
    assert load(hf).generate("a", max_new_tokens=1) is not None


@pytest.mark.parametrize("length", [2**63 - 1, 2**64 - 1, 10**12, 1 << 30])
def test_enormous_headers_cost_nothing(tmp_path, length):
    (tmp_path / SINGLE).write_bytes(length.to_bytes(8, "little") + b"{}")
    bounded(lambda: open_shards(tmp_path), SINGLE)
    with open(tmp_path / SINGLE, "r+b") as file:
        file.truncate(1 << 40)  # sparse: the header would lie in the file
    bounded(lambda: open_shards(tmp_path), SINGLE)


@pytest.mark.parametrize("shape", [[2**62, 4], [10**18], [2**32, 2**32], [-1], [1.5], ["a"], None])
def test_enormous_and_senseless_shapes_cost_nothing(tmp_path, shape):
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode()
    (tmp_path / SINGLE).write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    bounded(lambda: open_shards(tmp_path), SINGLE)


@pytest.mark.parametrize(
    "name", ["config.json", INDEX, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
)
def test_enormous_small_files_are_not_read(hf, name):
    with open(hf / name, "ab") as file:
        file.truncate(MAX_BYTES + 1)
    assert "at most" in bounded(lambda: (_open_hf(hf), Tokenizer(hf)), name)


def bounded(read, name):
    """It fails, naming the file in one line, and takes less than 16 MB for that; the line."""
    tracemalloc.start()
    try:
        with pytest.raises((CheckpointError, ConfigError, ValueError), match=name.replace(".", r"\.")) as raised:
            read()
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 1000
    return str(raised.value)


@pytest.mark.parametrize("name", [SINGLE, SHARDS[0], INDEX, "tokenizer_config.json", "chat_template.jinja"])
def test_a_fifo_is_not_waited_for(hf, name):
    if name == SINGLE:
        (hf / INDEX).unlink()
    (hf / name).unlink(missing_ok=True)
    os.mkfifo(hf / name)
    with pytest.raises((CheckpointError, ConfigError), match=name.replace(".", r"\.")):
        _open_hf(hf)


@pytest.mark.parametrize("name", ["x" * 1000, "a\x00b.safetensors", "", ".", "config.json"])
def test_odd_names_in_the_index(hf, name):
    index = read_json(hf / INDEX)
    index["weight_map"]["mlp1.0.bias"] = name
    (hf / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError) as raised:
        open_shards(hf)
    assert len(str(raised.value)) < 600


VALUES = (None, 0, -1, "", [], {}, "x" * 1000, 1e308, True, [[]], {"a": 1}, 10**30, float("nan"), "../../etc/passwd")


@pytest.mark.parametrize("name", ["config.json", INDEX, "tokenizer_config.json", "generation_config.json", SHARDS[0]])
def test_damaged_bit_by_bit_and_value_by_value(hf, name):
    """Read as it stands or refused by name; no other error, whatever the damage."""
    good, rng = (hf / name).read_bytes(), random.Random(0)
    length = len(good) if name.endswith("json") else 8 + int.from_bytes(good[:8], "little")
    for _ in range(60):
        (hf / name).write_bytes(damaged(good, length, rng, name.endswith("json")))
        try:
            _open_hf(hf)
        except (CheckpointError, ConfigError) as error:
            assert str(hf) in str(error), error


def damaged(good, length, rng, is_json):
    kind = rng.randrange(4 if is_json else 3)
    if kind == 0:
        return good[: rng.randrange(length)]
    if kind == 3:
        value = json.loads(good)
        place = value
        while isinstance(inner := place[key := rng.choice(list(place))], dict) and inner and rng.random() < 0.8:
            place = inner
        place[key] = rng.choice(VALUES)
        return json.dumps(value).encode()
    content = bytearray(good)
    for _ in range(kind):
        content[rng.randrange(length)] ^= 1 << rng.randrange(8)
    return bytes(content)
