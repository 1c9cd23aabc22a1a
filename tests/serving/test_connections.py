"""Connections that say nothing, too little or nothing more end, and there is always room for one that asks."""

import socket
import time

import httpx
import pytest

from tests.serving.conftest import TEXT
from tests.serving.test_api import HELLO


def connect(running) -> socket.socket:
    host, port = running.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.settimeout(10)
    return connection


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side ends the connection."""
    content = b""
    try:
        while piece := connection.recv(1 << 16):
            content += piece
    except ConnectionResetError:
        pass
    return content


def test_silent_connections_leave_room_for_one_that_asks_and_end(serve):
    running = serve(max_connections=20, head_seconds=1.0)
    silent = [connect(running) for _ in range(60)]
    assert httpx.post(f"{running.url}/v1/chat/completions", json={"messages": HELLO}).status_code == 200
    assert len(running.uvicorn.server_state.connections) <= 20
    assert {read_all(connection) for connection in silent} == {b""}
    running.wait_for(lambda: not running.uvicorn.server_state.connections)


@pytest.mark.parametrize("before", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_a_head_that_comes_byte_by_byte_is_not_waited_for(serve, before):
    """At the beginning, and behind a request that was answered."""
    connection = connect(serve(head_seconds=0.5))
    connection.sendall(before)
    content, end = b"", time.monotonic() + 8
    connection.settimeout(0.02)
    for byte in b"GET /health HTTP/1.1\r\nX: " + b"x" * 1000:
        try:
            connection.sendall(bytes([byte]))
            piece = connection.recv(1 << 16)
            content += piece
            if not piece:
                break
        except TimeoutError:
            continue
        except OSError:
            break
    assert time.monotonic() < end and content.count(b"200 OK") == bool(before)


def test_where_all_connections_have_a_request_another_is_told_so(serve):
    running = serve(max_connections=2)
    running.engine.gate.clear()
    body = b'{"messages": [{"role": "user", "content": "hello"}]}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nConnection: close\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    head %= len(body)
    busy = [connect(running) for _ in range(2)]
    for connection in busy:
        connection.sendall(head + body)
    running.wait_for(lambda: running.server.worker.pending == 2)
    refused = read_all(connect(running))
    assert refused.startswith(b"HTTP/1.1 503") and b"Retry-After" in refused and b"2 connections are open" in refused
    running.engine.gate.set()
    for connection in busy:
        assert TEXT.encode() in read_all(connection)


def test_an_answer_that_nobody_reads_is_given_up(serve):
    """Its connection ends, and the place of its request is free again."""
    running = serve(write_seconds=0.2)
    running.engine.say(running.server.builder.tokenizer.encode("owl ") * 200_000)
    connection = connect(running)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    running.wait_for(lambda: running.uvicorn.server_state.connections)
    [own] = running.uvicorn.server_state.connections
    own.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    body = b'{"messages": [{"role": "user", "content": "hello"}], "stream": true, "logprobs": true, "max_tokens": 1000}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    connection.sendall(head + body)
    running.wait_for(lambda: running.server.worker.pending == 1)
    running.wait_for(lambda: not running.uvicorn.server_state.connections)
    running.wait_for(lambda: running.server.worker.pending == 0)


def test_a_client_that_asks_again_keeps_its_connection(serve):
    running = serve(head_seconds=0.3)
    ports = set()
    for _ in range(3):
        reply = running.client.get("/health")
        ports.add(reply.extensions["network_stream"].get_extra_info("client_addr"))
        time.sleep(0.4)  # longer than a head may take
    assert len(ports) == 1
