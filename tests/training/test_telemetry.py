"""metrics.jsonl over several starts, event files, lines."""

import json
import struct

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from nvlm_jax.training.telemetry import EVENTS, METRICS, Telemetry, read_metrics, truncate


def events(workdir) -> list[Event]:
    """All events of all files. A record is: length (uint64), its checksum (4 bytes), content, its checksum."""
    found = []
    for path in sorted((workdir / EVENTS).iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event()
            event.ParseFromString(content[place + 12 : place + 12 + length])
            found.append(event)
            place += 12 + length + 4
    return found


def write(workdir, done, last, steps=10):
    with Telemetry(workdir, done, steps, log_every=2, name="run") as telemetry:
        for step in range(done + 1, last + 1):
            numbers = {"loss": float(np.float32(0.1) * step), "samples": 4, "useful_tokens": 100}
            telemetry.write(step, numbers | {"sample_hash": f"hash{step}"})


def test_each_step_once_over_three_starts(tmp_path):
    write(tmp_path, 0, 5)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 6, "loss": 0.')  # cut short by a kill
    write(tmp_path, 4, 7)
    write(tmp_path, 7, 10)
    records = read_metrics(tmp_path)
    assert [r["step"] for r in records] == list(range(1, 11))
    assert [np.float32(r["loss"]) for r in records] == [np.float32(np.float32(0.1) * s) for s in range(1, 11)]
    assert all(line.endswith("}") for line in (tmp_path / METRICS).read_text().splitlines())


def test_truncate(tmp_path):
    path = tmp_path / METRICS
    truncate(path, 3)
    assert not path.exists()
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)))
    truncate(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    truncate(path, 0)
    assert path.read_text() == ""


@pytest.mark.parametrize("damage", [b"\xff\x00\n\x80\n", b"[]\n3\n", b"{}\n" * 3, b"[" * 100_000 + b"\n"])
def test_lines_that_are_no_metrics_are_passed_over_and_kept_aside(damage, tmp_path, caplog):
    write(tmp_path, 0, 3)
    whole = (tmp_path / METRICS).read_bytes()
    (tmp_path / METRICS).write_bytes(damage + b"\n" + whole)
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3]
    write(tmp_path, 3, 5)
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    assert (tmp_path / f"{METRICS}.damaged").read_bytes() == damage + b"\n" + whole
    assert "holds lines that are no metrics; as it was it is now" in caplog.text


def test_event_files(tmp_path):
    write(tmp_path, 0, 5)
    write(tmp_path, 3, 10)
    found = events(tmp_path)
    scalars = {(v.tag, e.step): v.simple_value for e in found for v in e.summary.value}
    assert {step for tag, step in scalars if tag == "loss"} == {2, 4, 6, 8, 10}
    assert scalars["loss", 10] == np.float32(np.float32(0.1) * 10)
    assert {tag for tag, _ in scalars} == {"loss", "samples", "useful_tokens"}
    # The second start tells TensorBoard to forget what the first wrote from step 4 on.
    assert [e.step for e in found if e.session_log.status == e.session_log.START] == [4]


def test_lines_where_there_is_no_terminal(tmp_path, capsys):
    write(tmp_path, 0, 5, steps=5)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["run step 2/5", "run step 4/5", "run step 5/5"]
    assert "loss 0.4000" in lines[1] and "useful tokens/s" in lines[1] and "ETA 0:00:0" in lines[1]


def test_bar_on_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with Telemetry(tmp_path, 0, 3, 1, "run") as telemetry:
        for step in (1, 2, 3):
            telemetry.write(step, {"loss": 0.5, "samples": 1, "useful_tokens": 10})
        telemetry.say("saved [step 3]")
    out = capsys.readouterr().out
    assert "3/3" in out and "loss 0.5000" in out and "saved [step 3]" in out
