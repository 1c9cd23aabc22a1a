"""The server in front of a real engine gives what the model gives without it."""

import base64
import concurrent.futures
import dataclasses
import io

import pytest
from PIL import Image

from nvlm_jax.config import InputConfig
from nvlm_jax.pretrained import LoadedModel
from tests.serving.conftest import data_uri, serving
from tests.serving.test_api import client, user
from tests.tiny import make_model, make_model_config


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    config = make_model_config("h")
    config = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, vocab_size=512))
    return LoadedModel(make_model(config, seed=4), InputConfig(tokenizer="nvlm_jax/assets/tiny"))


def test_answers_are_those_of_generate(loaded):
    questions = [("word at [k]?", 40), ("how many?", 20), ("hello", 0)]
    hot = {"temperature": 1.5, "seed": 3}
    with serving(loaded.make_engine(4, 2048), loaded.builder) as running:
        openai = client(running)

        def ask(number: int) -> str:
            text, width = questions[number % 3]
            messages = user(*([data_uri(width)] if width else []), text)
            found = openai.chat.completions.create(model="tiny", messages=messages, max_tokens=10, **hot)
            return found.choices[0].message.content

        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(ask, range(6)))
    assert answers[:3] == answers[3:] and len(set(answers)) == 3
    for (text, width), answer in zip(questions, answers, strict=False):
        images = [picture(width)] if width else []
        assert loaded.generate(text, images, max_new_tokens=10, **hot) == answer


def picture(width: int) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data_uri(width).partition(",")[2])))
