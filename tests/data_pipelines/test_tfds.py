"""TFDS in and out, without TensorFlow. In a process of its own: what imports it must not be seen by other tests."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from data_pipelines.generated.samples import GeneratedSource
from data_pipelines.raw.entry import LayoutError, Spec
from tests.data_pipelines.raw_files import made

BUILD = """
import sys
from data_pipelines.tfds_embedded import EmbeddedConfig, EmbeddedPages
EmbeddedPages(data_dir=sys.argv[1], config=EmbeddedConfig("qa", 6)).download_and_prepare()
print("tensorflow" in sys.modules)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("tfds")
    done = subprocess.run([sys.executable, "-c", BUILD, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
    return path


def test_our_builder_is_read_back_as_it_was_made(built, tmp_path):
    samples, report = made(tmp_path, Spec("pages", "tfds_conversations", task="qa"), built, shard_records=4)
    expected = {s.id: s for s in (GeneratedSource("qa", "train", 0, 6)[i] for i in range(6))}
    assert report["samples"] == 6 and not report["rejected"] and {s.id for s in samples} == set(expected)
    for sample in samples:
        other = expected[sample.id]
        assert sample.images == other.images  # the very bytes
        assert [(m.role, m.content) for m in sample.messages] == [(m.role, m.content) for m in other.messages]
    assert "tensorflow" not in sys.modules


def test_what_is_not_there_is_named(built, tmp_path):
    with pytest.raises(LayoutError, match=r"dataset_info\.json: split 'test' is not readable"):
        made(tmp_path, Spec("pages", "tfds_conversations", split="test"), built)
    with pytest.raises(LayoutError, match=r"no file matches '\*\*/dataset_info\.json'"):
        made(tmp_path, Spec("pages", "tfds_columns"), tmp_path)


def test_a_damaged_file_costs_its_own_samples(built, tmp_path):
    shutil.copytree(built, tmp_path / "raw")
    (file,) = (tmp_path / "raw").rglob("*.array_record-*")
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    file.write_bytes(data)
    samples, report = made(tmp_path, Spec("pages", "tfds_conversations"), tmp_path / "raw", max_bad_share=1.0)
    assert report["samples"] + report["rejected"]["corrupt_block"]["count"] == 6 and len(samples) < 6
    json.dumps(report)


@pytest.fixture
def hostile(built, tmp_path):
    """A copy of the dataset, and a function that changes one of its JSON files."""
    raw = tmp_path / "raw"
    shutil.copytree(built, raw)
    (info,) = raw.rglob("dataset_info.json")

    def change(name, old, new):
        file = info.parent / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        return raw

    change.folder = info.parent
    return change


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "old format"])
@pytest.mark.parametrize("place", ["beside", "installed"])
def test_no_code_that_the_directory_names_runs(hostile, tmp_path, monkeypatch, key, place):
    """Neither a module beside the data nor any other that Python would find is imported."""
    (tmp_path / "ran").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "ran")
    monkeypatch.syspath_prepend(hostile.folder)
    module = (hostile.folder if place == "beside" else tmp_path / "ran") / "evil_feature.py"
    module.write_text(f"open({str(tmp_path / 'proof')!r}, 'w')")
    old = '"pythonClassName": "tensorflow_datasets.core.features.image_feature.Image"'
    new = f'"{key}": "evil_feature.Evil"' if key != "old format" else '"type": "evil_feature.Evil", "content": {}'
    raw = hostile("features.json", old, new)
    with pytest.raises(LayoutError, match=r"feature class 'evil_feature\.Evil', and code from data does not run"):
        made(tmp_path, Spec("pages", "tfds_conversations"), raw)
    assert not (tmp_path / "proof").exists() and "evil_feature" not in sys.modules


def test_features_that_start_programs_are_refused(hostile, tmp_path):
    raw = hostile("features.json", "features.image_feature.Image", "features.video_feature.Video")
    with pytest.raises(LayoutError, match="Video"):
        made(tmp_path, Spec("pages", "tfds_conversations"), raw)


@pytest.mark.parametrize("template", ["../../../../outside/{SHARD_X_OF_Y}", "ABSOLUTE/{SHARD_X_OF_Y}"])
def test_no_file_outside_the_root_is_read(hostile, tmp_path, template):
    (shard,) = hostile.folder.glob("*array_record*")
    (tmp_path / "outside").mkdir()
    shutil.copyfile(shard, tmp_path / "outside" / "00000-of-00001")
    template = template.replace("ABSOLUTE", str(tmp_path / "outside"))
    raw = hostile("dataset_info.json", "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", template)
    with pytest.raises(LayoutError, match="split 'train'"):
        made(tmp_path, Spec("pages", "tfds_conversations"), raw)


def test_links_out_and_pipes_in_the_directory_are_refused(hostile, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    os.symlink(tmp_path / "secret.txt", hostile.folder / "id.labels.txt")
    with pytest.raises(LayoutError, match="leads out of the dataset's root"):
        made(tmp_path, Spec("pages", "tfds_conversations"), tmp_path / "raw")
    (hostile.folder / "id.labels.txt").unlink()
    os.mkfifo(hostile.folder / "id.labels.txt")
    with pytest.raises(LayoutError, match="is no regular file"):
        made(tmp_path, Spec("pages", "tfds_conversations"), tmp_path / "raw")


def test_other_file_formats_and_broken_json_are_named(hostile, tmp_path):
    raw = hostile("dataset_info.json", '"array_record"', '"tfrecord"')
    with pytest.raises(LayoutError, match="file format 'tfrecord'; array_record is read"):
        made(tmp_path, Spec("pages", "tfds_conversations"), raw)
    (hostile.folder / "features.json").write_text("[" * 100_000)
    with pytest.raises(LayoutError, match=r"features\.json: no JSON"):
        made(tmp_path, Spec("pages", "tfds_conversations"), raw)


def test_images_that_tfds_would_decode_itself_are_refused(hostile, tmp_path):
    text = (hostile.folder / "features.json").read_text()
    held = json.loads(text)
    turns = held["featuresDict"]["features"]["conversations"]["sequence"]["feature"]["featuresDict"]["features"]
    turns["group"] = held["featuresDict"]["features"]["images"]["sequence"]["feature"]
    (hostile.folder / "features.json").write_text(json.dumps(held))
    with pytest.raises(LayoutError, match="'conversations' holds images within it"):
        made(tmp_path, Spec("pages", "tfds_conversations"), tmp_path / "raw")
