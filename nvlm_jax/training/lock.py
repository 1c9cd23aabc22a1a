"""One run at a time in a workdir: a lock on a file of it, which the system takes back however its holder ends.

The first process of a run holds it, for all of them: hosts of one run do not lock each other out. On a local disk and
on NFS from version 4 a second start is refused on any host; where a filesystem has no such locks (some mounts of
buckets, Lustre without `flock`) a warning says so, and where it keeps them on each host alone (Lustre with
`localflock`, gcsfuse) starts on two hosts do not see each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from nvlm_jax.config import ConfigError

LOCK = ".lock"
log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Hold the workdir's lock, creating the directory where there is none.

    Raises:
        ConfigError: another process holds it (its id and host are named), or the directory cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = os.open(workdir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise not_writable(workdir, error) from error
    try:
        _take(lock, workdir)
        yield
    finally:
        os.close(lock)


def not_writable(workdir: Path, error: OSError) -> ConfigError:
    """What to say where nothing can be written."""
    return ConfigError(f"{workdir}: cannot be written: {error.strerror or error}; let it be, or use another --workdir")


def _take(lock: int, workdir: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 200, 0).decode(errors="replace").strip() or "another process"
        raise ConfigError(
            f"{workdir}: {holder} is training here; wait until it has ended, or use another --workdir"
        ) from None
    except OSError as error:
        log.warning("%s: no lock (%s): take care that nothing else is started here", workdir, error.strerror)
        return
    with contextlib.suppress(OSError):  # the text is for messages only
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} of {socket.gethostname()}\n".encode(), 0)
