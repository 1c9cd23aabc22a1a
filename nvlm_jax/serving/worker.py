"""The thread that the model runs in: takes requests from the event loop and hands back what comes of them."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator

from nvlm_jax.generation.engine import Engine
from nvlm_jax.generation.request import Request, Update
from nvlm_jax.serving.errors import Refused


@dataclasses.dataclass(eq=False)
class Ticket:
    """One request that was handed over."""

    request: Request
    loop: asyncio.AbstractEventLoop
    updates: asyncio.Queue[Update | Refused]
    id: int | None = None  # once the engine has it
    left: bool = False  # the client went away


class Worker:
    """Runs an engine in a thread of its own, for any number of coroutines."""

    def __init__(self, engine: Engine, max_queue: int):
        """
        Args:
            engine: used by this worker alone from now on.
            max_queue: requests that may wait beside those that are decoded.
        """
        self._engine, self._max_pending = engine, max_queue + engine.slots
        self._new: deque[Ticket] = deque()
        self._tickets: dict[int, Ticket] = {}
        self._gone: list[Ticket] = []
        self._pending = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def pending(self) -> int:
        """Requests that are not finished."""
        return self._pending

    @property
    def working(self) -> int:
        """Requests that are decoded."""
        return self._engine.working

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its round; what is unfinished is told so."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def check_room(self) -> None:
        """Raise Refused (429) where no further request may wait, or (503) where the thread has ended."""
        if self._stopping or not self.alive:
            raise Refused(503, "the server is stopping", code="stopping")
        if self._pending >= self._max_pending:
            message = f"{self._pending} requests are waiting or decoded, and no more may be; try again"
            raise Refused(429, message, code="rate_limit_exceeded")

    async def answer(self, request: Request) -> AsyncIterator[Update]:
        """The updates of a request, up to the one that finishes it. Closing the iterator cancels the request.

        Raises:
            Refused: as `check_room`; or 400, the request does not fit the cache.
        """
        self.check_room()
        ticket = Ticket(request, asyncio.get_running_loop(), asyncio.Queue())
        with self._changed:
            self._pending += 1
            self._new.append(ticket)
            self._changed.notify()
        finished = False
        try:
            while not finished:
                update = await ticket.updates.get()
                if isinstance(update, Refused):
                    finished = True
                    raise update
                finished = bool(update.finish)
                yield update
        finally:
            with self._changed:
                self._pending -= 1
                if not finished:
                    ticket.left = True
                    self._gone.append(ticket)
                    self._changed.notify()

    def _run(self) -> None:
        try:
            while self._take():
                for update in self._engine.step():
                    self._tell(update)
        except Exception:
            logging.exception("the engine failed; the server takes no more requests")
        finally:
            with self._changed:
                self._stopping = True
                rest = [*self._tickets.values(), *self._new]
            for ticket in rest:
                _put(ticket, Refused(503, "the server is stopping", code="stopping"))

    def _take(self) -> bool:
        """Wait for work and hand it to the engine; False where the thread is to end."""
        with self._changed:
            while not (self._new or self._gone or self._tickets or self._stopping):
                self._changed.wait()
            new, self._new = self._new, deque()
            gone, self._gone = self._gone, []
            stopping = self._stopping
        if stopping:
            self._new = new
            return False
        for ticket in new:
            if ticket.left:
                continue
            try:
                ticket.id = self._engine.submit(ticket.request)
                self._tickets[ticket.id] = ticket
            except ValueError as error:
                _put(ticket, Refused(400, str(error), "messages", "context_length_exceeded"))
        for ticket in gone:
            if ticket.id is not None:
                self._engine.cancel(ticket.id)
        return True

    def _tell(self, update: Update) -> None:
        ticket = self._tickets.pop(update.id) if update.finish else self._tickets[update.id]
        if not ticket.left:
            _put(ticket, update)


def _put(ticket: Ticket, update: Update | Refused) -> None:
    try:
        ticket.loop.call_soon_threadsafe(ticket.updates.put_nowait, update)
    except RuntimeError:  # the loop is closed: nobody waits any more
        ticket.left = True
