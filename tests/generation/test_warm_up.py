"""With closed sizes every program is there after the warm-up, and answers are those of an engine without them."""

import itertools

import jax
import numpy as np
import pytest

from nvlm_jax.generation.engine import Engine
from nvlm_jax.generation.request import Answer, Request
from nvlm_jax.generation.sampling import Sampling
from nvlm_jax.generation.shapes import SIZES, Limits, Shapes, closed
from nvlm_jax.generation.warm_up import empty_calls
from tests.generation.test_engine import END, VOCAB, make_model, make_prompt

LIMITS = Limits(tokens=400, tiles=12)
LONGER = Limits(tokens=560, tiles=12)  # two sizes of the past


class Compiled:
    """Counts programs that XLA is asked for, kept on disk or not."""

    def __init__(self):
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._add)

    def _add(self, name: str, *_, **__) -> None:
        self.count += name == "/jax/core/compile/backend_compile_duration"

    def close(self) -> None:
        jax.monitoring.unregister_event_duration_listener(self._add)


@pytest.fixture
def compiled():
    counter = Compiled()
    yield counter
    counter.close()


def make_requests(arch: str) -> list[Request]:
    """Texts and pictures, short and long, greedy and drawn, with log-probabilities and without."""
    images = ([], [1], [6], [], [2, 1], [4, 4, 1], [], [6])
    texts = (3, 20, 5, 380, 100, 30, 150, 60)
    samplings = (Sampling(), Sampling(0.9, seed=4), Sampling(1.2, 0.9, 5, seed=9))
    choices = itertools.cycle(itertools.product(samplings, (None, 3)))
    return [
        Request(make_prompt(arch, list(tiles), text, seed), 9, sampling, logprobs)
        for seed, (tiles, text, (sampling, logprobs)) in enumerate(zip(images, texts, choices, strict=False))
    ]


def same(one: list[Answer], other: list[Answer]) -> bool:
    """The same tokens and alternatives; log-probabilities but for the rounding of sums over other sizes."""
    pairs = list(zip(one, other, strict=True))
    for x, y in ((x, y) for a, b in pairs for x, y in zip(a.logprobs, b.logprobs, strict=True)):
        np.testing.assert_allclose(x.logprob, y.logprob, atol=1e-4)
        assert [token for token, _ in x.top] == [token for token, _ in y.top]
    return all((a.tokens, a.finish) == (b.tokens, b.finish) for a, b in pairs)


@pytest.mark.parametrize(("arch", "limits"), [("d", LONGER), ("x", LIMITS)])
def test_after_the_warm_up_nothing_is_compiled(arch, limits, compiled):
    engine = Engine(make_model(arch), VOCAB, [END], slots=4, cache_tokens=1600, limits=limits)
    progress = list(engine.warm_up())
    assert compiled.count >= len(progress) - 1 and progress == [(n, len(progress) - 1) for n in range(len(progress))]
    compiled.count = 0
    requests = make_requests(arch)
    answers = engine.generate(requests)
    engine.reset()
    engine.check()
    assert same(list(itertools.chain(*(engine.generate([request]) for request in requests))), answers)
    assert compiled.count == 0
    few = [0, 5]
    plain = Engine(make_model(arch), VOCAB, [END], slots=4, cache_tokens=1600)
    assert same(plain.generate([requests[i] for i in few]), [answers[i] for i in few])


def test_what_is_beyond_the_limits_is_refused():
    engine = Engine(make_model("x"), VOCAB, [END], slots=2, cache_tokens=1600, limits=LIMITS)
    for prompt in (make_prompt("x", [], 395, 0), make_prompt("x", [6, 6], 5, 0)):
        with pytest.raises(ValueError, match="at most 400 and 12"):
            engine.submit(Request(prompt, 9))
    with pytest.raises(ValueError, match="limits: need cache_tokens"):
        Engine(make_model("x"), VOCAB, [END], limits=LIMITS)
    with pytest.raises(ValueError, match="no limits"):
        next(Engine(make_model("x"), VOCAB, [END]).warm_up())


def test_the_closed_set_is_small_at_every_size():
    assert closed(Limits(9216, 56), 16, cross=True) == Shapes(((8, 8), (64, 8), (577, 8), (577, 56)))
    assert closed(Limits(100, 3), 16, cross=True) == Shapes(((8, 3),))
    assert closed(Limits(100, 3), 16, cross=False) == Shapes(((8, 0),))
    assert closed(Limits(131072, 56), 32, cross=False) == Shapes(((8, 0), (64, 0), (512, 0), (8194, 0)))
    for arch, programs in (("d", 17), ("x", 22)):
        config = make_model(arch).config
        shapes = closed(Limits(9216, 56), 16, cross=arch == "x")
        assert len(empty_calls(config, shapes, SIZES["cpu"], 32, 56)) == programs
