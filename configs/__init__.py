"""Named runs, blends and sweeps: plain Python that a researcher can diff."""

from __future__ import annotations

import pathlib

HERE = pathlib.Path(__file__).parent


def locate(path: str) -> str:
    """The file or directory that `path` means: one of the user's own, else one of this package, from any directory.

    `configs/sweeps/smoke.py`, `sweeps/smoke.py` and `sweeps/smoke` all name this package's file if the user has none.
    What is neither is returned as it is, for the reader to complain about.
    """
    given = pathlib.Path(path)
    if given.exists() or given.is_absolute():
        return path
    inside = pathlib.Path(*given.parts[1:]) if given.parts[:1] == (HERE.name,) else given
    candidates = (HERE / inside, HERE / f"{inside}.py")
    return next((str(candidate) for candidate in candidates if candidate.exists()), path)
