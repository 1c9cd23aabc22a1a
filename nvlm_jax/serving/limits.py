"""What all requests together may take: threads by kind of work, and memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from nvlm_jax.serving.errors import Refused

P, R = ParamSpec("P"), TypeVar("R")


class Lane:
    """Threads for one kind of work, with a queue that ends: slow work of one kind holds up no other."""

    def __init__(self, name: str, threads: int, waiting: int):
        """
        Args:
            name: of the work, for messages.
            threads: that do it.
            waiting: pieces of work that may wait for them.
        """
        self._name, self._most = name, threads + waiting
        self._threads = ThreadPoolExecutor(threads, name)
        self._pending = 0

    async def run(self, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        """What the function gives, from a thread. Where the caller is cancelled, work that waits is given up.

        Raises:
            Refused: 429, no more may wait.
        """
        if self._pending >= self._most:
            raise Refused(429, f"{self._pending} {self._name} are waiting; try again", code="rate_limit_exceeded")
        loop = asyncio.get_running_loop()
        self._pending += 1
        future = self._threads.submit(function, *arguments, **named)
        # From a thread, or from the caller that cancels: the count belongs to the event loop.
        future.add_done_callback(lambda _: _call_soon(loop, self._done))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Take no more work; what waits is given up."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _done(self) -> None:
        self._pending -= 1


class Memory:
    """Bytes that requests hold, bodies before they are read and tiles after that. For one thread."""

    def __init__(self, most: int):
        self.most, self.used = most, 0

    def share(self) -> Share:
        """A request's own part, nothing yet."""
        return Share(self)


class Share:
    """What one request holds."""

    def __init__(self, memory: Memory):
        self._memory, self.count = memory, 0

    def set(self, count: int) -> None:
        """Hold so many bytes from now on.

        Raises:
            Refused: 429, all requests together would hold too much.
        """
        used = self._memory.used - self.count + count
        if count > self.count and used > self._memory.most:
            message = f"requests under way hold {self._memory.used:,} bytes; try again"
            raise Refused(429, message, code="rate_limit_exceeded")
        self._memory.used, self.count = used, count

    def release(self) -> None:
        """Hold nothing more."""
        self.set(0)

    def __del__(self) -> None:
        self.release()  # of a stream that nobody began to read


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody counts any more
        loop.call_soon_threadsafe(function)
