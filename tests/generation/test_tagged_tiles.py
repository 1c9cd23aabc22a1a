"""Cached decoding with tagged tiles against the full forward pass."""

import numpy as np
import pytest

from nvlm_jax.config import CROSS_TAGS
from nvlm_jax.generation.engine import Engine
from nvlm_jax.generation.request import tile_keys
from nvlm_jax.inputs.batch import THUMBNAIL
from tests.generation import test_engine as engines

ROOM, NEW = 3, 6


def tagged(prompt, seed: int = 0):
    """The prompt with a tag of two or three tokens for each regular tile."""
    ids = np.random.default_rng(seed).integers(8, engines.VOCAB, (len(prompt.tiles), ROOM)).astype(np.int32)
    ids[::2, -1] = -1
    ids[prompt.tile_index == THUMBNAIL] = -1
    return prompt._replace(tile_tags=ids)


@pytest.mark.parametrize("how", CROSS_TAGS[1:])
def test_cached_greedy_decoding_equals_the_full_forward(how, monkeypatch):
    pack = engines.pack_batch
    monkeypatch.setattr(engines, "pack_batch", lambda *arguments: pack(*arguments, ROOM))
    model = engines.make_model("h", how)
    prompts = [tagged(engines.make_prompt("h", images, 6, seed)) for seed, images in enumerate([[6], [2, 1, 3]])]
    prompts += [engines.make_prompt("h", [], 9, 7)]  # text alone bears no tags
    expected = engines.uncached_greedy(model, prompts, NEW)
    engine = Engine(model, engines.VOCAB, [engines.END], slots=4, cache_tokens=1600)
    assert engines.ask(engine, prompts, NEW) == expected
    others = [tagged(prompt, 1) for prompt in prompts[:2]]
    if how != "positions":  # the answers depend on the tags, so the comparison can fail
        assert engines.uncached_greedy(model, others, NEW) != expected[:2]
    assert engines.ask(engine, others, NEW) == engines.uncached_greedy(model, others, NEW)


def test_the_same_pixels_with_another_tag_are_another_tile():
    prompt = tagged(engines.make_prompt("h", [6], 6, 0))
    same, other = tile_keys(prompt), tile_keys(tagged(prompt, 1))
    assert all(a != b for a, b in zip(same[:6], other[:6], strict=True)) and same[6] == other[6]


def test_longer_tags_make_room_for_themselves(monkeypatch):
    """As of a benchmark with more tiles than the others: what was seen before stays."""
    pack = engines.pack_batch
    monkeypatch.setattr(engines, "pack_batch", lambda *arguments: pack(*arguments, ROOM + 2))
    model = engines.make_model("h", "joined")
    short = tagged(engines.make_prompt("h", [6], 6, 0))
    ids = np.random.default_rng(3).integers(8, engines.VOCAB, (7, ROOM + 2)).astype(np.int32)
    long = short._replace(tile_tags=np.where(short.tile_index[:, None] == THUMBNAIL, -1, ids))
    engine = Engine(model, engines.VOCAB, [engines.END], slots=4, cache_tokens=1600, tag_tokens=1)
    expected = engines.uncached_greedy(model, [short, long], NEW)
    assert expected[0] != expected[1]
    assert [engines.ask(engine, [prompt], NEW)[0] for prompt in (short, long)] == expected
    assert engines.ask(engine, [short], NEW) == expected[:1]
