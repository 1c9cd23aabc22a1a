"""A raw dataset's directory, and the only way in: no path given by data leads out of it."""

from __future__ import annotations

import json
import os
import pathlib
import stat
from typing import Any

from data_pipelines.raw.entry import LayoutError
from nvlm_jax.inputs.errors import BadSample

MAX_FILE_BYTES = 64 << 20  # of an image file; checked before it is read


class Root:
    """A directory. Paths are relative to it, with forward slashes, or absolute and below it."""

    def __init__(self, path: str | os.PathLike[str]):
        """Raises LayoutError if there is no such directory."""
        self.path = pathlib.Path(os.path.realpath(path))
        if not self.path.is_dir():
            raise LayoutError(f"{path}: no such directory; a raw dataset's directory is expected")

    def find(self, relative: str) -> pathlib.Path:
        """The regular file at `relative`, with all links followed.

        Raises:
            BadSample: `outside_root` (an absolute path elsewhere, `..`, or a link that leads out), `remote_image` (an
                address), `missing_file`, or `not_a_file` (a directory, a pipe, a device).
        """
        if "://" in relative and not relative.lower().startswith("file:"):
            right = "nothing is fetched; download it below the dataset's root and name the file"
            raise BadSample("remote_image", f"{relative!r:.200} is an address: {right}")
        if not relative or "\0" in relative or "://" in relative:
            raise BadSample("outside_root", f"{relative!r:.200} is no path below the dataset's root")
        real = pathlib.Path(os.path.realpath(self.path / relative))
        if not real.is_relative_to(self.path):
            raise BadSample("outside_root", f"{relative!r:.200} leads out of the dataset's root {self.path}")
        try:
            mode = real.stat().st_mode
        except OSError as error:
            tried = f"{self.path / relative!s:.400}"
            raise BadSample("missing_file", f"{relative!r:.200}: there is no file {tried}") from error
        if not stat.S_ISREG(mode):
            raise BadSample("not_a_file", f"{relative!r:.200}: {real} is no regular file")
        return real

    def read(self, relative: str, limit: int = MAX_FILE_BYTES) -> bytes:
        """The file's bytes.

        Raises:
            BadSample: as `find`; `file_too_large`, above `limit` bytes; `unreadable_file`.
        """
        file = self.find(relative)
        size = file.stat().st_size
        if size > limit:
            raise BadSample("file_too_large", f"{relative!r:.200} has {size:,} bytes; at most {limit:,} are read")
        try:
            return file.read_bytes()
        except OSError as error:
            raise BadSample("unreadable_file", f"{relative!r:.200}: {error}") from error

    def exists(self, relative: str) -> bool:
        """Whether `find` would find it."""
        try:
            self.find(relative)
        except BadSample:
            return False
        return True

    def files(self, pattern: str, optional: bool = False) -> list[str]:
        """The regular files that match a glob (`**` crosses directories, but no link to one), sorted.

        Hidden files, and links that lead out, are left out.

        Raises:
            LayoutError: none does, and they are not optional.
        """
        found = (file.relative_to(self.path).as_posix() for file in self.path.glob(pattern))
        kept = sorted(name for name in found if "/." not in f"/{name}" and self.exists(name))
        if not kept and not optional:
            raise LayoutError(f"{self.path}: no file matches {pattern!r}")
        return kept

    def json(self, pattern: str) -> Any:
        """The value of the one JSON file that matches. A byte that is no UTF-8 becomes a lone surrogate.

        Raises:
            LayoutError: none or several match, or it is no JSON.
        """
        files = self.files(pattern)
        if len(files) > 1:
            raise LayoutError(f"{self.path}: {len(files)} files match {pattern!r}; one is expected: {files[:5]}")
        return load_json(self.find(files[0]))


def load_json(file: pathlib.Path) -> Any:
    """Raises LayoutError if the file is no JSON."""
    try:
        return json.loads(file.read_bytes().decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise LayoutError(f"{file}: no JSON: {error}") from error
