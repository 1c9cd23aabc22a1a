"""What is asked in which view, and what counts as right. A stand-in answers, so that nothing is compiled."""

import io

import numpy as np
import pytest
from PIL import Image

from nvlm_jax.config import InputConfig
from nvlm_jax.evaluation import runner
from nvlm_jax.evaluation.question import Question
from nvlm_jax.inputs.batch import Message
from nvlm_jax.inputs.errors import BadSample
from nvlm_jax.inputs.example import ExampleBuilder
from tests.conftest import make_model_config

TILE = 16


def encoded(width: int, height: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def question(number: int, answer: str, *images: bytes) -> Question:
    text = "<image>\nword at [k]?" if images else "repeat FOX."
    return Question(f"q/{number}", "q", "word", "content", (Message("user", text),), images, answer)


@pytest.fixture
def builder() -> ExampleBuilder:
    config = make_model_config("d")
    decoder = config.decoder.__class__(**(vars(config.decoder) | {"vocab_size": 512}))
    return ExampleBuilder(
        InputConfig(tokenizer="nvlm_jax/assets/tiny"), config.__class__(**(vars(config) | {"decoder": decoder}))
    )


@pytest.fixture
def seen(monkeypatch, builder) -> list:
    """Prompts that were asked; every answer is ` FOX `."""
    prompts = []

    class StandIn:
        def __init__(self, model, vocab_size, end_ids, batch_size):
            assert vocab_size == builder.tokenizer.vocab_size
            assert builder.tokenizer.decode(end_ids, skip_special=False) == "<|im_end|>"

        def generate(self, examples, max_new_tokens, progress):
            prompts.extend(examples)
            progress(len(examples))
            return [builder.tokenizer.encode(" FOX ") for _ in examples]

    monkeypatch.setattr(runner, "Generator", StandIn)
    return prompts


def test_each_view_shows_what_it_says(builder, seen):
    page = encoded(3 * TILE, 2 * TILE)
    predictions = runner.evaluate(None, builder, [question(0, "FOX", page), question(1, "FOX")])
    assert [p.view for p in predictions] == ["vision", "vision_blind", "vision_thumbnail", "text"]
    vision, blind, thumbnail, text = seen
    assert len(vision.tiles) == len(blind.tiles) == 7 and len(thumbnail.tiles) == 1 and len(text.tiles) == 0
    np.testing.assert_array_equal(vision.tokens, blind.tokens)
    assert (blind.tiles == runner.GREY).all() and vision.tiles.std() > 10
    np.testing.assert_array_equal(thumbnail.tiles[0], vision.tiles[-1])


def test_an_answer_is_right_if_it_equals_the_expected_text(builder, seen):
    answers = ["FOX", " FOX\n", "fox", "FO", "FOXES"]
    predictions = runner.evaluate(None, builder, [question(i, a) for i, a in enumerate(answers)])
    assert [p.correct for p in predictions] == [True, True, False, False, False]
    assert predictions[0].output == "FOX" and predictions[2].answer == "fox"
    assert [p.id for p in predictions] == [f"q/{i}" for i in range(5)]


def test_progress_counts_predictions_over_chunks(builder, seen, monkeypatch):
    monkeypatch.setattr(runner, "CHUNK", 2)
    counted = []
    page = encoded(TILE, TILE)
    asked = [question(i, "FOX", page) for i in range(3)]
    predictions = runner.evaluate(None, builder, asked, views=("vision", "vision_blind"), progress=counted.append)
    assert counted == [4, 6]
    assert [p.id for p in predictions] == ["q/0", "q/1", "q/2"] * 2


def test_an_unknown_view_is_named(builder):
    with pytest.raises(ValueError, match="views: blurred is none of vision, vision_blind, vision_thumbnail"):
        runner.evaluate(None, builder, [], views=("vision", "blurred"))


def test_an_unreadable_image_names_its_question(builder, seen):
    with pytest.raises(BadSample, match="question 'q/3'"):
        runner.evaluate(None, builder, [question(3, "FOX", b"no image")])
