"""The order in which many requests begin."""

import numpy as np
import pytest

from nvlm_jax.generation.request import Request, page_keys
from nvlm_jax.generation.store import PAGE
from nvlm_jax.generation.work import Work, longest_first
from nvlm_jax.inputs.batch import Example


def make_work(id: int, tokens: list[int]) -> Work:
    none, nothing = np.zeros(0, np.int32), np.full(len(tokens), -1, np.int32)
    row, tiles = np.asarray(tokens, np.int32), np.zeros((0, 4, 4, 3), np.uint8)
    example = Example(str(id), row, row * 0, row * 0.0, row * 0, tiles, none, none, nothing, row * 0)
    return Work(id, Request(example, 1), [], page_keys(example, []))


def order(prompts: list[list[int]]) -> list[int]:
    return [work.id for work in longest_first(make_work(i, tokens) for i, tokens in enumerate(prompts))]


def test_the_longest_begin_and_equals_keep_their_order():
    assert order([[1] * 20, [2] * 70, [3] * 20, [4] * 50]) == [1, 3, 0, 2]
    assert order([]) == []
    assert order([[1] * 3, [2] * 5, [3] * 4]) == [1, 2, 0]  # none fills a page


@pytest.mark.parametrize(("common", "together"), [(2 * PAGE, True), (2 * PAGE - 1, False)])
def test_prompts_with_half_in_common_stay_together(common, together):
    page = list(range(common))
    first, second = ([*page, *[own] * (4 * PAGE - common - short)] for own, short in ((91, 0), (92, 4)))
    between = [7] * (4 * PAGE - 2)
    # Alone the third would come between the other two.
    assert order([first, second, between]) == ([0, 1, 2] if together else [0, 2, 1])
