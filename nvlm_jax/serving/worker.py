"""The thread that the model runs in: takes requests from the event loop and hands back what comes of them.

A round that fails says not whose fault it was. So its requests begin anew, in halves, until the one is found that fails
alone: it ends, and the others go on where they were, for an answer depends on its request alone. Where nothing works
any more, the thread ends and says so.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

from nvlm_jax.generation.engine import Engine
from nvlm_jax.generation.request import Request, Update
from nvlm_jax.serving.errors import Refused

WarmUp = Callable[[], Iterator[tuple[int, int]]]  # (programs that are ready, all) as they become it


@dataclasses.dataclass(eq=False)
class Ticket:
    """One request that was handed over."""

    request: Request
    loop: asyncio.AbstractEventLoop
    updates: asyncio.Queue[Update | Refused]
    id: int | None = None  # while the engine has it
    left: bool = False  # the client went away
    sent: int = 0  # tokens that were handed back
    skip: int = 0  # tokens to come that were handed back before a round failed


class Worker:
    """Runs an engine in a thread of its own, for any number of coroutines."""

    def __init__(self, engine: Engine, max_queue: int, warm_up: WarmUp | None = None):
        """
        Args:
            engine: used by this worker alone from now on.
            max_queue: requests that may wait beside those that are decoded.
            warm_up: what comes before the first request, `engine.warm_up`; requests wait for it.
        """
        self._engine, self._max_pending, self._warm_up = engine, max_queue + engine.slots, warm_up
        self._new: deque[Ticket] = deque()
        self._tickets: dict[int, Ticket] = {}  # by the engine's id
        self._suspects: deque[list[Ticket]] = deque()  # groups whose round failed, to be tried apart
        self._trying = False  # the engine has such a group, and nothing else
        self._gone: list[Ticket] = []
        self._pending = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._warm = warm_up is None
        self.progress = (0, 0)  # of the warm-up
        self.failure = ""  # why the thread ended, where it was not told to
        self.on_failure: Callable[[], None] | None = None  # called by the thread
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

    @property
    def state(self) -> str:
        """warming up | ok | stopping | failed"""
        if self.failure:
            return "failed"
        if self._stopping or not self.alive:
            return "stopping"
        return "ok" if self._warm else "warming up"

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
            raise self._ended()
        if self._pending >= self._max_pending:
            message = f"{self._pending} requests are waiting or decoded, and no more may be; try again"
            raise Refused(429, message, code="rate_limit_exceeded")

    async def answer(self, request: Request) -> AsyncIterator[Update]:
        """The updates of a request, up to the one that finishes it. Closing the iterator cancels the request.

        Raises:
            Refused: as `check_room`; 400, the request does not fit the cache; 500, it fails, and it alone.
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
            self._make_ready()
            while self._take():
                try:
                    updates = self._engine.step()
                except Exception:
                    logging.exception("a round failed; its requests are tried apart")
                    self._part()
                    continue
                for update in updates:
                    self._tell(update)
        except BaseException as error:
            logging.exception("the engine failed; the server takes no more requests")
            self.failure = f"the engine failed: {type(error).__name__}: {str(error)[:500]}"
        finally:
            with self._changed:
                self._stopping = True
                rest = [*self._tickets.values(), *self._new, *(t for group in self._suspects for t in group)]
            for ticket in rest:
                _put(ticket, self._ended())
            if self.failure and self.on_failure is not None:
                self.on_failure()

    def _ended(self) -> Refused:
        return Refused(503, self.failure or "the server is stopping", code="stopping")

    def _make_ready(self) -> None:
        for progress in self._warm_up() if self._warm_up is not None else ():
            self.progress = progress
            if self._stopping:
                return
        self._warm = True

    def _take(self) -> bool:
        """Wait for work and hand it to the engine; False where the thread is to end."""
        self._trying = bool(self._suspects) or (self._trying and bool(self._tickets))
        with self._changed:
            while not (self._new or self._gone or self._tickets or self._suspects or self._stopping):
                self._changed.wait()
            gone, self._gone = self._gone, []
            if self._stopping:
                return False
            new: list[Ticket] = []
            if not self._trying:
                new, self._new = list(self._new), deque()
        if self._suspects and not self._tickets:
            new = self._suspects.popleft()
        for ticket in new:
            self._submit(ticket)
        for ticket in gone:
            if ticket.id is not None:
                self._engine.cancel(ticket.id)
        return True

    def _submit(self, ticket: Ticket) -> None:
        if ticket.left:
            return
        try:
            ticket.id = self._engine.submit(ticket.request)
            self._tickets[ticket.id] = ticket
        except ValueError as error:
            _put(ticket, Refused(400, str(error), "messages", "context_length_exceeded"))
        except Exception:
            logging.exception("a request failed")
            _put(ticket, _failed())

    def _part(self) -> None:
        """After a round that failed: its requests begin anew in two groups; one that was alone ends.

        Raises:
            Exception: the engine does not work without it either.
        """
        self._engine.reset()
        group = [ticket for ticket in self._tickets.values() if not ticket.left]
        if len(group) <= 1:
            self._engine.check()
        self._tickets.clear()
        for ticket in group:
            ticket.id, ticket.skip = None, ticket.sent
        if len(group) == 1:
            _put(group[0], _failed())
        elif group:
            self._suspects.extendleft((group[len(group) // 2 :], group[: len(group) // 2]))

    def _tell(self, update: Update) -> None:
        ticket = self._tickets.pop(update.id) if update.finish else self._tickets[update.id]
        known = min(ticket.skip, len(update.tokens))
        ticket.skip -= known
        if known:
            update = update._replace(tokens=update.tokens[known:], logprobs=update.logprobs[known:])
        ticket.sent += len(update.tokens)
        if not ticket.left and (update.tokens or update.finish):
            _put(ticket, update)


def _failed() -> Refused:
    return Refused(500, "this request failed in the engine, and it alone", code="internal_error")


def _put(ticket: Ticket, update: Update | Refused) -> None:
    try:
        ticket.loop.call_soon_threadsafe(ticket.updates.put_nowait, update)
    except RuntimeError:  # the loop is closed: nobody waits any more
        ticket.left = True
