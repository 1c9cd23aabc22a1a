"""Datasets on object storage: `gs://bucket/pages`, `s3://bucket/pages`, or any other address that fsspec knows.

A dataset's files are copied when they are first read, whole, into a folder of this machine's cache, and are read from
there as local ones are. Manifest and index come at once, a shard when a sample of it is asked for. NVLM_CACHE names the
cache; the default is ~/.cache/nvlm_jax. fsspec's own settings and variables (FSSPEC_S3_ENDPOINT_URL, credentials) hold.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import secrets
import shutil
import threading

import fsspec


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether the path is an address and no local path."""
    return "://" in str(path)


class Remote:
    """A remote directory and its local copy. A pickled one connects again."""

    def __init__(self, address: str, manifest: str):
        """Copy the manifest; where it is another one than before, what the cache holds of the directory goes.

        Args:
            address: of the directory.
            manifest: the name of the file in it that says what it holds.

        Raises:
            FileNotFoundError: there is no manifest.
            OSError, ImportError: the storage cannot be reached, or its package (s3fs, gcsfs) is not installed.
        """
        self.address, self._manifest = address.rstrip("/"), manifest
        cache = pathlib.Path(os.environ.get("NVLM_CACHE") or pathlib.Path.home() / ".cache" / "nvlm_jax")
        name = self.address.rsplit("/", 1)[-1]
        self.folder = cache / f"{name}-{hashlib.sha256(self.address.encode()).hexdigest()[:12]}" / name
        self._lock = threading.Lock()
        found = self._open().cat_file(self._at(manifest))
        known = self.folder / manifest
        if known.exists() and known.read_bytes() != found:
            shutil.rmtree(self.folder)
        if not known.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._put(manifest, found)

    def names(self) -> set[str]:
        """The files of the directory."""
        return {entry.rsplit("/", 1)[-1] for entry in self._open().ls(self._at(""), detail=False)}

    def local(self, name: str) -> pathlib.Path:
        """The local copy of a file, made if there is none yet. Raises OSError if it cannot be."""
        file = self.folder / name
        with self._lock:
            if not file.exists():
                partial = file.with_name(f".{name}.{secrets.token_hex(4)}")
                self._open().get_file(self._at(name), str(partial))
                partial.replace(file)
        return file

    def _put(self, name: str, data: bytes) -> None:
        partial = self.folder / f".{name}.{secrets.token_hex(4)}"
        partial.write_bytes(data)
        partial.replace(self.folder / name)

    def _open(self) -> fsspec.AbstractFileSystem:
        return fsspec.core.url_to_fs(self.address)[0]

    def _at(self, name: str) -> str:
        return f"{fsspec.core.url_to_fs(self.address)[1].rstrip('/')}/{name}".rstrip("/")

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
