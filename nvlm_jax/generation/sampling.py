"""How a request picks its tokens: greedy, or drawn by temperature, top-k and top-p."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MOST_LOGPROBS = 20  # alternatives of a token that can be asked for, as in OpenAI's API


@dataclasses.dataclass(frozen=True)
class Sampling:
    """The default is greedy, which is what every benchmark of the paper uses.

    A request's draws depend on its own seed alone, not on the requests that are decoded beside it.
    """

    temperature: float = 0.0  # 0 = greedy
    top_p: float = 1.0  # draw from the fewest tokens that hold this much probability
    top_k: int = 0  # draw from so many of the most likely tokens; 0 = all
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature: {self.temperature}; 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: {self.top_p}; above 0 and at most 1")
        if self.top_k < 0:
            raise ValueError(f"top_k: {self.top_k}; 0 (all tokens) or more")


class Draws(NamedTuple):
    """The samplings of a batch's rows, and how many tokens each has chosen before."""

    temperature: np.ndarray  # float32 [B]
    top_p: np.ndarray  # float32 [B]
    top_k: np.ndarray  # int32 [B]
    seed: np.ndarray  # uint32 [B]
    count: np.ndarray  # int32 [B]
    logprobs: np.ndarray  # bool [B], whether log-probabilities are asked for


class Chosen(NamedTuple):
    """One token a row. Log-probabilities are the model's own, at temperature 1."""

    token: jax.Array  # int32 [B]
    logprob: jax.Array  # float32 [B]
    top_tokens: jax.Array  # int32 [B, n], the most likely ones
    top_logprobs: jax.Array  # float32 [B, n]


def draws_of(samplings: Sequence[Sampling], counts: Sequence[int], rows: int, logprobs: bool = False) -> Draws:
    """Arrays of `rows` rows, those behind the given ones greedy; `logprobs`: they are asked for."""
    samplings = [*samplings, *[Sampling()] * (rows - len(samplings))]
    return Draws(
        np.asarray([s.temperature for s in samplings], np.float32),
        np.asarray([s.top_p for s in samplings], np.float32),
        np.asarray([min(s.top_k, 2**31 - 1) for s in samplings], np.int32),
        np.asarray([s.seed % 2**32 for s in samplings], np.uint32),
        np.asarray([*counts, *[0] * (rows - len(counts))], np.int32),
        np.full(rows, logprobs),
    )


def choose(logits: jax.Array, draws: Draws, vocab_size: int, greedy: bool | None, alternatives: int) -> Chosen:
    """Choose each row's next token.

    Args:
        logits: float32 [B, V].
        draws: how.
        vocab_size: ids from here on never win: rows of a table that is longer than its tokenizer.
        greedy: every row is; nothing is drawn. None = `draws` says so, and what is to be told, when the program runs:
            one program for all, which computes what is asked of it.
        alternatives: n, the most likely tokens that are told; 0 leaves log-probabilities at 0.
    """
    ids = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    logits = jnp.where(ids < vocab_size, logits, -jnp.inf)
    # In two reductions, which XLA turns into vector instructions on CPUs: `argmax` takes ten times as long.
    token = jnp.where(logits == logits.max(axis=-1, keepdims=True), ids, vocab_size - 1).min(axis=-1)

    def drawn() -> jax.Array:
        return jnp.where(jnp.asarray(draws.temperature) > 0, jax.vmap(_draw)(logits, draws), token)

    if greedy is None:
        token = jax.lax.cond(jnp.any(jnp.asarray(draws.temperature) > 0), drawn, lambda: token)
    elif not greedy:
        token = drawn()
    rows, count = len(token), min(alternatives, vocab_size)

    def without() -> Chosen:
        empty = jnp.zeros((rows, count))
        return Chosen(token, jnp.zeros(rows), empty.astype(jnp.int32), empty)

    def with_logprobs() -> Chosen:
        logprobs = jax.nn.log_softmax(logits, axis=-1)
        top_logprobs, top_tokens = jax.lax.top_k(logprobs, count)
        own = jnp.take_along_axis(logprobs, token[:, None], axis=-1)[:, 0]
        return Chosen(token, own, top_tokens.astype(jnp.int32), top_logprobs)

    if not alternatives:
        return without()
    if greedy is not None:
        return with_logprobs()
    return jax.lax.cond(jnp.any(jnp.asarray(draws.logprobs)), with_logprobs, without)


def _draw(logits: jax.Array, draws: Draws) -> jax.Array:
    """One token from float32 [V]; `draws` holds scalars."""
    scaled = logits / jnp.maximum(draws.temperature, 1e-6)
    order = jnp.argsort(-scaled)
    ranked = scaled[order]
    allowed = (draws.top_k == 0) | (jnp.arange(len(ranked)) < draws.top_k)
    ranked = jnp.where(allowed, ranked, -jnp.inf)
    share = jax.nn.softmax(ranked)
    before = jnp.cumsum(share) - share
    kept = jnp.where(before < draws.top_p, ranked, -jnp.inf)
    key = jax.random.fold_in(jax.random.key(draws.seed), draws.count)
    return order[jax.random.categorical(key, kept)].astype(jnp.int32)
