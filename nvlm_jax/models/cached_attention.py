"""Attention over keys that lie in several places: those read before, those of the newest tokens, those of tiles.

Values are [B, K, M, h] here and keys [B, K, h, M], as generation keeps them: nothing is copied or turned around for a
new token, and no matrix product has to turn its right side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange

from nvlm_jax.models.attention import BLOCK, DENSE_LIMIT, MASKED, _scores, _values


class Keys(NamedTuple):
    """Keys of one place, and who sees them."""

    keys: jax.Array  # [B, K, h, M]
    values: jax.Array  # [B, K, M, h]
    visible: jax.Array  # bool [B, S, M] or [B, 1, M]
    skippable: bool = False  # often no query sees any of them, as what precedes the first piece of a prompt


class Part(NamedTuple):
    """Attention to some of the keys, in float32, not yet divided by the sum of weights."""

    top: jax.Array  # [B, K, G, S, 1], the largest score
    total: jax.Array  # [B, K, G, S, 1], sum of the weights exp(score - top)
    out: jax.Array  # [B, K, G, S, h], weighted sum of the values


def attend_over(q: jax.Array, places: Sequence[Keys]) -> jax.Array:
    """One softmax over the keys of all places, scaled by 1/sqrt(h); scores and softmax in float32.

    Args:
        q: [B, S, H, h]; query head i reads key/value head i // (H / K).
        places: at least one; those without keys are left out.

    Returns:
        [B, S, H, h] in the dtype of q; exactly zero where a query sees nothing.
    """
    grouped = rearrange(q * q.shape[-1] ** -0.5, "b s (k g) h -> b k g s h", k=places[0].keys.shape[1])
    parts = [_part_or_nothing(grouped, place) for place in places if place.values.shape[2]]
    out = parts[0]
    for part in parts[1:]:
        out = _joined(out, part)
    found = out.out / jnp.where(out.total == 0, 1.0, out.total)
    return rearrange(found, "b k g s h -> b s (k g) h").astype(q.dtype)


def _part_or_nothing(q: jax.Array, place: Keys) -> Part:
    if not place.skippable or q.shape[3] == 1:  # one query is quicker answered than asked about
        return _part(q, *place[:3])
    return jax.lax.cond(place.visible.any(), _part, lambda q, *_: _nothing(q), q, *place[:3])


def _part(q: jax.Array, keys: jax.Array, values: jax.Array, visible: jax.Array) -> Part:
    count = values.shape[2]
    if q.shape[3] * count <= DENSE_LIMIT or count % BLOCK:
        return _block(q, keys, values, visible)

    def step(part: Part, start: jax.Array) -> tuple[Part, None]:
        axes = ((keys, 3), (values, 2), (visible, 2))
        cut = (jax.lax.dynamic_slice_in_dim(x, start, BLOCK, axis) for x, axis in axes)
        return _joined(part, _block(q, *cut)), None

    return jax.lax.scan(step, _nothing(q), jnp.arange(0, count, BLOCK))[0]


def _nothing(q: jax.Array) -> Part:
    shape = (*q.shape[:-1], 1)
    return Part(jnp.full(shape, MASKED / 2), jnp.zeros(shape), jnp.zeros(q.shape))


def _block(q: jax.Array, keys: jax.Array, values: jax.Array, visible: jax.Array) -> Part:
    scores = _scores(q, keys, visible, turned=True)
    # The floor keeps exp() of a query that sees nothing at exactly zero.
    top = jnp.maximum(scores.max(axis=-1, keepdims=True), MASKED / 2)
    weights = jnp.exp(scores - top)
    return Part(top, weights.sum(axis=-1, keepdims=True), _values(weights, values))


def _joined(a: Part, b: Part) -> Part:
    top = jnp.maximum(a.top, b.top)
    left, right = jnp.exp(a.top - top), jnp.exp(b.top - top)
    return Part(top, a.total * left + b.total * right, a.out * left + b.out * right)
