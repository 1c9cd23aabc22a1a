"""`python -m launch.NAME ...` as tests start it: a process of its own, forked from one that has imported the libraries.

Importing them takes three seconds a command otherwise. Nothing has started JAX's backends in what is forked: the child
reads its own XLA_FLAGS.
"""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import runpy
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping

from tests.fast_compile import FAST_COMPILE

ROOT = pathlib.Path(__file__).parents[1]
forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["tests.preloaded"])


def command(
    module: str, *flags: str, text: str = "", cwd: pathlib.Path = ROOT, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE FLAGS` to its end, `text` its standard input; on one device if `env` does not say more."""
    started = Command(module, *flags, text=text, cwd=cwd, env=env)
    started.process.join(600)
    if started.process.exitcode is None:
        started.process.kill()
        raise TimeoutError(f"{module} {flags}: not at its end after ten minutes\n{started.stderr}")
    return subprocess.CompletedProcess([module, *flags], started.process.exitcode, started.stdout, started.stderr)


class Command:
    """One that runs beside the test."""

    def __init__(self, module: str, *flags: str, text: str = "", cwd: pathlib.Path = ROOT, env=None):
        self._files = pathlib.Path(tempfile.mkdtemp())
        (self._files / "in").write_text(text)
        settings = {"XLA_FLAGS": FAST_COMPILE} | dict(env or {})
        self.process = forks.Process(target=_run, args=(module, list(flags), settings, str(cwd), str(self._files)))
        self.process.start()
        weakref.finalize(self.process, shutil.rmtree, self._files, ignore_errors=True)

    @property
    def stdout(self) -> str:
        return self._text("out")

    @property
    def stderr(self) -> str:
        return self._text("err")

    def _text(self, name: str) -> str:
        file = self._files / name
        return file.read_text() if file.exists() else ""


def _run(module: str, flags: list[str], settings: dict[str, str], cwd: str, files: str) -> None:
    for number, name in enumerate(("in", "out", "err")):
        os.dup2(os.open(f"{files}/{name}", os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY), number)
    os.environ.update(settings)
    os.chdir(cwd)
    sys.path.insert(0, cwd)
    sys.argv = [module, *flags]
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - multiprocessing has closed it
    runpy.run_module(module, run_name="__main__", alter_sys=True)
