"""What is asked of the engine, what it answers, and the names under which parts of a prompt can be used again."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from nvlm_jax.generation.sampling import MOST_LOGPROBS, Sampling
from nvlm_jax.generation.store import PAGE
from nvlm_jax.inputs.batch import Example

GREEDY = Sampling()


@dataclasses.dataclass(frozen=True)
class Request:
    """One prompt to be continued."""

    example: Example  # as `ExampleBuilder.prompt` makes them
    max_new_tokens: int  # where an answer is cut if no end token comes
    sampling: Sampling = GREEDY
    logprobs: int | None = None  # None = not wanted; else how many alternatives of each token, 0 to 20
    until: Callable[[Sequence[int]], bool] | None = None  # called with all tokens so far; True ends the answer

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: {self.max_new_tokens}; at least 1")
        if not len(self.example.tokens):
            raise ValueError(f"example {self.example.id!r}: an empty prompt; at least one token")
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_LOGPROBS:
            raise ValueError(f"logprobs: {self.logprobs}; 0 to {MOST_LOGPROBS}")


class TokenLogprob(NamedTuple):
    """A chosen token's log-probability, and the most likely tokens with theirs."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Update(NamedTuple):
    """What became of a request in one round."""

    id: int
    tokens: list[int]  # new ones, without the end token
    logprobs: list[TokenLogprob]  # of the new tokens, where they were asked for
    finish: str  # "" = goes on; stop = end token or `until`; length = max_new_tokens; cancelled


class Answer(NamedTuple):
    """A finished request."""

    tokens: list[int]  # without the end token
    finish: str  # stop | length | cancelled
    logprobs: list[TokenLogprob]


def blank_example(tokens: int, tile_size: int) -> Example:
    """A prompt of so many tokens of id 0, without tiles."""
    zeros = np.zeros(tokens, np.int32)
    tiles, index = np.zeros((0, tile_size, tile_size, 3), np.uint8), np.zeros(0, np.int32)
    weights = np.zeros(tokens, np.float32)
    return Example("blank", zeros, zeros, weights, zeros, tiles, index, index, np.full(tokens, -1, np.int32), zeros)


def tags_of(example: Example) -> np.ndarray:
    """Its `tile_tags`, int32 [t, K], where it has them."""
    return np.zeros((len(example.tiles), 0), np.int32) if example.tile_tags is None else example.tile_tags


def tile_keys(example: Example) -> list[bytes]:
    """A digest of each tile's pixels, number and tag."""
    keys, tags = [], tags_of(example)
    for tile, index, tag in zip(np.ascontiguousarray(example.tiles), example.tile_index, tags, strict=True):
        digest = hashlib.blake2b(int(index).to_bytes(4, "little"), digest_size=16)
        digest.update(tag.tobytes())
        digest.update(tile.data)
        keys.append(digest.digest())
    return keys


def page_keys(example: Example, tiles: Sequence[bytes], answer: Sequence[int] = ()) -> list[bytes]:
    """A digest of each whole page of the prompt and the answer behind it, and of all that stands before.

    Equal digests mean equal keys and values: a token's depend on the tokens before it and on the tiles that those see,
    which are tiles of images that begin before them.
    """
    columns = [np.concatenate([example.tokens, np.asarray(answer, np.int32)])]
    for column, fill in ((example.image_slots, -1), (example.tag_tile, example.tag_tile[-1])):
        columns.append(np.concatenate([column, np.full(len(answer), fill, np.int32)]))
    keys, last, first = [], b"", 0
    for page in range(len(columns[0]) // PAGE):
        digest = hashlib.blake2b(last, digest_size=16)
        for column in columns:
            digest.update(np.ascontiguousarray(column[page * PAGE : (page + 1) * PAGE]).tobytes())
        while first < len(tiles) and example.tile_start[first] < (page + 1) * PAGE:
            digest.update(tiles[first] + int(example.tile_start[first]).to_bytes(4, "little"))
            first += 1
        last = digest.digest()
        keys.append(last)
    return keys
