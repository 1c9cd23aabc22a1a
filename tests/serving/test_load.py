"""Many clients at once: who waits, who is sent away, who goes, and how the server ends."""

import concurrent.futures
import threading
import time

import httpx
import openai
import pytest

from tests.serving.conftest import TEXT
from tests.serving.test_api import HELLO, client


def test_more_than_may_wait_are_sent_away_and_the_others_are_answered_in_order(serve):
    running = serve(slots=1, max_queue=2)
    running.engine.gate.clear()
    ended, lock = [], threading.Lock()

    def ask(number: int) -> int:
        reply = running.post({"messages": HELLO})
        with lock:
            ended.append(number)
        return reply.status_code

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        asked = []
        for number in range(3):
            asked.append(pool.submit(ask, number))
            running.wait_for(lambda number=number: running.server.worker.pending == number + 1)
        with pytest.raises(openai.RateLimitError) as refused:
            client(running).chat.completions.create(model="tiny", messages=HELLO)
        assert refused.value.response.headers["retry-after"] and refused.value.code == "rate_limit_exceeded"
        running.engine.gate.set()
        assert [future.result() for future in asked] == [200] * 3
    assert ended == [0, 1, 2]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_is_cancelled(serve, stream):
    running = serve(slots=1)
    running.engine.gate.clear()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{running.url}/v1/chat/completions", json={"messages": HELLO, "stream": stream}, timeout=0.3)
    running.engine.gate.set()
    # The coroutine ends first, and tells the engine's thread.
    running.wait_for(lambda: running.server.worker.pending == running.engine.working == 0)
    assert running.post({"messages": HELLO}).status_code == 200


def test_a_stream_that_is_dropped_in_the_middle_is_cancelled(serve):
    running = serve()
    with httpx.stream("POST", f"{running.url}/v1/chat/completions", json={"messages": HELLO, "stream": True}) as reply:
        next(reply.iter_lines())
        running.engine.gate.clear()
    running.engine.gate.set()
    running.wait_for(lambda: running.server.worker.pending == 0)
    assert running.post({"messages": HELLO}).json()["choices"][0]["message"]["content"] == TEXT


def test_what_takes_too_long_is_given_up(serve):
    running = serve(request_seconds=0.2)
    running.engine.gate.clear()
    reply = running.post({"messages": HELLO})
    assert reply.status_code == 504 and reply.json()["error"]["code"] == "timeout"
    running.wait_for(lambda: running.server.worker.pending == 0)


def test_the_server_answers_what_it_has_before_it_ends(serve):
    running = serve()
    running.engine.gate.clear()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(running.post, {"messages": HELLO})
        running.wait_for(lambda: running.server.worker.pending == 1)
        running.uvicorn.should_exit = True  # what SIGTERM sets
        time.sleep(0.2)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{running.url}/health", timeout=2)
        running.engine.gate.set()
        assert asked.result().json()["choices"][0]["message"]["content"] == TEXT
    running.thread.join(10)
    assert not running.server.worker.alive


def test_an_engine_that_fails_is_told(serve):
    running = serve()

    def fail():
        raise RuntimeError("out of memory")

    running.engine.step = fail
    reply = running.post({"messages": HELLO})
    assert reply.status_code == 503 and reply.json()["error"]["type"] == "server_error"
    running.wait_for(lambda: not running.server.worker.alive)
    assert httpx.get(f"{running.url}/health").status_code == 503
    assert running.post({"messages": HELLO}).status_code == 503


def test_many_clients_at_once_some_of_them_malformed(serve):
    running = serve(slots=8, max_queue=64)

    def ask(number: int) -> tuple[int, bool]:
        if number % 10 == 3:
            reply = running.post(content=b"{")
            return reply.status_code, reply.json()["error"]["code"] == "invalid_json"
        reply = running.post({"messages": HELLO})
        return reply.status_code, reply.json()["choices"][0]["message"]["content"] == TEXT

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        found = list(pool.map(ask, range(100)))
    assert found == [(400, True) if number % 10 == 3 else (200, True) for number in range(100)]
    running.wait_for(lambda: running.server.worker.pending == 0)
