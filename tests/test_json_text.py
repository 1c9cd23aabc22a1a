"""Damaged JSON wherever this project reads a JSON file: one line that names the file, never another kind of error."""

import dataclasses
import json
import math
import os

import pytest

from configs import resolved
from data_pipelines import records
from nvlm_jax import json_text
from nvlm_jax.config import ConfigError
from nvlm_jax.convert import shards
from nvlm_jax.convert.hf_config import config_from_hf
from nvlm_jax.evaluation import examples, files, journal, judge, results, watch
from nvlm_jax.evaluation.question import Prediction
from nvlm_jax.inputs.own_template import read_template, token_names
from nvlm_jax.sweeps import claims, store
from nvlm_jax.sweeps.sweep_file import SweepError

DEEP = 100_000
DAMAGES = {
    "nested lists": b"[" * DEEP,
    "nested objects": b'{"a":' * DEEP,
    "binary": b"\x89PNG\r\n\x1a\n\x00\xff",
    "cut short": b'{"a": [1, 2',
    "empty": b"",
    "a number of 5,000 digits": b"1" * 5000,
    "another value": b"3",
}


# Each reader: the name that its file has, what reads it, what it raises.
READERS = {
    "any": ("x.json", json_text.load_object, json_text.JsonError),
    "a checkpoint's config": ("config.json", lambda f: config_from_hf(f.parent), shards.CheckpointError),
    "a checkpoint's index": (shards.INDEX, lambda f: shards.open_shards(f.parent), shards.CheckpointError),
    "a tokenizer's settings": ("tokenizer_config.json", lambda f: token_names(f.parent), ConfigError),
    "a benchmark": ("x.json", lambda f: files.checked(files.read_json(f), ("a",), str(f)), files.BenchmarkError),
    "a benchmark's lines": ("x.jsonl", lambda f: list(files.read_json_lines(f, ("a",))), files.BenchmarkError),
    "a resolved configuration": ("x.json", lambda f: resolved.get_config(str(f)), ConfigError),
    "a dataset's manifest": (records.MANIFEST, lambda f: records.read_manifest(f.parent), records.DatasetError),
    "a plan of a sweep": (store.PLAN, lambda f: store.read_plan(f.parent), SweepError),
    "a claim": ("claim_1.json", lambda f: claims.read_records(f.parent), ValueError),
    "results": ("results.json", lambda f: results.read(f.parent), json_text.JsonError),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_named_in_one_line(reader, damage, tmp_path):
    name, read, error = READERS[reader]
    file = tmp_path / name
    (tmp_path / "pages.json").write_text("[]")
    file.write_bytes(DAMAGES[damage])
    if reader == "a benchmark's lines" and damage == "empty":
        assert read(file) == []  # no lines
        return
    with pytest.raises(error) as raised:
        read(file)
    message = str(raised.value)
    assert name in message and "\n" not in message and len(message) < 1000, message


@pytest.mark.parametrize("reader", [r for r in READERS if r not in ("a plan of a sweep", "a benchmark's lines")])
def test_a_link_to_nothing_and_a_fifo_are_named(reader, tmp_path):
    """A FIFO that nobody writes to would be waited for without end."""
    name, read, error = READERS[reader]
    (tmp_path / "pages.json").write_text("[]")
    os.mkfifo(tmp_path / name)
    with pytest.raises(error, match=rf"{name}.*regular file"):
        read(tmp_path / name)


@pytest.mark.parametrize("read", [json_text.load, json_text.read_text, shards.read_json])
def test_a_link_that_leads_nowhere_says_so(read, tmp_path):
    (tmp_path / "config.json").symlink_to("elsewhere/config.json")
    with pytest.raises((OSError, shards.CheckpointError), match=r"a link to elsewhere/config\.json, which is missing"):
        read(tmp_path / "config.json")


def test_what_is_read_is_as_before():
    assert json_text.parse(b'\xef\xbb\xbf{"a": 1, "a": 2}') == {"a": 2}
    assert math.isnan(json_text.parse("NaN"))
    assert json_text.parse('"\\ud800"') == "\ud800"
    assert json_text.parse("[" * 500 + "]" * 500)
    assert json_text.parse("é".encode().join((b'"', b'"'))) == "é"


@pytest.mark.parametrize("damage", ["nested lists", "binary", "another value"])
def test_a_damaged_line_of_predictions_is_named(damage, tmp_path):
    whole = Prediction("a", "a", "text", "word", "text", "?", "x", "x", True)
    line = json.dumps(dataclasses.asdict(whole)).encode() + b"\n"
    file = tmp_path / "predictions.jsonl"
    file.write_bytes(line + DAMAGES[damage].replace(b"\n", b"") + b"\n" + line)
    (tmp_path / journal.IDENTITY).write_text("{}")
    with pytest.raises(json_text.JsonError, match=r"predictions\.jsonl, line 2: no prediction"):
        journal.Journal(tmp_path, {})
    with pytest.raises(json_text.JsonError, match=r"predictions\.jsonl, line 2: no prediction"):
        journal.read(file)
    file.write_bytes(line + line)
    assert journal.read(file) == [whole, whole]


def test_damaged_lines_that_cost_little_are_left_out(tmp_path):
    good = {"benchmark": "b", "correct": True, "id": "1", "pictures": []}
    lines = [json.dumps(good).encode(), *DAMAGES.values(), json.dumps(good).encode()]
    (tmp_path / examples.EXAMPLES).write_bytes(b"\n".join(line.replace(b"\n", b"") for line in lines) + b"\n")
    assert examples.read(tmp_path) == [good, good]
    replies = tmp_path / "judge.jsonl"
    replies.write_bytes(b"\n".join([b'["digest", "reply"]', *(d.replace(b"\n", b"") for d in DAMAGES.values())]))
    assert judge._read(replies) == {"digest": "reply"}
    for damage in DAMAGES.values():
        (tmp_path / "config.json").write_bytes(damage)
        assert watch.last_step(tmp_path) is None


def test_a_template_that_is_no_text_is_named(tmp_path):
    (tmp_path / "chat_template.jinja").write_bytes(b"{{ \xff }}")
    with pytest.raises(ConfigError, match=r"chat_template\.jinja: not UTF-8 text: byte 0xff at position 3"):
        read_template(tmp_path)
