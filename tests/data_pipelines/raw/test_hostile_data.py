"""Raw datasets that claim more than they hold, name files elsewhere or bring code: refused before it costs anything."""

import io
import json
import os
import pickle
import tarfile
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.raw import lines, tables, tars
from data_pipelines.raw.entry import LayoutError, Spec
from data_pipelines.raw.root import Root
from tests.data_pipelines.raw_files import made, picture, put, rejected, tar, texts

SOUND = {"question": "Sound?", "answer": "Yes"}
COLUMNS = Spec("set", "json_columns")


class Evil:
    """Unpickling one writes a file."""

    def __init__(self, proof):
        self.proof = str(proof)

    def __reduce__(self):
        return open, (self.proof, "w")


def peak_of(work):
    """Bytes of Python's own that `work` takes at most, and its result."""
    tracemalloc.start()
    try:
        result = work()
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


# --- JSON


@pytest.mark.parametrize("ending", [b"\n", b""])
def test_a_long_line_is_never_in_memory(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(lines, "MAX_LINE", 1 << 16)
    monkeypatch.setattr(lines, "BLOCK", 1 << 14)
    sound = json.dumps(SOUND).encode()
    long = b'{"question": "' + b"a" * (8 << 20) + b'"}'
    root = put(tmp_path, {"t.jsonl": sound + b"\n" + long + b"\n" + sound + b"\n" + long + ending})

    def read():
        parts = lines.parts(Root(root), COLUMNS)
        return [item for part in parts for item in lines.records(Root(root), part, COLUMNS)]

    peak, found = peak_of(read)
    assert peak < 1 << 20
    assert [place for place, _ in found] == [f"t.jsonl#{i}" for i in range(4)]
    assert found[0][1] == found[2][1] == SOUND
    assert [found[i][1].reason for i in (1, 3)] == ["too_long"] * 2
    assert f"a line of {len(long) + 1:,} bytes; at most 65,536 are read" in str(found[1][1])


def test_deep_brackets_are_one_bad_record(tmp_path):
    deep = "[" * 100_000 + "]" * 100_000
    root = put(tmp_path / "raw", {"t.jsonl": f'{{"question": {deep}}}\n{json.dumps(SOUND)}\n'})
    samples, report = made(tmp_path, COLUMNS, root)
    assert len(samples) == 1 and rejected(report) == {"bad_json": ["t.jsonl#0"]}
    with pytest.raises(LayoutError, match="no JSON"):
        made(tmp_path, Spec("list", "json_columns"), put(tmp_path / "raw2", {"t.json": deep}))


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf", b"\n \n"])
@pytest.mark.parametrize("form", ["lines", "list", "indented list", "list in data", "CRLF"])
def test_the_content_says_what_a_json_file_is(tmp_path, name, mark, form):
    rows = [SOUND, {"question": "2?", "answer": "two"}]
    if form in ("lines", "CRLF"):
        text = ("\r\n" if form == "CRLF" else "\n").join(map(json.dumps, rows))
    else:
        text = json.dumps({"data": rows} if form == "list in data" else rows, indent=1 if "indented" in form else None)
    samples, _ = made(tmp_path, COLUMNS, put(tmp_path / "raw", {name: mark + text.encode()}))
    assert [texts(sample) for sample in samples] == [["Sound?", "Yes"], ["2?", "two"]]


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_a_bad_first_line_is_one_bad_line(tmp_path, name):
    text = '{"question": \n' + json.dumps(SOUND) + "\n" + json.dumps(SOUND)
    samples, report = made(tmp_path, COLUMNS, put(tmp_path / "raw", {name: text}))
    assert len(samples) == 2 and rejected(report) == {"bad_json": [f"{name}#0"]}


@pytest.mark.parametrize(("data", "words"), [(json.dumps(SOUND).encode("utf-16"), "UTF-16"), (b"\x1f\x8b\x08", "gzip")])
def test_other_encodings_are_named(tmp_path, data, words):
    with pytest.raises(LayoutError, match=words):
        made(tmp_path, COLUMNS, put(tmp_path / "raw", {"t.jsonl": data}))


# --- tars


def sparse(size, holes=1):
    """A tar of one member that is all hole, in GNU's old format."""
    info = tarfile.TarInfo("a.png")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386 : 386 + 24] = b"%011o\0%011o\0" % (size, 0)
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def test_sparse_members_take_no_memory(tmp_path):
    body = b"".join(sparse(60 << 20) for _ in range(200))
    sound = io.BytesIO()
    with tarfile.open(fileobj=sound, mode="w") as out:
        for name, data in (("s.png", picture()), ("s.txt", b"Yes")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    root = put(tmp_path / "raw", {"0.tar": body + sound.getvalue()})
    spec = Spec("set", "tar_columns", "Sound?", fields={"answer": "txt"})
    peak, (samples, report) = peak_of(lambda: made(tmp_path, spec, root))
    assert len(samples) == 1 and peak < 32 << 20
    assert list(rejected(report)) == ["sparse_member"]


def test_a_record_of_many_large_members_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "MAX_RECORD", 1000)
    members = [(f"a.{i}.bin", bytes(300)) for i in range(200)] + [("b.txt", b"Yes"), ("b.png", picture())]
    tar(tmp_path / "raw" / "0.tar", members)
    samples, report = made(tmp_path, Spec("set", "tar_columns", "?", fields={"answer": "txt"}), tmp_path / "raw")
    assert len(samples) == 1 and rejected(report) == {"file_too_large": ["0.tar#0"]}


def test_headers_that_claim_gigabytes_and_links_end_a_tar(tmp_path):
    info = tarfile.TarInfo("a")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    (tmp_path / "secret.txt").write_text("secret")
    with tarfile.open(tmp_path / "0.tar", "w") as out:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            link = tarfile.TarInfo("l.txt")
            link.type, link.linkname = kind, str(tmp_path / "secret.txt")
            out.addfile(link)
        for name in ("s.txt", "t.txt"):  # the last record before the damage may lack a part
            data = tarfile.TarInfo(name)
            data.size = 3
            out.addfile(data, io.BytesIO(b"Yes"))
    whole = (tmp_path / "0.tar").read_bytes()
    root = put(tmp_path / "raw", {"0.tar": whole[: 512 * 8] + info.tobuf(tarfile.GNU_FORMAT)})
    samples, report = made(tmp_path, Spec("set", "tar_columns", "Sound?", fields={"answer": "txt"}), root)
    assert [texts(sample) for sample in samples] == [["Sound?", "Yes"]]
    assert list(rejected(report)) == ["corrupt_block"]


# --- tables


def test_a_parquet_column_that_claims_gigabytes_is_not_opened(tmp_path, monkeypatch):
    for name in ("MAX_COLUMN", "MAX_ROW"):
        monkeypatch.setattr(tables, name, 1 << 20)
    raw = tmp_path / "raw"
    raw.mkdir()
    table = pa.table({"question": ["a" * (32 << 20), "Sound?"], "answer": ["Yes", "Yes"]})
    writer = pq.ParquetWriter(raw / "t.parquet", table.schema, compression="zstd")
    writer.write_table(table)
    writer.write_table(table.slice(1))
    writer.close()
    assert (raw / "t.parquet").stat().st_size < 1 << 20
    before = pa.default_memory_pool().max_memory()
    samples, report = made(tmp_path, Spec("set", "table_columns"), raw)
    assert len(samples) == 1 and rejected(report) == {"file_too_large": ["t.parquet#0"]}
    assert pa.default_memory_pool().max_memory() - before < 8 << 20
    (example,) = report["rejected"]["file_too_large"]["examples"]
    assert "'question' claims" in example["message"]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_large_row_costs_itself_alone(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(tables, "MAX_ROW", 1 << 16)
    raw = tmp_path / "raw"
    raw.mkdir()
    table = pa.table({"question": ["1?", os.urandom(1 << 17).hex(), "3?"], "answer": ["Yes"] * 3})
    save(raw, table, kind)
    samples, report = made(tmp_path, Spec("set", "table_columns"), raw)
    assert [texts(sample)[0] for sample in samples] == ["1?", "3?"]
    assert [name[-2:] for name in rejected(report)["file_too_large"]] == ["#1"]


def save(raw, table, kind):
    if kind == "parquet":
        return pq.write_table(table, raw / "t.parquet")
    put(raw, {"state.json": {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}})
    with pa.ipc.new_stream(raw / "data-00000-of-00001.arrow", table.schema) as out:
        return out.write_table(table)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("name", ["arrow.py_extension_type", "evil.type"])
def test_no_pickle_of_a_table_is_opened(tmp_path, kind, name):
    raw = tmp_path / "raw"
    raw.mkdir()
    proof = tmp_path / "proof"
    marks = {"ARROW:extension:name": name, "ARROW:extension:metadata": pickle.dumps(Evil(proof))}
    schema = pa.schema([pa.field("question", pa.string(), metadata=marks), ("answer", pa.string())],
                       metadata={"pandas": pickle.dumps(Evil(proof))})  # fmt: skip
    save(raw, pa.table([["1?"], ["one"]], schema=schema), kind)
    samples, _ = made(tmp_path, Spec("set", "table_columns"), raw)
    assert [texts(sample) for sample in samples] == [["1?", "one"]] and not proof.exists()


@pytest.mark.parametrize("name", ["../outside.arrow", "ABSOLUTE/outside.arrow", "link.arrow", "pipe.arrow"])
def test_a_saved_dataset_reads_nothing_outside(tmp_path, name):
    raw = tmp_path / "raw"
    raw.mkdir()
    save(raw, pa.table({"question": ["secret"], "answer": ["secret"]}), "arrow")
    (raw / "data-00000-of-00001.arrow").rename(tmp_path / "outside.arrow")
    os.symlink(tmp_path / "outside.arrow", raw / "link.arrow")
    os.mkfifo(raw / "pipe.arrow")
    save(raw, pa.table({"question": ["1?"], "answer": ["one"]}), "arrow")
    files = [name.replace("ABSOLUTE", str(tmp_path)), "data-00000-of-00001.arrow"]
    put(raw, {"state.json": {"_data_files": [{"filename": file} for file in files]}})
    samples, report = made(tmp_path, Spec("set", "table_columns"), raw)
    assert [texts(sample) for sample in samples] == [["1?", "one"]] and report["rejected"]


def test_files_of_pickles_and_scripts_are_no_data(tmp_path):
    proof = tmp_path / "proof"
    evil = {"set.py": f"open({str(proof)!r}, 'w')", "data.pkl": pickle.dumps(Evil(proof)), "conftest.py": "1 / 0"}
    root = put(tmp_path / "raw", {**evil, "t.jsonl": [SOUND], "dataset_infos.json": {}})
    samples, _ = made(tmp_path, COLUMNS, root)
    tar(tmp_path / "raw2" / "0.tar", [("a.pyd", pickle.dumps(Evil(proof))), ("a.txt", b"Yes"), ("a.pkl", b"x")])
    more, _ = made(tmp_path, Spec("tar", "tar_columns", "?", fields={"answer": "txt"}), tmp_path / "raw2")
    assert len(samples) == len(more) == 1 and not proof.exists()


@pytest.mark.parametrize(("layout", "file"), [("json_columns", "t.jsonl"), ("table_columns", "t.parquet"),
                                              ("tar_columns", "t.tar"), ("pdf_pages", "t.pdf")])  # fmt: skip
def test_a_pipe_is_no_data_file(tmp_path, layout, file):
    (tmp_path / "raw").mkdir()
    os.mkfifo(tmp_path / "raw" / file)
    with pytest.raises(LayoutError, match="no file matches"):
        made(tmp_path, Spec("set", layout), tmp_path / "raw")
