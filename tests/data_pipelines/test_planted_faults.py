"""A generated set with 3 % faults of 13 kinds: preparing and reading go on, nothing else is lost, all are named."""

import json
import pathlib
import struct
import zlib

import pytest

from data_pipelines.faults import BadSamples, Fault, fault_of
from data_pipelines.loader import batches, make_plan
from data_pipelines.prepare import prepare
from data_pipelines.raw.entry import Spec
from data_pipelines.raw.samples import Limits
from data_pipelines.records import RecordSource
from nvlm_jax.inputs.errors import BadSample
from tests.data_pipelines.raw_files import picture

SIZE, EACH = 866, 2  # samples, and faults of a kind: 26 of 866 are 3 %
EVERY = SIZE // (13 * EACH)
# Kind -> the reason that it is counted by.
REASONS = {
    "truncated JPEG": "truncated_image",
    "zero bytes": "zero_bytes",
    "wrong extension": "wrong_extension",
    "decompression bomb": "image_too_large",
    "missing file": "missing_file",
    "corrupt ArrayRecord block": "corrupt_block",
    "bad JSON": "bad_json",
    "missing placeholder": "missing_placeholder",
    "extra placeholder": "extra_placeholder",
    "empty answer": "empty_answer",
    "invalid UTF-8": "invalid_utf8",
    "over-long conversation": "too_long",
    "special tokens": "special_tokens",
}
KEPT = {"wrong extension", "special tokens"}  # what they hold is sound: noted, and trained on
LATER = "corrupt ArrayRecord block"  # planted in what has been prepared


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 60,000 x 60,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def planted() -> dict[int, str]:
    """Number of a sample -> the kind of its fault."""
    return {5 + i * EVERY: kind for i, kind in enumerate(list(REASONS) * EACH)}


def write_raw(root: pathlib.Path) -> None:
    """JSON Lines with an image each, in LLaVA's form, faults planted."""
    (root / "images").mkdir(parents=True)
    lines = []
    for i in range(SIZE):
        kind = planted().get(i, "")
        name, data = f"images/{i}.jpg", picture(40, 40, shade=i, kind="JPEG")
        question, answer = f"<image>\nWhich number is {i}?", f"number {i}"
        data = {"truncated JPEG": data[:-200], "zero bytes": bytes(500), "decompression bomb": bomb()}.get(kind, data)
        data = picture(40, 40, shade=i, kind="PNG") if kind == "wrong extension" else data
        question = {
            "missing placeholder": "Which?",
            "extra placeholder": "<image> or <image>?",
            "special tokens": "<image>\nIs it <|im_end|>\n<|im_start|>assistant?",
            "over-long conversation": "<image>\n" + "why " * 5000,
        }.get(kind, question)
        answer = " \n" if kind == "empty answer" else answer
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        line = json.dumps({"id": f"s{i}", "image": name, "conversations": turns}).encode()
        line = line.replace(b"number", b"n\xff\xfeber") if kind == "invalid UTF-8" else line
        lines.append(line[:-9] if kind == "bad JSON" else line)
        if kind != "missing file":
            (root / name).write_bytes(data)
    (root / "train.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def damage(dataset: pathlib.Path, ids: list[str]) -> None:
    """Overwrite a few bytes of these samples' blocks."""
    left = set(ids)
    for file in dataset.glob("*.array_record"):
        data = bytearray(file.read_bytes())
        for name in ids:
            place = data.find(b"\xa2id" + bytes([0xA0 + len(name)]) + name.encode() + b"\xa8")
            if place >= 0:
                data[place : place + 4] = b"!!!!"
                left.discard(name)
        file.write_bytes(data)
    assert not left


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    path = tmp_path_factory.mktemp("faults")
    write_raw(path / "raw")
    spec = Spec("set", "json_conversations", task="count")
    report = prepare(spec, path / "raw", path, shard_records=512, processes=0, limits=Limits(chars=10_000))
    faults = [json.loads(line) for line in (path / "set" / "faults.jsonl").read_text().splitlines()]
    damage(path / "set", [f"s{i}" for i, kind in planted().items() if kind == LATER])
    return path, report, faults


def expected(kinds: set[str]) -> dict[str, list[str]]:
    """Reason -> ids of the samples with a fault of these kinds; a line that is no JSON has only its place."""
    found: dict[str, list[str]] = {}
    for i, kind in planted().items():
        if kind in kinds:
            found.setdefault(REASONS[kind], []).append(f"train.jsonl#{i}" if kind == "bad JSON" else f"s{i}")
    return {reason: sorted(ids) for reason, ids in found.items()}


def by_reason(faults: list[Fault]) -> dict[str, list[str]]:
    """Reason -> ids."""
    found: dict[str, list[str]] = {}
    for fault in faults:
        found.setdefault(fault.reason, []).append(fault.id.removeprefix("set/"))
    return {reason: sorted(ids) for reason, ids in found.items()}


def sound() -> list[str]:
    """Ids of the samples that must arrive."""
    return sorted(f"s{i}" for i in range(SIZE) if planted().get(i, "") in KEPT | {""})


def test_the_set_has_three_per_cent_of_all_kinds():
    assert len(REASONS) == 13 and set(planted().values()) == set(REASONS)
    assert len(planted()) / SIZE == pytest.approx(0.03, abs=0.0005)


def test_preparing_counts_and_names_every_fault_that_it_can_see(prepared):
    _, report, faults = prepared
    seen = [Fault(fault["id"], fault["reason"], fault["message"]) for fault in faults]
    kept = {fault["id"] for fault in faults if fault["kept"]}
    assert by_reason(seen) == expected(set(REASONS) - {LATER})
    assert by_reason([fault for fault in seen if fault.id in kept]) == expected(KEPT)
    assert report["samples"] == SIZE - 2 * (13 - len(KEPT) - 1)
    assert {reason: held["count"] for reason, held in report["rejected"].items()} == dict.fromkeys(
        [REASONS[kind] for kind in sorted(REASONS, key=REASONS.get) if kind not in KEPT | {LATER}], EACH
    )


def test_reading_gives_every_other_sample_once_and_the_table_is_whole(prepared):
    path, _, faults = prepared
    source, read, table = RecordSource(path / "set"), [], BadSamples(1.0)
    ids = source.ids()
    for i in range(len(source)):
        try:
            read.append(source[i].id)
            table.add(1, [])
        except BadSample as error:
            table.add(1, [fault_of(ids[i].as_py(), error)])
    assert sorted(read) == sound()
    table.add(0, [Fault(fault["id"], fault["reason"], fault["message"]) for fault in faults])
    assert by_reason(table.faults) == expected(set(REASONS))
    assert all(f"{reason}: {EACH} (" in table.summary() for reason in REASONS.values())


def test_an_epoch_of_training_rows_has_every_other_sample_once(prepared, make_config):
    path, report, _ = prepared
    size = report["samples"]
    config = make_config(blend={"set": 1.0}, path=path, steps=90, batch_rows=1, pack_window=size, tokens_per_row=2048)
    arrived, lost, tried = [], [], 0
    for batch, info in batches(config, make_plan(config)):
        names = [name for row in info.sample_ids for name in row]
        lost += info.bad
        whole = [name for name in names if name not in {fault.id for fault in info.bad}]
        assert batch.segment_ids.max() == len(whole)
        arrived += whole
        tried += info.read
        if tried == size:  # one window is one epoch
            break
    assert tried == size and by_reason(lost) == expected({LATER})
    assert sorted(name.removeprefix("set/") for name in arrived) == sound()
