"""The API as OpenAI's own client sees it, and what it answers to those who send something else."""

import base64
import concurrent.futures
import io
import json
import re
import struct
import zlib

import httpx
import openai
import pytest

from nvlm_jax.inputs.batch import Message
from tests.inputs.test_token_bytes import llama_like
from tests.serving.conftest import TEXT, data_uri


def client(running, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0)


def user(*parts) -> list[dict]:
    """One user's message of texts and picture URLs."""
    content = [
        {"type": "image_url", "image_url": {"url": part}} if ":" in part[:6] else {"type": "text", "text": part}
        for part in parts
    ]
    return [{"role": "user", "content": content}]


def test_the_openai_client_gets_a_whole_answer(serve):
    running = serve()
    messages = [{"role": "system", "content": "You see <image>s."}, *user(data_uri(), "word at [k]?")]
    found = client(running).chat.completions.create(model="tiny", messages=messages, seed=5, temperature=0.5)
    assert found.choices[0].message.content == TEXT and found.choices[0].finish_reason == "stop"
    [request] = running.engine.requests
    assert len(request.example.tiles) == 3 and request.sampling.seed == 5 and request.sampling.temperature == 0.5
    usage = found.usage
    assert usage.prompt_tokens == len(request.example.tokens) and usage.completion_tokens > 5
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert [model.id for model in client(running).models.list()] == ["tiny"]


def test_the_openai_client_gets_a_stream(serve):
    running = serve()
    stream = client(running).chat.completions.create(
        model="tiny", messages=user("hello"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant" and len({chunk.id for chunk in chunks}) == 1
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == TEXT and len([piece for piece in pieces if piece]) > 3
    assert chunks[-2].choices[0].finish_reason == "stop" and chunks[-1].usage.completion_tokens > 5


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_limits_and_stop_strings(serve, stream):
    running = serve()
    ask = client(running).chat.completions.create
    found = ask(model="tiny", messages=user("hi"), logprobs=True, top_logprobs=2, max_tokens=3, stream=stream)
    choices = [chunk.choices[0] for chunk in found] if stream else [found.choices[0]]
    told = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]
    assert len(told) == 3 and all(len(token.top_logprobs) == 2 and token.logprob == -0.5 for token in told)
    assert TEXT.startswith("".join(bytes(token.bytes).decode() for token in told))
    assert choices[-1].finish_reason == "length"
    cut = ask(model="tiny", messages=user("hi"), stop=["lazy", "fox j"], stream=stream)
    choices = [chunk.choices[0] for chunk in cut] if stream else [cut.choices[0]]
    text = "".join(c.delta.content or "" for c in choices) if stream else choices[0].message.content
    assert text == " the quick brown " and choices[-1].finish_reason == "stop"


def png(width: int, height: int) -> str:
    """A PNG that claims to be so large, in a few bytes."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    content = io.BytesIO(b"")
    content.write(b"\x89PNG\r\n\x1a\n")
    for name, data in chunks:
        content.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


PIECE = {"type": "text", "text": "what?"}
HELLO = [{"role": "user", "content": "hello"}]
PART = "messages.0.content.0"
URL = "messages.0.content.0.image_url.url"
# Body, status, param, code, a part of the message.
MALFORMED = {
    "bad json": (b'{"messages": [', 400, None, "invalid_json", "the body is no JSON"),
    "no object": (b"[1]", 400, None, "invalid_value", "body"),
    "no messages": ({}, 400, "messages", "invalid_value", "Field required"),
    "empty messages": ({"messages": []}, 400, "messages", "invalid_value", "at least 1"),
    "wrong role": ({"messages": [{"role": "owl", "content": "x"}]}, 400, "messages.0.role", "invalid_value", "'user'"),
    "ends with an answer": (
        {"messages": [*HELLO, {"role": "assistant", "content": "hi"}]}, 400, "messages", "bad_role", "ends in a"),
    "late system": (
        {"messages": [*HELLO, {"role": "system", "content": "x"}]}, 400, "messages", "bad_role", "first message"),
    "empty text": ({"messages": [{"role": "user", "content": " "}]}, 400, "messages", "empty_text", "at least one"),
    "number as text": (
        {"messages": [{"role": "user", "content": 5}]}, 400, "messages.0.content", "invalid_value", "valid string"),
    "unknown part": (
        {"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, 400, PART, "invalid_value", "'image_url'"),
    "picture of the assistant": (
        {"messages": [{"role": "assistant", "content": user("data:x")[0]["content"]}, *HELLO]},
        400, "messages.0.content.0", None, "users' alone"),
    "bad base64": (
        {"messages": user("data:image/png;base64,@@@")}, 400, URL, "invalid_base64", ""),
    "no base64": (
        {"messages": user("data:image/png,abc")}, 400, URL, "invalid_image_url", ""),
    "no picture": (
        {"messages": user("data:image/png;base64,AAAA")}, 400, "messages", "unreadable_image", ""),
    "bomb": ({"messages": user(png(60000, 60000))}, 400, "messages", "image_too_large", "pixels"),
    "web address": (
        {"messages": user("http://x.org/a.png")}, 400, URL, "invalid_image_url",
        "without --image_urls"),
    "long prompt": (
        {"messages": user("owl " * 10000)}, 400, "messages", "context_length_exceeded", "at most 1000"),
    "no room in the cache": (
        {"messages": user("owl " * 300)}, 400, "messages", "context_length_exceeded", "the cache holds"),
    "negative limit": ({"messages": HELLO, "max_tokens": -1}, 400, "max_tokens", "invalid_value", "greater than"),
    "large limit": (
        {"messages": HELLO, "max_completion_tokens": 10**6}, 400, "max_completion_tokens", "invalid_value", "at most"),
    "text as limit": ({"messages": HELLO, "max_tokens": "5"}, 400, "max_tokens", "invalid_value", "valid integer"),
    "hot": ({"messages": HELLO, "temperature": 3}, 400, "temperature", "invalid_value", "less than or equal to 2"),
    "nan": (b'{"messages": [{"role": "user", "content": "x"}], "top_p": NaN}', 400, None, None, ""),
    "top_p": ({"messages": HELLO, "top_p": 0}, 400, "top_p", "invalid_value", "greater than 0"),
    "two answers": ({"messages": HELLO, "n": 2}, 400, "n", "invalid_value", "1"),
    "tools": ({"messages": HELLO, "tools": [{}]}, 400, "tools", "invalid_value", "not served"),
    "json answers": (
        {"messages": HELLO, "response_format": {"type": "json_object"}}, 400, "response_format", "invalid_value", ""),
    "empty stop": ({"messages": HELLO, "stop": ""}, 400, "stop", "invalid_value", "none of them empty"),
    "alternatives alone": ({"messages": HELLO, "top_logprobs": 2}, 400, "top_logprobs", "invalid_value", "logprobs"),
    **{
        f"{field} {value}": (
            b'{"messages": [{"role": "user", "content": "x"}], "%s": %s}' % (field.encode(), value.encode()),
            400, field, "invalid_value", "")
        for field, values in {
            "top_k": ("2147483648", "-2", "1e400", "true", "1.5", "1" * 5000),
            "temperature": ("1e400", "-1e-9", "NaN", "-Infinity", "true", '"1"'),
            "top_p": ("1e400", "1.0001", "NaN", "true"),
            "seed": ("9223372036854775808", "-9223372036854775809", "1e3", "false", "9" * 5000),
            "max_tokens": ("0", "2147483648", "1e400", "true"),
            "max_completion_tokens": ("0", "2147483648", "1.5"),
            "logprobs": ("1", "2"),
            "n": ("0", "2", "true", '"1"'),
            "stop": ('["a", "b", "c", "d", "e"]', '"%s"' % ("x" * 1001), "[null]", "[5]"),
            "repetition_penalty": ("1.1", "0"),
            "frequency_penalty": ("0.5", '"0"', "1e400"),
            "presence_penalty": ("-0.5",),
            "length_penalty": ("2",),
            "logit_bias": ('{"5": 1}',),
            "min_tokens": ("1", "true"),
            "min_p": ("0.1",),
            "best_of": ("2",),
            "stop_token_ids": ("[5]",),
            "ignore_eos": ("true",),
            "tools": ("[{}]",),
            "tool_choice": ('"required"',),
            "functions": ("[{}]",),
            "reasoning_effort": ('"high"',),
            "guided_json": ("{}",),
            "stream_options": ('{"include_usage": true}',),
            "anything": ("1", '""', "[]"),
        }.items()
        for value in values
    },
    "many alternatives": (
        {"messages": HELLO, "logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", "invalid_value", "20"),
    "unserved in a message": (
        {"messages": [HELLO[0] | {"tool_calls": [{}]}]}, 400, "messages.0.tool_calls", "invalid_value", "not served"),
    "unserved in a part": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "size": 2}]}]},
        400, f"{PART}.size", "invalid_value", "not served"),
    "unknown detail": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x", "detail": "5"}}]}]},
        400, f"{PART}.image_url.detail", "invalid_value", "'low'"),
    "no content": ({"messages": [{"role": "user"}]}, 400, "messages.0.content", "invalid_value", "Field required"),
    "null content": (
        {"messages": [{"role": "user", "content": None}]}, 400, "messages.0.content", "invalid_value", ""),
    "surrogate": (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, None, "invalid_json", "no JSON"),
    "deep": (b'{"messages": ' + b"[" * 100_000, 400, None, "invalid_json", "recursion"),
    "many values": (b'{"messages": [' + b"[]," * 600_000, 400, None, "invalid_json", "more than 1,000,000 values"),
    "many pictures": ({"messages": user(*["data:image/png;base64,AAAA"] * 9)}, 400, "messages", "too_many_images", "8"),
    "many characters": (
        {"messages": user("x" * 16_001)}, 400, "messages", "context_length_exceeded", "16,001 characters"),
    "other model": ({"messages": HELLO, "model": "gpt"}, 404, "model", "model_not_found", "'tiny' is"),
}  # fmt: skip


def test_each_malformed_request_is_refused_with_its_reason_and_harms_no_other(serve):
    running = serve(max_prompt_tokens=1000)

    def send(case: str | None):
        if case is None:
            return running.post({"messages": HELLO})
        body = MALFORMED[case][0]
        return running.post(**({"content": body} if isinstance(body, bytes) else {"body": body}))

    cases = [case for name in MALFORMED for case in (name, None)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(send, cases))
    for case, reply in zip(cases, replies, strict=True):
        if case is None:
            assert reply.status_code == 200 and reply.json()["choices"][0]["message"]["content"] == TEXT
            continue
        _, status, param, code, part = MALFORMED[case]
        error = reply.json()["error"]
        assert (reply.status_code, set(error)) == (status, {"message", "type", "param", "code"}), (case, reply.text)
        assert part in error["message"] and (code is None or error["code"] == code), (case, error)
        assert param is None or error["param"] == param, (case, error)
        assert error["type"] == ("invalid_request_error" if status == 400 else "not_found_error")
    running.wait_for(lambda: running.server.worker.pending == 0)
    counted = httpx.get(f"{running.url}/metrics").text
    assert f'nvlm_requests_total{{status="400"}} {len(MALFORMED) - 1}.0' in counted
    assert f'nvlm_requests_total{{status="200"}} {len(MALFORMED)}.0' in counted
    assert "nvlm_first_token_seconds_bucket" in counted and "nvlm_pending_requests 0.0" in counted


def picture(image_url) -> dict:
    """A request with a picture."""
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": image_url}, PIECE]}]}


ANSWERED = {
    "empty system text": {"messages": [{"role": "system", "content": ""}, *HELLO]},
    "blank developer text": {"messages": [{"role": "developer", "content": " "}, *HELLO]},
    "empty answer": {"messages": [*HELLO, {"role": "assistant", "content": ""}, *HELLO]},
    "null answer": {"messages": [*HELLO, {"role": "assistant", "content": None, "tool_calls": None}, *HELLO]},
    "no answer": {"messages": [*HELLO, {"role": "assistant", "refusal": None, "annotations": []}, *HELLO]},
    "a name": {"messages": [HELLO[0] | {"name": "me"}]},
    "bare address": picture(data_uri()),
    "null detail": picture({"url": data_uri(), "detail": None}),
    "line breaks": {"messages": user(data_uri().replace("A", "A\r\n "), "what?")},
    "percent signs": {"messages": user(data_uri().replace("=", "%3D").replace("+", "%2B"), "what?")},
    "no padding": {"messages": user(data_uri().rstrip("="), "what?")},
    "a parameter": {"messages": user(data_uri().replace("png;", "png;name=a.png;"), "what?")},
    "all null": {"messages": HELLO}
    | dict.fromkeys(
        ("model", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "stream", "stream_options", "logprobs")
    )
    | dict.fromkeys(("top_logprobs", "n", "tools", "response_format", "logit_bias", "min_tokens", "anything")),
    "neutral": {"messages": HELLO, "n": 1, "logit_bias": {}, "min_tokens": 0, "repetition_penalty": 1.0, "tools": []}
    | {"frequency_penalty": 0, "presence_penalty": 0.0, "response_format": {"type": "text"}, "tool_choice": "auto"},
    "bookkeeping": {"messages": HELLO, "user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
    "all tokens": {"messages": HELLO, "temperature": 1, "top_k": -1, "seed": -(2**63), "top_p": 1e-300},
    "most": {"messages": HELLO, "temperature": 1, "top_k": 2**31 - 1, "seed": 2**63 - 1},
    "long stop": {"messages": HELLO, "stop": "x" * 1000},
    "no stop": {"messages": HELLO, "stop": []},
}


def test_what_clients_send_is_answered(serve):
    running = serve()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        replies = dict(zip(ANSWERED, pool.map(running.post, ANSWERED.values()), strict=True))
    for case, reply in replies.items():
        assert reply.status_code == 200, (case, reply.text)
        assert reply.json()["choices"][0]["message"]["content"] == TEXT, case
    tiles = [len(request.example.tiles) for request in running.engine.requests]
    assert sorted(set(tiles)) == [0, 3] and tiles.count(3) == 6


def test_an_empty_system_text_stands_in_the_prompt(builder):
    """As the template writes it; it is not the default one."""
    empty = builder.prompt([Message("system", ""), Message("user", "hello")])
    begin = builder.tokenizer.decode(empty.tokens.tolist(), skip_special=False)
    assert begin.startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user\nhello<|im_end|>")


SPLIT = "é\u2028 größer\u2029 狐 \x85🦊"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["byte level", "strip", "metaspace"])
def test_the_bytes_of_all_tokens_are_the_text(serve, tmp_path, monkeypatch, kind, stream):
    running = serve()
    if kind != "byte level":
        monkeypatch.setattr(running.server.builder, "tokenizer", llama_like(tmp_path, kind))
    running.engine.say(running.server.builder.tokenizer.encode(SPLIT))
    body = {"messages": HELLO, "logprobs": True, "top_logprobs": 1, "stream": stream}
    reply = running.post(body)
    if stream:
        assert reply.text.isascii()  # U+2028 and others would end a line for some
        events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
        choices = [event["choices"][0] for event in events]
        text = "".join(choice["delta"].get("content", "") for choice in choices)
        tokens = [token for choice in choices for token in (choice["logprobs"] or {"content": []})["content"]]
    else:
        choice = reply.json()["choices"][0]
        text, tokens = choice["message"]["content"], choice["logprobs"]["content"]
    assert text == SPLIT
    assert b"".join(bytes(token["bytes"]) for token in tokens) == SPLIT.encode()
    assert [195] in [token["bytes"] for token in tokens]


@pytest.mark.parametrize("stream", [False, True])
def test_no_logprobs_are_told_of_what_a_stop_string_cuts_off(serve, stream):
    reply = serve().post({"messages": HELLO, "logprobs": True, "stop": "fox", "stream": stream})
    found = re.findall(r'"bytes":\s*(\[[^]]*\])', reply.text)
    assert b"".join(bytes(json.loads(part)) for part in found) == b" the quick brown "


def test_unknown_paths_and_methods_are_refused_in_the_same_form(serve):
    running = serve()
    for method, path, status in (("GET", "/v1/x", 404), ("GET", "/v1/chat/completions", 405)):
        reply = httpx.request(method, running.url + path)
        assert reply.status_code == status and path in reply.json()["error"]["message"]
    page = httpx.get(running.url)
    assert page.status_code == 200 and "v1/chat/completions" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_a_key_is_needed_where_the_server_has_some(serve):
    running = serve(keys=("right", "other"))
    for key in ("wrong", "", "rightx"):
        with pytest.raises((openai.AuthenticationError, openai.OpenAIError)):
            client(running, key or " ").chat.completions.create(model="tiny", messages=HELLO)
        assert running.post({"messages": HELLO}, headers={"Authorization": f"Bearer {key}x"}).status_code == 401
    refused = running.post({"messages": HELLO})
    assert refused.status_code == 401 and refused.json()["error"]["code"] == "invalid_api_key"
    assert httpx.get(f"{running.url}/v1/models").status_code == 401
    assert httpx.get(f"{running.url}/health").json()["status"] == "ok"
    for key in ("right", "other"):
        assert client(running, key).chat.completions.create(model="tiny", messages=HELLO).choices
    assert len(running.engine.requests) == 2


def test_bodies_have_a_size_and_a_time(serve):
    running = serve(max_body_bytes=2000, body_seconds=0.2)
    large = json.dumps({"messages": user("x" * 3000)}).encode()

    def slowly():
        import time

        yield b'{"messages": '
        time.sleep(0.5)
        yield b"[]}"

    for content, status in ((large, 413), (iter([large[:1500], large[1500:]]), 413), (slowly(), 408)):
        reply = running.post(content=content)
        assert reply.status_code == status and reply.json()["error"]["message"]
    assert running.post({"messages": HELLO}).status_code == 200
