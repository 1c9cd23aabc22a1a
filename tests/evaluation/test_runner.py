"""What is asked in which view, and what counts as right. A stand-in answers, so that nothing is compiled."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from nvlm_jax.config import InputConfig
from nvlm_jax.evaluation import embedded, runner
from nvlm_jax.evaluation.benchmark import Scored, ask
from nvlm_jax.evaluation.question import Prediction, Question
from nvlm_jax.generation.request import Answer
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


def make_builder(**inputs) -> ExampleBuilder:
    config = make_model_config("d")
    decoder = dataclasses.replace(config.decoder, vocab_size=512)
    inputs = InputConfig(tokenizer="nvlm_jax/assets/tiny", **inputs)
    return ExampleBuilder(inputs, dataclasses.replace(config, decoder=decoder))


@pytest.fixture
def builder() -> ExampleBuilder:
    return make_builder()


@pytest.fixture
def batches(monkeypatch, builder) -> list:
    """Prompts that were asked together, with their limit; every answer is ` FOX `, as far as it goes."""
    calls = []

    class StandIn:
        def __init__(self, model, vocab_size, end_ids, slots, tag_tokens):
            assert vocab_size == builder.tokenizer.vocab_size
            assert builder.tokenizer.decode(end_ids, skip_special=False) == "<|im_end|>"

        def answers(self, requests):
            requests = list(requests)
            limits = {request.max_new_tokens for request in requests}
            if requests:
                calls.append(([request.example for request in requests], *limits))
            for i, request in enumerate(requests):
                ids = builder.tokenizer.encode(" FOX ")[: request.max_new_tokens]
                yield [(i, Answer(ids, "length" if len(ids) == request.max_new_tokens else "stop", []))]

    monkeypatch.setattr(runner, "Engine", StandIn)
    return calls


def asked_of(builder, questions, views=runner.IMAGE_VIEWS, benchmark=None, **options) -> list[Prediction]:
    benchmark = benchmark or embedded.benchmark(lambda data: iter(()), tuple(views))
    asker = runner.Asker(None, builder, batch_size=4)
    return [p for answered in asker.ask(benchmark, questions, **options) for _, p in answered]


def test_each_view_shows_what_it_says(builder, batches):
    page = encoded(3 * TILE, 2 * TILE)
    predictions = asked_of(builder, [question(0, "FOX", page), question(1, "FOX")])
    prompts = [example for examples, _ in batches for example in examples]
    seen = {p.view: example for p, example in zip(predictions, prompts, strict=True)}
    assert set(seen) == {"vision", "vision_blind", "vision_thumbnail", "text"}
    vision, blind, thumbnail, text = (seen[view] for view in (*runner.IMAGE_VIEWS, "text"))
    assert len(vision.tiles) == len(blind.tiles) == 7 and len(thumbnail.tiles) == 1 and len(text.tiles) == 0
    np.testing.assert_array_equal(vision.tokens, blind.tokens)
    assert (blind.tiles == runner.GREY).all() and vision.tiles.std() > 10
    np.testing.assert_array_equal(thumbnail.tiles[0], vision.tiles[-1])


def test_an_answer_is_right_if_it_equals_the_expected_text(builder, batches):
    answers = ["FOX", " FOX\n", "fox", "FO", "FOXES"]
    predictions = asked_of(builder, [question(i, a) for i, a in enumerate(answers)])
    predictions = sorted(predictions, key=lambda p: p.id)
    assert [p.correct for p in predictions] == [True, True, False, False, False]
    assert [p.score for p in predictions] == [1, 1, 0, 0, 0]
    assert predictions[0].output == "FOX" and predictions[2].answer == "fox"
    assert [p.id for p in predictions] == [f"q/{i}" for i in range(5)]
    assert all(p.ids == tuple(builder.tokenizer.encode(" FOX ")) and p.seconds > 0 for p in predictions)


def test_questions_on_one_page_follow_each_other_in_chunks(builder, batches, monkeypatch):
    monkeypatch.setattr(runner, "CHUNK", 4)
    questions = [dataclasses.replace(question(i, "FOX"), sample=f"page-{i % 2}") for i in range(6)]
    predictions = asked_of(builder, questions)
    assert [len(examples) for examples, _ in batches] == [4, 2]
    assert [p.id for p in predictions] == ["q/0", "q/2", "q/1", "q/3", "q/4", "q/5"]


def test_what_is_done_is_not_asked_again(builder, batches):
    questions = [question(i, "FOX") for i in range(3)]
    done = {("embedded", "q/1", "text"): questions[1].digest}
    assert [p.id for p in asked_of(builder, questions, done=done)] == ["q/0", "q/2"]
    done = {("embedded", "q/1", "text"): "other words"}
    with pytest.raises(runner.PromptsChanged, match="question 'q/1' of embedded was asked in other words before"):
        asked_of(builder, questions, done=done)


def test_an_answer_without_its_end_is_cut(builder, batches):
    count = len(builder.tokenizer.encode(" FOX "))
    assert [p.cut for p in asked_of(builder, [question(0, "FOX")], max_new_tokens=count)] == [True]
    assert [p.cut for p in asked_of(builder, [question(0, "FOX")], max_new_tokens=count + 1)] == [False]
    assert [p.cut for p in asked_of(builder, [question(0, "FOX")])] == [False] and batches[-1][1] == 32


def test_images_of_one_question_share_its_tiles(builder, batches):
    page = encoded(3 * TILE, 2 * TILE)
    asked_of(builder, [ask("q", "which?", (page, page), "x")], views=("vision",))
    [(example,)] = [examples for examples, _ in batches]
    assert len(example.tiles) == 2 * 3  # of at most 3 tiles each, 2 and the thumbnail


def test_a_template_without_system_turns_gets_none(batches):
    prompt = ask("q", "which?", (), "x", system="You are an owl.")
    plain, chat = make_builder(template="plain"), make_builder()
    asked_of(plain, [prompt])
    asked_of(chat, [prompt])
    texts = [chat.tokenizer.decode(examples[0].tokens.tolist(), skip_special=False) for examples, _ in batches]
    assert "owl" not in texts[0] and "You are an owl." in texts[1]


def test_scores_and_unparsed_answers_are_kept(builder, batches):
    def score(question, output, rule):
        assert (output, rule) == (" FOX ", "mine")
        return Scored(None, 0.0) if question.id == "q/0" else Scored("F", None)

    benchmark = dataclasses.replace(embedded.benchmark(None, ("vision",)), name="other", score=score, rule="mine")
    first, second = asked_of(builder, [question(0, "FOX"), question(1, "FOX")], benchmark=benchmark)
    assert (first.benchmark, first.extraction, first.score, first.correct) == ("other", None, 0.0, False)
    assert (second.extraction, second.score, second.correct) == ("F", None, False)


def test_an_unknown_view_is_named(builder, batches):
    with pytest.raises(ValueError, match="views: blurred is none of vision, vision_blind, vision_thumbnail"):
        asked_of(builder, [], views=("vision", "blurred"))


def test_an_unreadable_image_names_its_question(builder, batches):
    with pytest.raises(BadSample, match="question 'q/3'"):
        asked_of(builder, [question(3, "FOX", b"no image")])


def test_a_judge_is_asked_only_about_what_the_rules_cannot_read(builder, batches):
    class Judge:
        replies = iter(("B", None))
        asked = 0

        def read(self, question, output):
            self.asked += 1
            return next(self.replies)

    def score(question, output, rule):
        return Scored("B", 1.0) if output == "B" or question.id == "q/2" else Scored(None, 0.0)

    judge, base = Judge(), embedded.benchmark(None, ("vision",))
    questions = [question(i, "B") for i in range(3)]
    for allowed in (False, True):
        benchmark = dataclasses.replace(base, score=score, judged=allowed)
        answered = runner.Asker(None, builder, batch_size=4, judge=judge).ask(benchmark, questions)
        found = [(p.extraction, p.score, p.judged) for part in answered for _, p in part]
        assert found[1:] == [(None, 0.0, False), ("B", 1.0, False)]
        assert found[0] == (("B", 1.0, True) if allowed else (None, 0.0, False))
    assert judge.asked == 2
