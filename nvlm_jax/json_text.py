"""JSON from files that others wrote: whatever is wrong with the text, one line says what and where.

`json.loads` alone raises three kinds of error for a damaged text, and RecursionError, which no caller expects, for
brackets that nest a thousand deep.
"""

from __future__ import annotations

import errno
import json
import os
import pathlib
import stat
from typing import Any


class JsonError(ValueError):
    """A text that is no JSON. The message says what is wrong and at which place."""


def parse(content: str | bytes) -> Any:
    """The value that a text, or its UTF-8, says.

    Raises:
        JsonError: it is no JSON, no UTF-8, or nested too deeply; the message does not name a file.
    """
    try:
        return json.loads(decode(content) if isinstance(content, bytes) else content)
    except JsonError:
        raise
    except RecursionError:
        raise JsonError("its brackets nest too deeply to be read") from None
    except ValueError as error:
        raise JsonError(str(error)) from None


def load(path: str | os.PathLike[str], limit: int | None = None) -> Any:
    """The value in a JSON file of at most `limit` bytes.

    Raises:
        JsonError: it is no JSON, or no regular file (a FIFO would be waited for without end), or larger.
        OSError: it is not there, or cannot be read; a link that leads nowhere says so.
    """
    content = read_bytes(path, limit)
    try:
        return parse(content)
    except JsonError as error:
        raise JsonError(f"{os.fspath(path)}: no JSON ({error})") from None


def load_object(path: str | os.PathLike[str], limit: int | None = None) -> dict[str, Any]:
    """The object in a JSON file. Raises as `load` does, and JsonError for another value."""
    value = load(path, limit)
    if not isinstance(value, dict):
        raise JsonError(f"{os.fspath(path)}: expected a JSON object, got {type(value).__name__}")
    return value


def read_text(path: str | os.PathLike[str], limit: int | None = None) -> str:
    """The text of a UTF-8 file. Raises as `load` does: JsonError names the file that is no text."""
    content = read_bytes(path, limit)
    try:
        return decode(content)
    except JsonError as error:
        raise JsonError(f"{os.fspath(path)}: {error}") from None


def decode(content: bytes) -> str:
    """UTF-8 with or without its mark. Raises JsonError, with the byte that is wrong."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise JsonError(f"not UTF-8 text: byte 0x{byte:02x} at position {error.start}") from None


def read_bytes(path: str | os.PathLike[str], limit: int | None = None) -> bytes:
    """The content of a regular file. Raises as `load` does."""
    path = pathlib.Path(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            target = f"a link to {os.readlink(path)}, which is missing"
            raise FileNotFoundError(errno.ENOENT, target, str(path)) from None
        raise
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise JsonError(f"{path}: is no regular file")
    if limit is not None and status.st_size > limit:
        raise JsonError(f"{path}: has {status.st_size:,} bytes; at most {limit:,} are read")
    return path.read_bytes()
