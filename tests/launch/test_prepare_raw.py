"""The command on raw datasets: what it refuses, and an InternVL meta.json with two datasets."""

from data_pipelines.records import RecordSource
from tests.commands import command
from tests.data_pipelines.raw_files import picture, put


def prepare(*flags: str) -> tuple[int, str]:
    done = command("launch.prepare", *flags)
    return done.returncode, done.stdout + done.stderr


def test_what_it_refuses(tmp_path):
    out = f"--out={tmp_path}"
    code, text = prepare(out, "--dataset=docvq", f"--raw={tmp_path}")
    assert code != 0 and "'docvq' is no row of the paper's tables (docvqa" in text
    code, text = prepare(out, "--dataset=docvqa", f"--raw={tmp_path}")
    assert code != 0 and "LayoutError" in text and "no file matches '**/train_v1.0*.json'" in text
    code, text = prepare(out, "--dataset=mine", f"--raw={tmp_path}", "--layout=json_columns", "--fields=image")
    assert code != 0 and "'image' is no pair; image:picture,answer:label would be right" in text


def test_a_meta_json_makes_all_of_its_datasets(tmp_path):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
    line = {"id": 1, "image": "a.png", "conversations": turns}
    meta = {name: {"root": name, "annotation": f"{name}.jsonl", "repeat_time": 1} for name in ("one", "two")}
    files = {"one.jsonl": [line], "two.jsonl": [line, line], "one/a.png": picture(), "two/a.png": picture(50)}
    put(tmp_path / "raw", files | {"meta.json": meta})
    flags = (f"--meta={tmp_path}/raw/meta.json", f"--raw={tmp_path}/raw", f"--out={tmp_path}/out", "--processes=0")
    code, text = prepare(*flags)
    assert code == 0 and "one: 1 samples" in text and "two: 2 samples" in text
    assert RecordSource(tmp_path / "out" / "two")[1].images == (picture(50),)
    put(tmp_path / "raw", {"two.jsonl": [line]})
    code, text = prepare(*flags)
    assert code == 0 and "out/one: reused, nothing to do: its settings and the 2 raw files looked at" in text
    assert "out/two: made anew, for raw files changed: two.jsonl had" in text and "two: 1 samples" in text


def test_a_split_is_asked_for_and_given(tmp_path):
    row = {"image": "a.png", "question": "?", "answer": "1"}
    put(tmp_path / "raw", {"a.png": picture(), "train.json": [row], "val.json": [row, row]})
    places = (f"--raw={tmp_path}/raw", f"--out={tmp_path}/out")
    flags = ("--dataset=mine", "--layout=json_columns", *places, "--processes=0")
    code, text = prepare(*flags)
    assert code == 1 and "LayoutError" in text and "train.json, val.json" in text and "--split=train" in text
    assert "Traceback" not in text
    code, text = prepare(*flags, "--split=train")
    assert code == 0 and "mine: 1 samples" in text
    code, text = prepare(*flags, "--split=val")
    assert code == 0 and "made anew, for spec.split was 'train', now 'val'" in text and "mine: 2 samples" in text
