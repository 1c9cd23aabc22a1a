"""A server in a thread, in front of a stand-in for the engine that says a fixed text."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from nvlm_jax.generation.request import Request, TokenLogprob, Update
from nvlm_jax.serving.app import Server
from nvlm_jax.serving.run import make_uvicorn
from nvlm_jax.serving.settings import Settings
from nvlm_jax.serving.worker import Worker
from tests.evaluation.test_runner import make_builder

TEXT = " the quick brown fox jumps over 12 lazy dogs."


def data_uri(width: int = 40, height: int = 20) -> str:
    """A picture that becomes two tiles and a thumbnail."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


class StandIn:
    """As much of an `Engine` as a worker uses. Two tokens a round; `gate` holds the rounds."""

    def __init__(self, tokenizer, slots: int = 4):
        self.slots, self.gate, self.requests, self.cancelled = slots, threading.Event(), [], []
        self._script = tokenizer.encode(TEXT)
        self._open: dict[int, tuple[Request, int]] = {}
        self._ids = 0
        self.gate.set()

    def say(self, tokens: list[int]) -> None:
        """Answer these tokens from now on."""
        self._script = tokens

    @property
    def working(self) -> int:
        return min(len(self._open), self.slots)

    def submit(self, request: Request) -> int:
        if len(request.example.tokens) > 400:
            raise ValueError("the cache holds 400")
        self._ids += 1
        self.requests.append(request)
        self._open[self._ids] = (request, 0)
        return self._ids

    def reset(self) -> None:
        self._open.clear()

    def check(self) -> None:
        self.step()

    def cancel(self, id: int) -> None:
        self.cancelled.append(id)

    def step(self) -> list[Update]:
        self.gate.wait(20)
        time.sleep(0.002)
        updates = [Update(id, [], [], "cancelled") for id in self.cancelled if self._open.pop(id, None)]
        for id in list(self._open)[: self.slots]:
            request, place = self._open[id]
            end = min(place + 2, len(self._script), request.max_new_tokens)
            tokens = self._script[place:end]
            finish = "length" if end == request.max_new_tokens else "stop" if end == len(self._script) else ""
            if request.until and request.until(self._script[:end]):
                finish = "stop"
            self._open[id] = (request, end)
            if finish:
                del self._open[id]
            top = tuple((token, -1.0 - token) for token in range(5, 5 + (request.logprobs or 0)))
            told = [TokenLogprob(token, -0.5, top) for token in tokens] if request.logprobs is not None else []
            updates.append(Update(id, tokens, told, finish))
        return updates


class Running:
    """A server that listens, with what is behind it."""

    def __init__(self, engine, server: Server, listener: socket.socket):
        self.engine, self.server = engine, server
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.client = httpx.Client(base_url=self.url, timeout=30, limits=httpx.Limits(max_connections=None))
        self.uvicorn = make_uvicorn(server, log_level="error")
        self.uvicorn.config.timeout_graceful_shutdown = 20
        self.thread = threading.Thread(target=self.uvicorn.run, kwargs={"sockets": [listener]}, daemon=True)

    def post(self, body=None, **options) -> httpx.Response:
        if body is not None:
            options["json"] = body
        return self.client.post("/v1/chat/completions", **options)

    def wait_for(self, condition, seconds: float = 10) -> None:
        """Until it holds; so many seconds at most."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not come to that"
            time.sleep(0.005)


@contextlib.contextmanager
def serving(engine, builder, max_queue: int = 64, warm_up=None, **settings) -> Iterator[Running]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(builder, Worker(engine, max_queue, warm_up), Settings("tiny", **settings))
    running = Running(engine, server, listener)
    running.thread.start()
    try:
        running.wait_for(lambda: running.uvicorn.started)
        yield running
    finally:
        getattr(engine, "gate", threading.Event()).set()
        running.client.close()
        running.uvicorn.should_exit = True
        running.thread.join(20)
        assert not running.thread.is_alive()


@pytest.fixture(scope="session")
def builder():
    return make_builder()


@pytest.fixture
def serve(builder):
    """(max_queue=..., slots=..., **settings) -> a running server with the stand-in."""
    with contextlib.ExitStack() as stack:

        def start(slots: int = 4, max_queue: int = 64, **settings) -> Running:
            engine = StandIn(builder.tokenizer, slots)
            return stack.enter_context(serving(engine, builder, max_queue, **settings))

        yield start
