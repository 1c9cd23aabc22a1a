"""Each process watches the others: when one is dead or hangs, all end soon, with a message that names it.

Without this a process that waits in a collective for a dead one waits for minutes, and for a hung one for ever. A
thread of each process writes a sign of life to the coordinator's key-value store and reads the others':

    dead   no sign for `DEAD_SECONDS`
    hung   signs, but no step begun or ended for `hang_seconds`: named is the process that is behind the others
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

DEAD_SECONDS = 20.0
POLL_SECONDS = 1.0
LAST_SECONDS = 8.0  # that process 0 stays: without it JAX aborts the others before they have seen who died
FOLDER = "nvlm/signs"
# A launcher turns this exit code (EX_TEMPFAIL of sysexits.h) into another start of the same command.
REQUEUE = 75


class Sign(NamedTuple):
    """What a process last said of itself."""

    beat: int  # grows with every sign
    step: int  # steps begun
    doing: str
    host: str
    pid: int


class Watch:
    """The watching thread; does nothing in a run of one process."""

    def __init__(
        self,
        hang_seconds: float,
        dead_seconds: float | None = None,
        end: Callable[[str], None] | None = None,
        store: Any = None,
        process: tuple[int, int] | None = None,
    ):
        """
        Args:
            hang_seconds: without progress of any process before the run is given up.
            dead_seconds: without a sign of life of one; default DEAD_SECONDS.
            end: what to do with the message; default: print it and end this process with REQUEUE.
            store: the key-value store; default: JAX's coordinator.
            process: (index, count); default: JAX's.
        """
        self.hang_seconds, self.dead_seconds = hang_seconds, dead_seconds or DEAD_SECONDS
        self.index, self.count = process or (jax.process_index(), jax.process_count())
        self._end = end or _end
        self._store = store
        self._beat, self._step, self._doing = 0, 0, "starting"
        self._stop = threading.Event()
        self._seen: dict[int, tuple[Sign | None, float, float]] = {}  # sign, when it came, when its step last changed
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        if self.count > 1:
            if self._store is None:
                from jax._src.distributed import global_state  # JAX has no public way to its store

                self._store = global_state.client
            self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: Any) -> None:
        if self.count > 1:
            if isinstance(error, jax.errors.JaxRuntimeError):  # a collective noticed before this thread did
                print(f"process {self.index}: {str(error).splitlines()[0][:300]}", file=sys.stderr, flush=True)
                self._stop.wait(self.dead_seconds + 5 * POLL_SECONDS)
            self.tell(self._step, "done" if error is None else "failed")
            self._stop.set()
            self._thread.join(5 * POLL_SECONDS)
            with contextlib.suppress(Exception):  # the last word, where the coordinator still listens
                self._publish()

    def tell(self, step: int, doing: str) -> None:
        """Note where this process is: steps begun, and what it does now."""
        self._step, self._doing = step, doing

    def _run(self) -> None:
        failures, start = 0, time.monotonic()
        while not self._stop.wait(POLL_SECONDS):
            try:
                self._publish()
                found = dict(self._store.key_value_dir_get(FOLDER))
                failures = 0
            except Exception as error:
                failures += 1
                if failures * POLL_SECONDS >= min(self.dead_seconds, 5.0) and not self._stop.is_set():
                    reason = str(error).splitlines()[0][:200]
                    self._end(f"process 0, which coordinates the run, does not answer: {reason}")
                continue
            if message := self._judge(found, time.monotonic(), start):
                self._end(message)

    def _publish(self) -> None:
        self._beat += 1
        sign = json.dumps([self._beat, self._step, self._doing, socket.gethostname(), os.getpid()])
        self._store.key_value_set(f"{FOLDER}/{self.index}", sign, allow_overwrite=True)

    def _judge(self, found: dict[str, str], now: float, start: float) -> str | None:
        for index in range(self.count):
            text = next((text for key, text in found.items() if key.rsplit("/", 1)[-1] == str(index)), None)
            sign = None if text is None else Sign(*json.loads(text))
            old, came, moved = self._seen.get(index, (None, start, start))
            if sign is not None and (old is None or sign.beat != old.beat):
                came = now
            if sign is not None and (old is None or (sign.step, sign.doing) != (old.step, old.doing)):
                moved = now
            self._seen[index] = (sign or old, came, moved)
        for index, (sign, came, _) in self._seen.items():
            if now - came > self.dead_seconds and (sign is None or sign.doing != "done"):
                return f"{_name(index, sign)} gave no sign of life for {now - came:.0f} s"
        moving = [index for index, (sign, _, moved) in self._seen.items() if now - moved <= self.hang_seconds]
        if moving or any(sign is None for sign, _, _ in self._seen.values()):
            return None
        behind = min(self._seen, key=lambda index: (self._seen[index][0].step, self._seen[index][0].doing != "data"))
        return f"{_name(behind, self._seen[behind][0])} hangs: no process went on for {self.hang_seconds:.0f} s"


def _name(index: int, sign: Sign | None) -> str:
    if sign is None:
        return f"process {index} (never heard of)"
    return f"process {index} (host {sign.host}, pid {sign.pid}; step {sign.step}, {sign.doing})"


def _end(message: str) -> None:
    """No clean-up: it would wait for the process that is gone."""
    text = f"{message}; this process ends with code {REQUEUE}. Started again, the run goes on from its last checkpoint."
    print(text, file=sys.stderr, flush=True)
    if jax.process_index() == 0:
        time.sleep(LAST_SECONDS)
    os._exit(REQUEUE)
