"""Files that are named after splits are not read together unless someone says so."""

import pytest

from data_pipelines.raw import splits
from data_pipelines.raw.entry import LayoutError, Spec
from tests.data_pipelines.raw_files import made, picture, put, tar

ROW = {"image": "a.png", "question": "?", "answer": "1"}


def ids(tmp_path, names: list[str], **spec) -> list[str]:
    """Ids of what is read, one record a file, which bears the file's name."""
    put(tmp_path / "raw", {"a.png": picture()})
    for name in names:
        put(tmp_path / "raw", {name: [{"id": name} | ROW]})
    samples, _ = made(tmp_path, Spec("set", "json_columns", **spec), tmp_path / "raw")
    return [sample.id for sample in samples]


@pytest.mark.parametrize(
    "names", [["train.json", "val.json"], ["pages.json", "pages_test.json"], ["train/0.jsonl", "dev/0.jsonl"]]
)
def test_files_of_several_splits_are_refused_with_both_flags_named(tmp_path, names):
    with pytest.raises(LayoutError, match=r"would be read together.*--split=.*--files=GLOB") as caught:
        ids(tmp_path, names)
    assert all(name in str(caught.value) for name in names)
    assert not (tmp_path / "out" / "set").exists()


def test_a_chosen_split_or_glob_decides(tmp_path):
    names = ["train.json", "val.json"]
    assert ids(tmp_path, names, split_chosen=True) == ["train.json"]
    assert ids(tmp_path, names, split="validation") == ["val.json"]
    assert ids(tmp_path, names, files="train.json") == ["train.json"]
    assert ids(tmp_path, names, files="*.json") == names
    with pytest.raises(LayoutError, match=r"no file of split 'test'; train, val are there: train\.json, val\.json"):
        ids(tmp_path, names, split="test")


@pytest.mark.parametrize("names", [["a.json", "latest.json"], ["train_1.json", "train_2.json"], ["test.json"]])
def test_other_names_are_read_as_before(tmp_path, names):
    assert ids(tmp_path, names) == names


def test_tars_too(tmp_path):
    for name in ("train-0.tar", "val-0.tar"):
        tar(tmp_path / "raw" / name, [("1.png", picture()), ("1.txt", b"a cat")])
    spec = Spec("set", "tar_columns", "What?", fields={"answer": "txt"})
    with pytest.raises(LayoutError, match=r"train-0\.tar, val-0\.tar would be read together"):
        made(tmp_path, spec, tmp_path / "raw")


def test_the_split_is_a_word_of_the_path():
    names = ("train/0.tar", "pages_val.json", "latest.json", "testing.jsonl", "contest.json", "train/test_1.pdf")
    assert [splits.split_of(name) for name in names] == ["train", "val", "", "test", "", "test"]
