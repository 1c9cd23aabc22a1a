"""WebDataset and Megatron Energon shards."""

import json

import pytest

from data_pipelines.raw.entry import LayoutError, Spec
from tests.data_pipelines.raw_files import made, picture, put, rejected, tar, texts


def test_captions_beside_images_as_img2dataset_writes_them(tmp_path):
    members = []
    for i in range(3):
        members += [(f"{i:09d}.jpg", picture(30 + i, kind="JPEG")), (f"{i:09d}.txt", f"caption {i}".encode())]
        members.append((f"{i:09d}.json", json.dumps({"caption": "x", "url": "http://x/y.jpg"}).encode()))
    tar(tmp_path / "raw" / "00000.tar", members[:6])
    tar(tmp_path / "raw" / "00001.tar", members[6:])
    spec = Spec("set", "tar_columns", "Describe the image.", fields={"answer": "txt"})
    samples, _ = made(tmp_path, spec, tmp_path / "raw")
    assert [sample.id for sample in samples] == ["000000000", "000000001", "000000002"]
    assert texts(samples[2]) == ["<image>\nDescribe the image.", "caption 2"]
    assert samples[2].images == (picture(32, kind="JPEG"),)


def energon(root, kind, field_map, members, **more):
    meta = ["sample_type:", "  __module__: megatron.energon", f"  __class__: {kind}", "field_map:"]
    meta += [f"  {ours}: {theirs}" for ours, theirs in field_map.items()]
    tar(root / "shards" / "shard_000.tar", members)
    tar(root / "shards" / "shard_001.tar", [("z.jpg", b"held out")])
    split = "exclude: []\nsplit_parts:\n  train:\n  - shards/shard_000.tar\n  val:\n  - shards/shard_001.tar\n"
    info = {"shard_counts": {"shards/shard_000.tar": 2, "shards/shard_001.tar": 1}}
    put(
        root,
        {".nv-meta/dataset.yaml": "\n".join(meta), ".nv-meta/split.yaml": split, ".nv-meta/.info.json": info, **more},
    )
    return root


def test_energon_follows_its_field_map_and_split(tmp_path):
    members = [
        ("samples/a.jpg", picture(kind="JPEG")),
        ("samples/a.json", json.dumps({"question": "How many?", "answers": [["4"], "3"][1:]}).encode()),
        ("samples/b.jpg", picture(kind="JPEG")),
        ("samples/b.json", b"{"),
    ]
    fields = {"image": "jpg", "context": "json[question]", "answers": "json[answers]"}
    root = energon(tmp_path / "raw", "VQASample", fields, members)
    samples, report = made(tmp_path, Spec("set", "tar_columns"), root)
    assert [texts(sample) for sample in samples] == [["<image>\nHow many?", "3"]]
    assert rejected(report) == {"bad_json": ["shards/shard_000.tar#1"]}


def test_energon_leaves_out_what_it_excludes(tmp_path):
    members = [(f"{k}.{end}", data) for k in "abc" for end, data in (("jpg", picture(kind="JPEG")), ("gt.txt", b"t"))]
    root = energon(tmp_path / "raw", "CaptioningSample", {"image": "jpg", "caption": "gt.txt"}, members)
    split = {"split_parts": {"train": ["shards/shard_000.tar", "shards/shard_001.tar"]}}
    split["exclude"] = ["shards/shard_001.tar", "shards/shard_000.tar/b"]
    put(root, {".nv-meta/split.yaml": json.dumps(split)})
    samples, _ = made(tmp_path, Spec("set", "tar_columns", "What?"), root)
    assert [(sample.id, texts(sample)[1]) for sample in samples] == [("a", "t"), ("c", "t")]


def test_energon_code_does_not_run(tmp_path):
    root = energon(tmp_path / "raw", "VQASample", {}, [])
    put(
        root,
        {".nv-meta/dataset.yaml": "sample_type: {__class__: OCRSample}\nsample_loader: sample_loader.py:sample_loader"},
    )
    with pytest.raises(LayoutError, match="code from data does not run"):
        made(tmp_path, Spec("set", "tar_columns"), root)
    put(root, {".nv-meta/dataset.yaml": "a: !!python/object/apply:os.getcwd []"})
    with pytest.raises(LayoutError, match="could not determine a constructor"):
        made(tmp_path, Spec("set", "tar_columns"), root)


def test_a_cut_shard_keeps_what_is_whole(tmp_path):
    members = [(f"{i}.{end}", data) for i in range(4) for end, data in (("png", picture()), ("txt", b"text"))]
    tar(tmp_path / "raw" / "0.tar", members)
    whole = (tmp_path / "raw" / "0.tar").read_bytes()
    (tmp_path / "raw" / "0.tar").write_bytes(whole[: 512 * 13])
    samples, report = made(tmp_path, Spec("set", "tar_columns", "x", fields={"answer": "txt"}), tmp_path / "raw")
    assert [sample.id for sample in samples] == ["0", "1", "2"]
    assert rejected(report) == {"corrupt_block": ["0.tar#3"]}
