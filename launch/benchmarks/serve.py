"""A server under load: many clients for a while, a tenth of their requests malformed.

    python -m launch.benchmarks.serve --url=http://127.0.0.1:8000 [--clients=64] [--seconds=60]

Each client asks again as soon as it is answered. What is measured: seconds to the first token and to the last, statuses
of the malformed, the memory of the server before and after, and how evenly the clients were served.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from absl import flags

from data_pipelines.records import RecordSource
from launch.benchmarks.output import run
from nvlm_jax.evaluation import embedded
from nvlm_jax.evaluation.question import Question

PAGES = 32
SETTLE = 3.0  # seconds after which the server's memory is read again
HELLO = {"messages": [{"role": "user", "content": "hello"}]}
MALFORMED: dict[str, tuple[bytes, int]] = {
    "bad JSON": (b'{"messages": [', 400),
    "wrong role": (b'{"messages": [{"role": "owl", "content": "x"}]}', 400),
    "negative limit": (json.dumps(HELLO | {"max_tokens": -1}).encode(), 400),
    "bad base64": (
        b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": '
        b'"data:image/png;base64,@@"}}]}]}',
        400,
    ),
    "10,000 tokens": (json.dumps({"messages": [{"role": "user", "content": "owl " * 10_000}]}).encode(), 400),
}
GOES_AWAY = "goes away"


def measure(url: str, data: Path, clients: int, seconds: float, malformed: float = 0.1) -> dict[str, Any]:
    """Ask a server that listens at `url` for so many seconds.

    Args:
        url: up to the port.
        data: directory with the embedded dataset `qa-test`.
        clients: that ask at the same time.
        seconds: in which requests begin.
        malformed: share of requests that are no good.
    """
    source = RecordSource(data / "qa-test")
    questions = [q for i in range(min(len(source), PAGES)) for q in embedded.questions([source[i]])]
    return asyncio.run(_measure(url, [_body(question) for question in questions], clients, seconds, malformed))


def report(found: dict[str, Any]) -> str:
    """The numbers as Markdown."""
    lines = ["| | p50 | p95 | p99 |", "| --- | --- | --- | --- |"]
    for name, key in (("first token, s", "first"), ("whole answer, s", "whole")):
        lines.append("| {} | {:.2f} | {:.2f} | {:.2f} |".format(name, *found[key]))
    few, many = found["served"]
    lines += [
        "",
        f"{found['answers']} answers in {found['seconds']:.0f} s ({found['answers'] / found['seconds']:.1f} a second), "
        f"{found['errors']} errors; {few} to {many} answers a client.",
        f"Malformed: {found['malformed']}; not as expected: {found['unexpected']}.",
        "Resident memory of the server, MB: {:.0f} before, {:.0f} after.".format(*(n / 1e6 for n in found["memory"])),
    ]
    return "\n".join(lines)


async def _measure(url: str, bodies: Sequence[bytes], clients: int, seconds: float, malformed: float) -> dict[str, Any]:
    log: dict[str, Any] = {"first": [], "whole": [], "errors": [], "malformed": Counter(), "unexpected": Counter()}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
        for body in bodies[:4]:  # compiles what is not yet compiled
            await _ask(http, body)
        before = await _memory(http)
        begin = time.perf_counter()
        asked = itertools.cycle(bodies)
        tasks = [_client(http, number, asked, begin + seconds, malformed, log) for number in range(clients)]
        served = await asyncio.gather(*tasks)
        took = time.perf_counter() - begin
        await asyncio.sleep(SETTLE)
        after = await _memory(http)
    return {
        "clients": clients,
        "seconds": took,
        "answers": len(log["whole"]),
        "errors": len(log["errors"]),
        "error_texts": log["errors"][:5],
        "first": _percentiles(log["first"]),
        "whole": _percentiles(log["whole"]),
        "served": (min(served), max(served)),
        "malformed": dict(log["malformed"]),
        "unexpected": dict(log["unexpected"]),
        "memory": (before, after),
    }


async def _client(http, number: int, bodies, end: float, malformed: float, log: dict[str, Any]) -> int:
    """Ask until the time is over; how many answers came."""
    draw, served = random.Random(number), 0
    while time.perf_counter() < end:
        if draw.random() < malformed:
            await _ask_badly(http, draw.choice([*MALFORMED, GOES_AWAY]), next(bodies), log)
            continue
        try:
            first, whole = await _ask(http, next(bodies))
        except (httpx.HTTPError, ValueError) as error:
            log["errors"].append(f"{type(error).__name__}: {error}")
            continue
        log["first"].append(first)
        log["whole"].append(whole)
        served += 1
    return served


async def _ask(http: httpx.AsyncClient, body: bytes) -> tuple[float, float]:
    """Seconds to the first token and to the last of a streamed answer."""
    begin, first, done = time.perf_counter(), None, False
    async with http.stream("POST", "/v1/chat/completions", content=body) as reply:
        if reply.status_code != 200:
            raise ValueError(f"status {reply.status_code}: {(await reply.aread())[:200]!r}")
        async for line in reply.aiter_lines():
            if first is None and '"content":"' in line and '"content":""' not in line:
                first = time.perf_counter() - begin
            done = done or line == "data: [DONE]"
    if not done:
        raise ValueError("the stream broke off")
    whole = time.perf_counter() - begin
    return whole if first is None else first, whole


async def _ask_badly(http: httpx.AsyncClient, kind: str, body: bytes, log: dict[str, Any]) -> None:
    log["malformed"][kind] += 1
    try:
        if kind == GOES_AWAY:
            async with http.stream("POST", "/v1/chat/completions", content=body) as reply:
                await anext(reply.aiter_lines(), None)
            return
        content, status = MALFORMED[kind]
        reply = await http.post("/v1/chat/completions", content=content)
        if reply.status_code != status or "message" not in reply.json().get("error", {}):
            log["unexpected"][f"{kind}: {reply.status_code}"] += 1
    except (httpx.HTTPError, ValueError) as error:
        log["unexpected"][f"{kind}: {type(error).__name__}"] += 1


async def _memory(http: httpx.AsyncClient) -> float:
    """Bytes, as /metrics has them."""
    found = re.search(r"^process_resident_memory_bytes (\S+)", (await http.get("/metrics")).text, re.MULTILINE)
    return float(found[1]) if found else float("nan")


def _body(question: Question) -> bytes:
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(image).decode()}}
        for image in question.images
    ]
    text = question.text.replace("<image>", "").strip()
    message = {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
    return json.dumps({"messages": [message], "stream": True, "max_tokens": 32}).encode()


def _percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return (float("nan"),) * 3
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[94], cuts[98]


if __name__ == "__main__":
    URL = flags.DEFINE_string("url", "http://127.0.0.1:8000", "of a running launch.serve")
    DATA = flags.DEFINE_string("data", "runs/data", "directory that holds qa-test")
    CLIENTS = flags.DEFINE_integer("clients", 64, "that ask at once", lower_bound=1)
    SECONDS = flags.DEFINE_float("seconds", 60.0, "of asking", lower_bound=1.0)
    run("serve", lambda directory: measure(URL.value, Path(DATA.value), CLIENTS.value, SECONDS.value), report)
