"""Many clients at once: who waits, who is sent away, who goes, and how the server ends."""

import concurrent.futures
import contextlib
import json
import threading
import time

import httpx
import openai
import pytest
from PIL import Image

from nvlm_jax.serving import prompts
from nvlm_jax.serving.app import Server
from nvlm_jax.serving.settings import Settings
from nvlm_jax.serving.worker import Worker
from tests.serving.conftest import TEXT, StandIn, data_uri, serving
from tests.serving.test_api import HELLO, client, user


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


def test_an_engine_that_fails_is_told_and_ends_the_server(serve):
    running = serve()

    def fail():
        raise RuntimeError("out of memory")

    running.engine.step = fail
    reply = running.post({"messages": HELLO})
    assert reply.status_code == 503 and "RuntimeError: out of memory" in reply.json()["error"]["message"]
    running.thread.join(20)
    assert not running.thread.is_alive() and "out of memory" in running.server.worker.failure


def test_health_says_what_the_engine_failed_of(serve):
    running = serve()
    running.server.worker.on_failure = None  # or the server would be gone
    running.engine.reset = running.engine.step = None
    assert running.post({"messages": HELLO}).status_code == 503
    running.wait_for(lambda: not running.server.worker.alive)
    health = running.client.get("/health")
    assert health.status_code == 503 and health.json()["status"] == "failed"
    assert "the engine failed: TypeError" in health.json()["error"]["message"]
    assert running.post({"messages": HELLO}).status_code == 503


def test_run_gives_the_failure_that_the_command_ends_with(builder, monkeypatch):
    from nvlm_jax.serving import run

    monkeypatch.setattr(run, "AFTER_FAILURE", 0)
    engine = StandIn(builder.tokenizer)

    def warm_up():
        yield 1, 3
        raise RuntimeError("no memory for the second program")

    worker = Worker(engine, 4, warm_up)
    assert "no memory for the second" in run.run(Server(builder, worker, Settings("tiny")), "127.0.0.1", 0)


def test_requests_wait_for_the_warm_up_and_health_shows_its_progress(builder):
    engine, go = StandIn(builder.tokenizer), threading.Event()

    def warm_up():
        yield 0, 2
        yield 1, 2
        go.wait(20)
        yield 2, 2

    with serving(engine, builder, warm_up=warm_up) as running:
        running.wait_for(lambda: running.server.worker.progress == (1, 2))
        health = running.client.get("/health")
        assert health.status_code == 503 and health.headers["retry-after"]
        assert health.json()["status"] == "warming up" and health.json()["programs"] == {"ready": 1, "of": 2}
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            asked = pool.submit(running.post, {"messages": HELLO})
            running.wait_for(lambda: running.server.worker.pending == 1)
            go.set()
            assert asked.result().status_code == 200
        assert running.client.get("/health").json()["status"] == "ok"


class Gate:
    """Lets calls of a function wait until it opens."""

    def __init__(self, monkeypatch, owner, name: str):
        self.waiting, self.open = 0, threading.Event()
        real = getattr(owner, name)

        def wait(*arguments, **named):
            self.waiting += 1
            assert self.open.wait(20)
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, wait)


def test_slow_addresses_and_pictures_hold_up_no_text_and_their_queues_end(serve, monkeypatch):
    running = serve(image_urls=True, max_waiting=1)
    slow_web = Gate(monkeypatch, prompts, "fetch")
    slow_pictures = Gate(monkeypatch, prompts, "decode_data_uri")
    try:
        with concurrent.futures.ThreadPoolExecutor(30) as pool:
            web = [pool.submit(running.post, {"messages": user("http://x.org/a.png", "hi")}) for _ in range(9)]
            pictures = [pool.submit(running.post, {"messages": user(data_uri(), "hi")}) for _ in range(3)]
            running.wait_for(lambda: slow_web.waiting == 8 and slow_pictures.waiting == 2)
            for url in ("http://x.org/b.png", data_uri()):
                refused = running.post({"messages": user(url, "hi")})
                assert refused.status_code == 429 and refused.headers["retry-after"], refused.text
            assert running.post({"messages": HELLO}).json()["choices"][0]["message"]["content"] == TEXT
            slow_pictures.open.set()
            assert [future.result().status_code for future in pictures] == [200] * 3
            slow_web.open.set()
            assert {future.result().status_code for future in web} == {400}  # nobody looks such a name up here
    finally:
        slow_web.open.set()
        slow_pictures.open.set()


def test_what_waits_for_a_thread_is_given_up_with_its_client(serve, monkeypatch):
    running = serve()
    slow = Gate(monkeypatch, prompts, "decode_data_uri")
    body = {"messages": user(data_uri(), "hi"), "stream": True}
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        first = [pool.submit(running.post, body) for _ in range(2)]
        running.wait_for(lambda: slow.waiting == 2)
        with httpx.Client(base_url=running.url) as leaving, contextlib.suppress(httpx.HTTPError):
            third = pool.submit(leaving.post, "/v1/chat/completions", json=body)
            running.wait_for(lambda: running.server.prompts._pictures._pending == 3)
            leaving.close()
        running.wait_for(lambda: running.server.prompts._pictures._pending == 2)
        slow.open.set()
        assert [future.result().status_code for future in first] == [200] * 2
        assert isinstance(third.exception(), httpx.HTTPError)
    running.wait_for(lambda: 'nvlm_requests_total{status="499"} 1.0' in running.client.get("/metrics").text)
    assert slow.waiting == 2 and len(running.engine.requests) == 2


def test_bodies_and_pixels_of_all_requests_are_bounded(serve, monkeypatch):
    body = {"messages": user(data_uri(), "hi")}
    size = len(json.dumps(body))
    running = serve(max_held_bytes=size * 3 // 2, max_pixels=3 * 800)
    slow = Gate(monkeypatch, prompts, "decode_data_uri")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(running.post, body)
        running.wait_for(lambda: slow.waiting == 1)
        refused = running.post(body)
        assert refused.status_code == 429 and "bytes" in refused.json()["error"]["message"]
        slow.open.set()
        assert first.result().status_code == 200
    running.wait_for(lambda: running.server._memory.used == 0)
    assert running.post(body | {"stream": True}).status_code == 200
    running.wait_for(lambda: running.server._memory.used == 0)


def test_pixels_of_a_request_are_counted_before_they_are_decoded(serve, monkeypatch):
    running = serve(max_pixels=2 * 800)
    assert running.post({"messages": user(data_uri(), data_uri(), "hi")}).status_code == 200
    three = {"messages": user(*[data_uri()] * 3, "hi")}
    monkeypatch.setattr(Image.Image, "load", None)
    refused = running.post(three).json()["error"]
    assert refused["code"] == "image_too_large" and "2,400 pixels in 3 pictures; at most 1,600" in refused["message"]


def test_one_request_that_fails_unexpectedly_is_told_so(serve, monkeypatch):
    running = serve()
    real = running.server.builder.prompt
    monkeypatch.setattr(running.server.builder, "prompt", lambda *_, **__: 1 // 0)
    reply = running.post({"messages": HELLO})
    assert reply.status_code == 500 and reply.json()["error"]["code"] == "internal_error"
    monkeypatch.setattr(running.server.builder, "prompt", real)
    assert running.post({"messages": HELLO}).status_code == 200


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
