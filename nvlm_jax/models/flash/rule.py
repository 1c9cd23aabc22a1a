"""Who sees whom, in integers a token, and which blocks of queries and keys meet at all.

    visible(q, k)  =  q.segment == k.segment  and  k.index <= q.index  and  (q.tag == 0 or q.tag == k.tag)

Causal rows, image tiles and no mask at all are cases of it; see `make_rule`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

HIDDEN = -1  # segment of a key that nobody sees
FAR = 1 << 30


class Marks(NamedTuple):
    """What the rule knows of each query or key: int32 [B, S], or [1, S] for all rows alike."""

    segment: jax.Array  # of a query 0: it sees nothing; of a key HIDDEN
    index: jax.Array
    tag: jax.Array | None = None  # of a query 0: no such limit; None: no query has one

    @property
    def arrays(self) -> tuple[jax.Array, ...]:
        """Those that there are."""
        return tuple(x for x in self if x is not None)


class Rule(NamedTuple):
    """The marks of queries and keys."""

    q: Marks
    k: Marks


def make_rule(q: Marks, k: Marks) -> Rule:
    """The rule of these marks, where a key's segment 0 or less means that nobody sees it."""
    return Rule(q, k._replace(segment=jnp.where(k.segment > 0, k.segment, HIDDEN)))


def all_see_all(queries: int, keys: int) -> Rule:
    """The rule without limits, the same for all rows."""

    def marks(count: int) -> Marks:
        return Marks(jnp.ones((1, count), jnp.int32), jnp.zeros((1, count), jnp.int32))

    return Rule(marks(queries), marks(keys))


def pad_rule(rule: Rule, queries: int, keys: int) -> Rule:
    """`rule` with so many more queries that see nothing and keys that nobody sees."""

    def pad(marks: Marks, more: int, segment: int) -> Marks:
        values = (segment, 0, 0)
        return Marks(
            *(
                None if x is None else jnp.pad(x, ((0, 0), (0, more)), constant_values=v)
                for x, v in zip(marks, values, strict=True)
            )
        )

    return Rule(pad(rule.q, queries, 0), pad(rule.k, keys, HIDDEN))


def visible(q: Marks, k: Marks) -> jax.Array:
    """Bool: the rule, for marks of shapes that broadcast against each other."""
    seen = (q.segment == k.segment) & (k.index <= q.index)
    return seen if q.tag is None else seen & ((q.tag == 0) | (q.tag == k.tag))


class Spans(NamedTuple):
    """For each block the run of blocks on the other side that it meets, int32 [B, blocks, 4]: low, from, to, high.

    Blocks low .. high - 1 may hold a visible pair and all others hold none. In blocks from .. to - 1 every pair is
    visible, so that no mask has to be computed for them.
    """

    of_queries: jax.Array
    of_keys: jax.Array


def spans(rule: Rule, q_size: int, k_size: int) -> Spans:
    """Which blocks of `q_size` queries and `k_size` keys meet, judged by the bounds of their marks."""
    q, k = (_split(marks, size) for marks, size in zip(rule, (q_size, k_size), strict=True))
    q_low, q_high = _bounds(jnp.where(q.segment > 0, q.segment, FAR)).low, _bounds(q.segment).high
    k_low, k_high = _bounds(jnp.where(k.segment > 0, k.segment, FAR)).low, _bounds(k.segment).high
    q_index, k_index = _bounds(q.index), _bounds(k.index)

    def pairs(compare, q_value: jax.Array, k_value: jax.Array) -> jax.Array:
        return compare(q_value[:, :, None], k_value[:, None, :])

    meet = pairs(jnp.less_equal, q_low, k_high) & pairs(jnp.greater_equal, q_high, k_low)
    meet &= pairs(jnp.greater_equal, q_index.high, k_index.low)
    alike = (q.segment.min(-1) == q_high)[:, :, None] & (k.segment.min(-1) == k_high)[:, None, :]
    whole = alike & pairs(jnp.equal, q_high, k_high) & pairs(jnp.greater_equal, q_index.low, k_index.high)
    if q.tag is not None:
        # A query without a tag reads every tag.
        low, high = q.tag.min(-1), jnp.where(q.tag == 0, FAR, q.tag).max(-1)
        tags = _bounds(k.tag)
        meet &= pairs(jnp.less_equal, low, tags.high) & pairs(jnp.greater_equal, high, tags.low)
        whole &= (q.tag.max(-1) == 0)[:, :, None]
    return Spans(_runs(meet, whole), _runs(meet.swapaxes(1, 2), whole.swapaxes(1, 2)))


class _Bounds(NamedTuple):
    low: jax.Array
    high: jax.Array


def _bounds(x: jax.Array) -> _Bounds:
    return _Bounds(x.min(-1), x.max(-1))


def _split(marks: Marks, size: int) -> Marks:
    return Marks(*(None if x is None else x.reshape(len(x), -1, size) for x in marks))


def _runs(meet: jax.Array, whole: jax.Array) -> jax.Array:
    count = meet.shape[-1]
    place = jnp.arange(count)
    any_meets, any_whole = meet.any(-1), whole.any(-1)
    low = jnp.where(any_meets, jnp.argmax(meet, -1), 0)
    high = jnp.where(any_meets, count - jnp.argmax(meet[..., ::-1], -1), 0)
    begin = jnp.where(any_whole, jnp.argmax(whole, -1), high)
    broken = jnp.where(~whole & (place >= begin[..., None]), place, count).min(-1)
    return jnp.stack([low, begin, jnp.where(any_whole, broken, high), high], axis=-1).astype(jnp.int32)
