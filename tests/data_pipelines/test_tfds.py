"""TFDS in and out, without TensorFlow. In a process of its own: what imports it must not be seen by other tests."""

import json
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
