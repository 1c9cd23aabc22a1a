"""What the benchmarks print, and what they count under load."""

import httpx

from launch.benchmarks import decode as benchmark_decode
from launch.benchmarks import serve as benchmark_serve
from tests.serving.conftest import builder, serve  # noqa: F401


def test_decode_ratios_are_of_the_same_round():
    load = {
        "items": 10,
        "seconds": {"engine": [1.0, 2.0, 4.0], "theirs": [3.0, 8.0, 8.0]},
        "cpu_seconds": {"engine": [1.0, 1.0, 1.0], "theirs": [2.0, 2.0, 2.0]},
        "same_answers": {"engine": 10, "theirs": 9},
    }
    lines = benchmark_decode.report({"workloads": {"pages": load}}).splitlines()
    assert lines[2] == "| pages (10) | engine | 5.0 |  |  | 10 of 10 |"
    assert lines[3] == "| pages (10) | theirs | 1.2 | 3.0 (2.0 to 4.0) | 2.0 (2.0 to 2.0) | 9 of 10 |"


def test_a_server_under_load_is_measured(serve, monkeypatch):  # noqa: F811
    running = serve(slots=4)
    monkeypatch.setattr(benchmark_serve, "SETTLE", 0.0)
    body = b'{"messages": [{"role": "user", "content": "hello"}], "stream": true}'
    found = benchmark_serve.asyncio.run(benchmark_serve._measure(running.url, [body], 8, 1.0, 0.3))
    assert found["answers"] > 0 and found["errors"] == 0 and found["unexpected"] == {}
    assert sum(found["malformed"].values()) > 0 and found["served"][1] > 0
    assert 0 < found["first"][0] <= found["whole"][0] < found["whole"][2] + 1e-9
    assert found["memory"][0] > 1e7
    assert "0 errors" in benchmark_serve.report(found)
    assert httpx.get(f"{running.url}/health").status_code == 200
