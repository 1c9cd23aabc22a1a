"""Attention over keys that lie in several places: those read before, those of the newest tokens, those of tiles.

Keys and values are [B, K, M, h] here, as generation keeps them: nothing is copied or turned around for a new token.
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

    keys: jax.Array  # [B, K, M, h]
    values: jax.Array  # [B, K, M, h]
    visible: jax.Array  # bool [B, S, M] or [B, 1, M]


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
    parts = [_part(grouped, place) for place in places if place.keys.shape[2]]
    out = parts[0]
    for part in parts[1:]:
        out = _joined(out, part)
    found = out.out / jnp.where(out.total == 0, 1.0, out.total)
    return rearrange(found, "b k g s h -> b s (k g) h").astype(q.dtype)


def _part(q: jax.Array, place: Keys) -> Part:
    count = place.keys.shape[2]
    if q.shape[3] * count <= DENSE_LIMIT or count % BLOCK:
        return _block(q, *place)

    def step(part: Part, start: jax.Array) -> tuple[Part, None]:
        keys, values = (jax.lax.dynamic_slice_in_dim(x, start, BLOCK, axis=2) for x in place[:2])
        visible = jax.lax.dynamic_slice_in_dim(place.visible, start, BLOCK, axis=2)
        return _joined(part, _block(q, keys, values, visible)), None

    shape = q.shape[:-1]
    nothing = Part(jnp.full((*shape, 1), MASKED / 2), jnp.zeros((*shape, 1)), jnp.zeros(q.shape))
    return jax.lax.scan(step, nothing, jnp.arange(0, count, BLOCK))[0]


def _block(q: jax.Array, keys: jax.Array, values: jax.Array, visible: jax.Array) -> Part:
    scores = _scores(q, keys, visible)
    # The floor keeps exp() of a query that sees nothing at exactly zero.
    top = jnp.maximum(scores.max(axis=-1, keepdims=True), MASKED / 2)
    weights = jnp.exp(scores - top)
    return Part(top, weights.sum(axis=-1, keepdims=True), _values(weights, values))


def _joined(a: Part, b: Part) -> Part:
    top = jnp.maximum(a.top, b.top)
    left, right = jnp.exp(a.top - top), jnp.exp(b.top - top)
    return Part(top, a.total * left + b.total * right, a.out * left + b.out * right)
