"""Writes small raw datasets for tests."""

from __future__ import annotations

import io
import json
import pathlib
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from data_pipelines.prepare import prepare
from data_pipelines.raw.entry import Spec
from data_pipelines.records import RecordSource
from nvlm_jax.inputs.batch import Sample


def picture(width: int = 40, height: int = 30, shade: int = 90, kind: str = "PNG") -> bytes:
    """An encoded image of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (shade % 256, 120, 40)).save(buffer, kind)
    return buffer.getvalue()


def put(root: pathlib.Path, files: Mapping[str, Any]) -> pathlib.Path:
    """Write files below `root`: bytes and texts as they are, lists for `.jsonl` a value a line, others as JSON."""
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            file.write_bytes(content)
        elif isinstance(content, str):
            file.write_text(content)
        elif name.endswith(".jsonl"):
            file.write_text("".join(json.dumps(value) + "\n" for value in content))
        else:
            file.write_text(json.dumps(content))
    return root


def tar(file: pathlib.Path, members: Sequence[tuple[str, bytes]]) -> None:
    """Write a tar of these members, in order."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as out:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))


def made(tmp_path: pathlib.Path, spec: Spec, root: pathlib.Path, **options: Any) -> tuple[list[Sample], dict[str, Any]]:
    """Prepare in this process; the samples, and the report."""
    report = prepare(spec, root, tmp_path / "out", processes=0, **options)
    source = RecordSource(tmp_path / "out" / spec.name)
    return [source[i] for i in range(len(source))], report


def texts(sample: Sample) -> list[str]:
    """What its messages say."""
    return [message.content for message in sample.messages]


def rejected(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """Ids of the examples of each reason."""
    return {reason: [e["id"] for e in held["examples"]] for reason, held in report["rejected"].items()}
