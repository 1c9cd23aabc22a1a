"""What an earlier run made is reused while its raw files are the same, and else made anew, with the reason."""

import json
import os
import pathlib

import pytest

from data_pipelines import prepare as preparing
from data_pipelines import reuse
from data_pipelines.prepare import PrepareError, prepare
from data_pipelines.raw import lines, watched
from data_pipelines.raw.entry import Spec
from data_pipelines.raw.root import Root
from data_pipelines.records import RecordSource
from tests.data_pipelines.raw_files import picture, put

SPEC = Spec("set", "json_columns")


def rows(size: int) -> list[dict]:
    return [{"id": f"r{i}", "image": f"images/{i}.png", "question": f"{i}?", "answer": str(i)} for i in range(size)]


def raw(root: pathlib.Path, size: int, file: str = "rows.jsonl", missing: range = range(0)) -> pathlib.Path:
    images = {f"images/{i}.png": picture(30, 20, i) for i in range(size) if i not in missing}
    return put(root / "raw", images | {file: rows(size)})


def run(tmp_path: pathlib.Path, spec: Spec = SPEC, **options) -> tuple[list[str], str]:
    """Ids of the dataset's samples, and what was said."""
    said: list[str] = []
    options = {"processes": 0, "max_bad_share": 0.0} | options
    report = prepare(spec, tmp_path / "raw", tmp_path / "out", say=said.append, **options)
    source = RecordSource(tmp_path / "out" / "set")
    ids = [source[i].id for i in range(len(source))]
    assert report["samples"] == len(ids)
    return ids, "\n".join(said)


@pytest.mark.parametrize("file", ["rows.jsonl", "rows.json"])
def test_repaired_images_are_read_and_other_shards_stay(tmp_path, monkeypatch, file):
    monkeypatch.setattr(lines, "GRAIN", 4)
    raw(tmp_path, 12, file, missing=range(5, 7))
    with pytest.raises(PrepareError, match=r"16\.67% of the samples are bad"):
        run(tmp_path, shard_records=4)
    put(tmp_path / "raw", {f"images/{i}.png": picture(30, 20, i) for i in (5, 6)})
    ids, said = run(tmp_path, shard_records=4)
    assert ids == [f"r{i}" for i in range(12)]
    assert "of an earlier run 2 of 3 shards are reused, 1 are made" in said
    assert "images/5.png was not there, and is now; images/6.png was not there" in said
    assert not (tmp_path / "out" / "set.rejected").exists()


@pytest.mark.parametrize("file", ["rows.jsonl", "rows.json"])
def test_a_finished_dataset_follows_its_raw_file(tmp_path, file):
    raw(tmp_path, 36, file)
    assert len(run(tmp_path)[0]) == 36
    size = (tmp_path / "raw" / file).stat().st_size
    put(tmp_path / "raw", {file: rows(20)})
    ids, said = run(tmp_path)
    assert ids == [f"r{i}" for i in range(20)]
    assert f"made anew, for raw files changed: {file} had {size:,} bytes, now " in said


def test_what_has_not_changed_is_reused_and_said(tmp_path, monkeypatch):
    raw(tmp_path, 3)
    first, said = run(tmp_path)
    assert said == ""
    monkeypatch.setattr(preparing, "make_shard", None)
    ids, said = run(tmp_path)
    assert ids == first and "reused, nothing to do: its settings and the 4 raw files looked at are the same" in said


def changed_in_place(root: pathlib.Path) -> str:
    """An image of the same size and time of content, as an archive unpacks it again."""
    file = root / "images/1.png"
    then = file.stat()
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(bytes(data))
    os.utime(file, ns=(then.st_atime_ns, then.st_mtime_ns))
    return "images/1.png was written again"


def one_more_file(root: pathlib.Path) -> str:
    put(root, {"more.jsonl": [rows(1)[0] | {"id": "new"}]})
    return "**/*.jsonl matches 1 files then, 2 now"


def an_image_gone(root: pathlib.Path) -> str:
    (root / "images/2.png").unlink()
    return "images/2.png is not there any more"


@pytest.mark.parametrize("change", [changed_in_place, one_more_file, an_image_gone])
def test_each_kind_of_change_is_seen(tmp_path, change):
    raw(tmp_path, 4)
    run(tmp_path)
    why = change(tmp_path / "raw")
    _, said = run(tmp_path, max_bad_share=0.9)
    assert f"made anew, for raw files changed: {why}" in said


def test_other_settings_are_named(tmp_path):
    raw(tmp_path, 2)
    run(tmp_path)
    _, said = run(tmp_path, Spec("set", "json_columns", prompt="Say: {question}"))
    assert "made anew, for spec.prompt was '{question}', now 'Say: {question}'" in said


def test_a_dataset_of_an_earlier_version_stays_and_says_so(tmp_path):
    raw(tmp_path, 3)
    run(tmp_path)
    out = tmp_path / "out" / "set"
    (out / reuse.RAW).unlink()
    manifest = json.loads((out / "dataset.json").read_text())
    del manifest["settings"]["tokenizer_digest"]
    (out / "dataset.json").write_text(json.dumps(manifest))
    put(tmp_path / "raw", {"rows.jsonl": rows(2)})
    ids, said = run(tmp_path)
    assert len(ids) == 3 and "kept no record of the raw files" in said and "Delete it to have it made anew" in said


def test_what_an_earlier_version_left_unfinished_is_made_anew(tmp_path):
    raw(tmp_path, 3, missing=range(2, 3))
    with pytest.raises(PrepareError):
        run(tmp_path)
    folder = tmp_path / "out" / ".set.preparing"
    for name, keys in (("cut.json", ["raw"]), ("tally-00000.json", ["raw", "key"])):
        held = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({key: value for key, value in held.items() if key not in keys}))
    put(tmp_path / "raw", {"images/2.png": picture()})
    assert len(run(tmp_path)[0]) == 3


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[1]", b"[" * 100_000])
@pytest.mark.parametrize("name", ["cut.json", "tally-00000.json"])
def test_what_is_unfinished_and_damaged_is_made_anew(tmp_path, name, damage):
    raw(tmp_path, 3, missing=range(2, 3))
    with pytest.raises(PrepareError):
        run(tmp_path)
    (tmp_path / "out" / ".set.preparing" / name).write_bytes(damage)
    put(tmp_path / "raw", {"images/2.png": picture()})
    assert len(run(tmp_path)[0]) == 3


def test_a_dataset_outlives_its_raw_files(tmp_path):
    raw(tmp_path, 3)
    run(tmp_path)
    (tmp_path / "raw").rename(tmp_path / "archive")
    ids, said = run(tmp_path)
    assert len(ids) == 3 and "nothing to compare it with" in said


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path, monkeypatch):
    root = raw(tmp_path, 3)
    make = preparing.make_shard

    def change(*arguments):
        put(root, {"rows.jsonl": rows(2)})
        return make(*arguments)

    monkeypatch.setattr(preparing, "make_shard", change)
    with pytest.raises(PrepareError, match=r"rows\.jsonl changed while the raw dataset was read; run again"):
        run(tmp_path)
    monkeypatch.undo()
    assert run(tmp_path)[0] == ["r0", "r1"]


def test_notes_come_back_from_their_file(tmp_path):
    root = watched.WatchedRoot(put(tmp_path / "raw", {"a.json": [1], "ü/b.json": [2]}))
    assert root.json("a.json") == [1] and not root.exists("none") and root.read("ü/b.json") == b"[2]"
    watched.save(tmp_path / "notes", root.seen)
    assert watched.load(tmp_path / "notes") == root.seen and len(root.seen) == 4
    assert watched.changes(Root(root.path), root.seen) == []
