"""Connections that end: where nothing is said, said too slowly or left unread, and where there are too many."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from nvlm_jax.serving.errors import Refused
from nvlm_jax.serving.settings import Settings


class BoundedProtocol(H11Protocol):
    """One connection. `bounded` makes it one of a server's limits."""

    settings: Settings

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._quiet_since = time.monotonic()
        self._head_clock: asyncio.TimerHandle | None = None
        self._write_clock: asyncio.TimerHandle | None = None
        if len(self.connections) > self.settings.max_connections and not self._make_room():
            transport.write(_full(self.settings.max_connections))
            transport.close()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clocks()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._idle and self._head_clock is None:
            self._await_head()
        super().data_received(data)
        if not self._idle and self._head_clock is not None:
            self._head_clock.cancel()
            self._head_clock = None

    def on_response_complete(self) -> None:
        self._quiet_since = time.monotonic()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_clock = self.loop.call_later(self.settings.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_clock is not None:
            self._write_clock.cancel()

    @property
    def _idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        """Close the connection unless a whole head comes in time, whatever comes of it meanwhile."""
        self._head_clock = self.loop.call_later(self.settings.head_seconds, self.transport.close)

    def _make_room(self) -> bool:
        """Close the connection that has had no request for longest; False where all have one."""
        idle = [other for other in self.connections if other is not self and other._idle]
        if not idle:
            return False
        oldest = min(idle, key=lambda other: other._quiet_since)
        self.connections.discard(oldest)  # at once: it counts until its end is seen
        oldest.transport.abort()
        return True

    def _stop_clocks(self) -> None:
        for clock in (self._head_clock, self._write_clock):
            if clock is not None:
                clock.cancel()


def bounded(limits: Settings) -> type[BoundedProtocol]:
    """The protocol of a server with these limits, for `uvicorn.Config(http=...)`."""
    return type("BoundedProtocol", (BoundedProtocol,), {"settings": limits})


def uvicorn_options(limits: Settings) -> dict[str, Any]:
    """What of `uvicorn.Config` follows from the limits."""
    return {
        "http": bounded(limits),
        "ws": "none",
        "timeout_keep_alive": max(1, round(limits.idle_seconds)),
        "timeout_graceful_shutdown": int(limits.request_seconds) + 1,
    }


def _full(connections: int) -> bytes:
    """A whole reply, for a client that has not asked yet."""
    refused = Refused(503, f"{connections} connections are open, and no more may be; try again", code="busy")
    body = json.dumps(refused.body()).encode()
    head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    return f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
