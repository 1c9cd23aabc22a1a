"""Environment of training processes on CPU.

XLA's CPU backend asks for its buffers anew at each step. Told to keep freed memory, and to back it with huge pages,
glibc hands it back the same ones: a step then takes about two thirds of the time
(docs/log/2026-11-26-glibc-and-rope.md).
"""

from __future__ import annotations

import os
import sys

KEEP_MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_THRESHOLD_": "8000000000",
    "MALLOC_TRIM_THRESHOLD_": "16000000000",
}


def keep_memory() -> None:
    """Start this process anew with `KEEP_MEMORY` set, unless it was started with it: glibc reads it but once.

    Call it before anything has been done. What the environment sets already stays as it is.
    """
    missing = {name: value for name, value in KEEP_MEMORY.items() if name not in os.environ}
    if missing and sys.platform == "linux":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **missing})
