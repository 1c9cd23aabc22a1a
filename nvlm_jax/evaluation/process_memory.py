"""How much memory a process and all that it started hold, from Linux's /proc.

Limits of a process (RLIMIT_AS) count it alone: four processes hold four times as much. `of_tree` is what they hold
together, swapped pages included and pages that a fork shares counted once.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable

PROC = pathlib.Path("/proc")


def of_tree(root: int, limit: int) -> int:
    """Bytes of private and shared memory of the processes under `root`, itself included.

    At most `limit` the sum may count a page of several processes for each of them, which is quick to read.
    """
    processes = tree(root)
    quick = sum(_resident(process) for process in processes)
    return quick if quick <= limit else sum(_proportional(process) for process in processes)


def tree(root: int) -> list[int]:
    """`root` and every process under it, those that ended meanwhile left out."""
    children = _children if (PROC / "self" / "task" / str(os.getpid()) / "children").exists() else _children_by_scan()
    processes = [root]
    for process in processes:  # grows as it goes
        processes += children(process)
    return processes


def check() -> None:
    """Raises OSError where /proc does not tell what `of_tree` needs."""
    if not _resident_kilobytes("self"):
        raise OSError(f"{PROC}/self/status: it tells no RssAnon")


def _children(process: int) -> list[int]:
    numbers: list[int] = []
    for thread in _names(PROC / str(process) / "task"):
        with contextlib.suppress(OSError):
            numbers += map(int, (PROC / str(process) / "task" / thread / "children").read_text().split())
    return numbers


def _children_by_scan() -> Callable[[int], list[int]]:
    """For kernels built without `children`: the parents of all processes, read once."""
    parents: dict[int, list[int]] = {}
    for name in filter(str.isdigit, _names(PROC)):
        with contextlib.suppress(OSError):
            parent = int((PROC / name / "stat").read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(name))
    return lambda process: parents.get(process, [])


def _names(folder: pathlib.Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:  # it has ended
        return []


def _resident(process: int) -> int:
    try:
        return _resident_kilobytes(str(process)) << 10
    except OSError:
        return 0


def _resident_kilobytes(process: str) -> int:
    return _sum(PROC / process / "status", ("RssAnon", "RssShmem", "VmSwap"))


def _proportional(process: int) -> int:
    """A page of n processes counts as 1/n; where that may not be read, as a whole."""
    try:
        return _sum(PROC / str(process) / "smaps_rollup", ("Pss_Anon", "Pss_Shmem", "SwapPss")) << 10
    except OSError:
        return _resident(process)


def _sum(file: pathlib.Path, names: tuple[str, ...]) -> int:
    pairs = (line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
    return sum(int(value.split()[0]) for name, value in pairs if name in names)
