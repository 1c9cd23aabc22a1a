"""The server in front of a real engine gives what the model gives without it."""

import base64
import concurrent.futures
import dataclasses
import io
import json

import httpx
import pytest
from PIL import Image

from nvlm_jax.config import InputConfig
from nvlm_jax.generation import engine as engine_module
from nvlm_jax.generation.engine import Engine
from nvlm_jax.pretrained import LoadedModel
from tests.generation.test_warm_up import Compiled
from tests.serving.conftest import data_uri, serving
from tests.serving.test_api import client, user
from tests.tiny import make_model, make_model_config


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    config = make_model_config("h")
    config = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, vocab_size=512))
    return LoadedModel(make_model(config, seed=4), InputConfig(tokenizer="nvlm_jax/assets/tiny"))


def test_answers_are_those_of_generate_and_after_the_warm_up_nothing_is_compiled(loaded):
    questions = [("word at [k]?", 40), ("how many?", 20), ("hello", 0)]
    hot = {"temperature": 1.5, "seed": 3}
    engine, compiled = loaded.make_engine(4, 2048, longest=600), Compiled()
    with serving(engine, loaded.builder, warm_up=engine.warm_up, image_urls=True) as running:
        openai = client(running)
        running.wait_for(lambda: running.client.get("/health").status_code == 200, 120)
        assert compiled.count >= running.server.worker.progress[0] == running.server.worker.progress[1] > 0
        compiled.count = 0

        def ask(number: int) -> str:
            text, width = questions[number % 3]
            messages = user(*([data_uri(width)] if width else []), text)
            found = openai.chat.completions.create(model="tiny", messages=messages, max_tokens=10, **hot)
            return found.choices[0].message.content

        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(ask, range(6)))
        for options in ({"logprobs": True, "top_logprobs": 5}, {"top_k": 3, "top_p": 0.5, **hot}, {"stop": ["a", "e"]}):
            for parts in (["one", data_uri(20, 20)], ["two", *[data_uri(90, 30)] * 3], ["three " * 80]):
                reply = running.post({"messages": user(*parts), "max_tokens": 20, **options})
                assert reply.status_code == 200, reply.text
        assert compiled.count == 0
    compiled.close()
    assert answers[:3] == answers[3:] and len(set(answers)) == 3
    for (text, width), answer in zip(questions, answers, strict=False):
        images = [picture(width)] if width else []
        assert loaded.generate(text, images, max_new_tokens=10, **hot) == answer


def picture(width: int) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data_uri(width).partition(",")[2])))


@pytest.mark.parametrize("place", ["sampling", "admission", "until", "tiles"])
def test_a_request_that_fails_ends_alone_and_the_others_go_on_where_they_were(loaded, monkeypatch, place):
    """Wherever it fails; and those that were decoded beside it get the answers that they get alone."""
    marked = 13
    engine = loaded.make_engine(4, 2048)
    if place == "sampling":
        break_for(monkeypatch, engine_module, "draws_of", lambda samplings, *_: marked in [s.seed for s in samplings])
    elif place == "admission":
        break_for(monkeypatch, Engine, "_work", lambda _, request: request.sampling.seed == marked)
    elif place == "until":
        break_for(monkeypatch, Engine, "_update", lambda _, work, __: work.request.sampling.seed == marked)
    else:
        seeds = lambda works: [work.request.sampling.seed for work in works]  # noqa: E731
        break_for(monkeypatch, engine_module, "cross_tiles", lambda works, *_: marked in seeds(works))
    texts = ["word at [k]?", "how many?", "hello", "what?", "where?", "who?"]
    with serving(engine, loaded.builder) as running:

        def ask(number: int):
            body = {"messages": user(texts[number]), "max_tokens": 40, "temperature": 1.5, "seed": 10 + number}
            return running.post(body | {"stream": number % 2 == 0})

        for _ in range(2):
            with concurrent.futures.ThreadPoolExecutor(6) as pool:
                replies = list(pool.map(ask, range(6)))
            assert [reply.status_code for reply in replies] == [200, 200, 200, 500, 200, 200]
            assert replies[3].json()["error"]["code"] == "internal_error"
            for number in (0, 1, 2, 4, 5):
                assert said(replies[number]) == loaded.generate(
                    texts[number], max_new_tokens=40, temperature=1.5, seed=10 + number
                )
        assert httpx.get(f"{running.url}/health").json()["status"] == "ok"


def test_numbers_at_their_limits_leave_the_engine_alive(loaded):
    with serving(loaded.make_engine(2, 1024), loaded.builder) as running:
        for numbers in (
            {"top_k": 2**31 - 1},
            {"top_k": 2**31},
            {"top_p": 1e-300, "seed": -(2**63)},
            {"temperature": 1e-300, "seed": 2**63 - 1},
            {"temperature": 2, "top_k": 1, "top_p": 5e-324},
        ):
            status = running.post({"messages": user("hello"), "max_tokens": 3, "temperature": 1} | numbers).status_code
            assert status == (400 if numbers.get("top_k") == 2**31 else 200)


def break_for(monkeypatch, owner, name: str, faulty) -> None:
    """Let a function fail for some arguments."""
    real = getattr(owner, name)

    def broken(*arguments, **named):
        if faulty(*arguments, **named):
            raise OverflowError("injected")
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, broken)


def said(reply) -> str:
    """The text of a whole answer or of a stream."""
    if "event-stream" not in reply.headers["content-type"]:
        return reply.json()["choices"][0]["message"]["content"]
    events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    return "".join(event["choices"][0]["delta"].get("content", "") for event in events)
