"""Digests of pages: equal where keys and values are equal, and only there."""

import numpy as np

from nvlm_jax.generation.request import page_keys, tile_keys
from tests.generation.test_engine import continued, make_prompt


def keys(example, answer=()):
    return page_keys(example, tile_keys(example), answer)


def same(a: list[bytes], b: list[bytes]) -> int:
    """How many pages at the beginning are equal; none behind the first that differs may be."""
    equal = [x == y for x, y in zip(a, b, strict=False)]
    assert equal == sorted(equal, reverse=True)
    return sum(equal)


def test_pages_differ_from_the_first_token_or_picture_that_does():
    prompt = make_prompt("d", [2, 1], 20, 0)
    whole = keys(prompt)
    assert len(whole) == len(prompt.tokens) // 16 and len(set(whole)) == len(whole)
    assert same(keys(prompt), whole) == len(whole)
    for place in (0, 17, 40):
        tokens = prompt.tokens.copy()
        tokens[place] += 1
        assert same(keys(prompt._replace(tokens=tokens)), whole) == place // 16
    for tile in range(len(prompt.tiles)):
        tiles = prompt.tiles.copy()
        tiles[tile, 0, 0, 0] ^= 1
        assert same(keys(prompt._replace(tiles=tiles)), whole) == prompt.tile_start[tile] // 16
    starts = prompt.tile_start + 1
    assert same(keys(prompt._replace(tile_start=starts)), whole) == prompt.tile_start[0] // 16
    tags = np.where(prompt.tag_tile == 2, 1, prompt.tag_tile)
    assert same(keys(prompt._replace(tag_tile=tags)), whole) < len(whole)


def test_an_answer_has_the_digests_that_it_has_as_part_of_a_prompt():
    prompt, answer = make_prompt("x", [2], 20, 0), list(range(8, 40))
    assert keys(prompt, answer) == keys(continued(prompt, answer))
