"""Repeated ids, samples, images and texts are counted, across shards."""

import io

import numpy as np

from data_pipelines.duplicates import near_images, near_texts
from data_pipelines.generated.samples import generate
from data_pipelines.raw import lines
from data_pipelines.raw.entry import Spec
from data_pipelines.sketches import text_sketch
from nvlm_jax.inputs.tiling import open_image
from tests.data_pipelines.raw_files import made, put


def smaller(data: bytes) -> bytes:
    image, buffer = open_image(data), io.BytesIO()
    image.resize((image.width * 3 // 4, image.height * 3 // 4)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def test_the_report_counts_what_repeats(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "GRAIN", 4)
    pages = [generate("qa", "train", 0, i, grids=((2, 2),)).images[0] for i in range(3)]
    images = {f"{i}.png": page for i, page in enumerate(pages)} | {"2-small.jpg": smaller(pages[2])}
    long = [f"word{i}" for i in range(120)]
    held = [
        {"id": "a", "image": "0.png", "question": "What?", "answer": "x"},
        {"id": "b", "image": "1.png", "question": "What?", "answer": "x"},
        {"id": "c", "image": "2.png", "question": "What?", "answer": "x"},
        {"id": "t", "question": " ".join(long), "answer": "x"},
        {"id": "a", "image": "0.png", "question": "What?", "answer": "x"},  # as the first, id and all
        {"id": "d", "image": "0.png", "question": "Who?", "answer": "y"},  # its image
        {"id": "e", "image": "2-small.jpg", "question": "What?", "answer": "x"},  # nearly the third's image
        {"id": "u", "question": " ".join([*long[:60], "new", *long[60:]]), "answer": "x"},
        {"id": "v", "question": "Another question altogether, please.", "answer": "x"},
    ]
    root = put(tmp_path / "raw", images | {"t.jsonl": held})
    samples, report = made(tmp_path, Spec("set", "json_columns"), root, shard_records=4)
    assert len(samples) == 9 and len(list((tmp_path / "out/set").glob("*.array_record"))) == 3
    assert report["repeated"] == {
        "same_id": {"count": 1, "groups": 1, "examples": [["a", "a"]]},
        "same_sample": {"count": 1, "groups": 1, "examples": [["a", "a"]]},
        "near_image": {"count": 3, "groups": 2, "examples": [["a", "a", "d"], ["c", "e"]]},
        "near_text": {"count": 1, "groups": 1, "examples": [["t", "u"]]},
    }


def test_nearly_all_near_pairs_among_many_are_found():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (4000, 256), np.uint8)
    copies = bits[:1000].copy()
    for row in copies:
        row[rng.choice(256, 16, replace=False)] ^= 1
    hashes = np.packbits(np.concatenate([bits, copies]), axis=1).view(np.uint64)
    first = near_images(hashes, np.arange(5000), 5000)
    found = (first[4000:] == np.arange(1000)).sum()
    assert found >= 980 and (first[:4000] == np.arange(4000)).all()


def test_images_of_one_sample_do_not_repeat_each_other():
    hashes = np.zeros((3, 4), np.uint64)
    assert near_images(hashes, np.array([0, 0, 1]), 2).tolist() == [0, 0]
    assert near_images(hashes[:2], np.array([0, 0]), 1).tolist() == [0]
    assert near_images(hashes[:0], np.array([], np.int64), 2).tolist() == [0, 1]
    sketches = np.array([text_sketch("one two three four five six"), text_sketch("a b c d e f g")])
    assert near_texts(sketches, np.arange(2), 2).tolist() == [0, 1]
