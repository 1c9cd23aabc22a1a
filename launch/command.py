"""How every command ends: what a user can mend is one line and a status above 0; NVLM_TRACEBACK=1 shows where it arose.

A mistyped key of --config, a file that is not there, a full disk and every fault that this project has an exception for
are of that kind. Anything else is a fault of the code, and keeps its traceback.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags

from nvlm_jax.config import RunConfig
from nvlm_jax.mapping import dotted_keys, nearest_key

TRACEBACK = "NVLM_TRACEBACK"
SHORT = 200  # characters
PACKAGES = ("nvlm_jax", "data_pipelines", "configs", "launch")


def run_command(main: Callable[[list[str]], Any]) -> None:
    """As `absl.app.run`: parse the flags, call `main` with what is left, exit."""
    if not os.environ.get(TRACEBACK):
        for name in ("absl", "asyncio"):  # where Orbax and TensorStore tell of what is raised as well
            logging.getLogger(name).addFilter(without_traceback)
        # Of a killed data worker's memory, which is freed all the same; it would be said after the reason.
        os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")
    try:
        app.run(main)
    except Exception as error:
        if os.environ.get(TRACEBACK) or not is_expected(error):
            raise
        sys.exit(one_line(error))


def without_traceback(record: logging.LogRecord) -> bool:
    """A filter of log records: an error of a library is a short line, and one that nobody waited for is none."""
    if record.exc_info:
        record.msg, record.args = next(iter(record.getMessage().splitlines()), "")[:SHORT], None
        record.exc_info = record.exc_text = None
    return not record.getMessage().startswith("Future exception was never retrieved")


def is_expected(error: Exception) -> bool:
    """Whether a user can mend it: an exception class of this project, a file's or a disk's fault, or a config key.

    >>> is_expected(FileNotFoundError("a")), is_expected(KeyError("a"))
    (True, False)
    """
    ours = type(error).__module__.split(".")[0] in PACKAGES or type(error).__module__ == "__main__"
    return ours or isinstance(error, OSError) or key_fault(error) is not None


def one_line(error: Exception) -> str:
    """What is said instead of a traceback. A list of faults keeps its lines."""
    if fault := key_fault(error):
        return fault
    cause = error.__cause__ if isinstance(error, OSError) and isinstance(error.__cause__, OSError) else error
    text = str(cause).strip()
    return f"{type(cause).__name__}: {text}"


def key_fault(error: Exception) -> str | None:
    """For what ml_collections raises for a --config.KEY that is none; None for any other error.

    It raises all kinds of errors out of the parsing of flags, and does not say the key.
    """
    if not isinstance(error, (AttributeError, KeyError, IndexError, TypeError)) or flags.FLAGS.is_parsed():
        return None
    keys = [match[1] for each in sys.argv if (match := re.match(r"--?(?:no)?config\.([^=]+)", each))]
    known = set(dotted_keys(RunConfig))
    for key in keys:
        if re.sub(r"\[\d*\]|\.\d+", "", key) not in known:
            return f"--config.{key}: no such key; did you mean --config.{nearest_key(RunConfig, key)}?"
    return f"{' or '.join(f'--config.{key}' for key in keys)}: cannot be set: {error}" if keys else None
