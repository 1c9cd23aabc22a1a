"""Next-token cross-entropy, without ever holding float32 logits of a whole row."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def token_nll(
    logits: Callable[[jax.Array], jax.Array], hidden: jax.Array, targets: jax.Array, chunk: int
) -> jax.Array:
    """-log p(target) of every place, its logits computed `chunk` places of the rows at a time, also going backward.

    Args:
        logits: hidden [B, c, D] -> float32 [B, c, V].
        hidden: [B, S, D].
        targets: int32 [B, S].
        chunk: at most this many places at once.

    Returns:
        float32 [B, S].
    """
    b, s = targets.shape
    size = max(n for n in range(1, min(chunk, s) + 1) if s % n == 0)

    @jax.checkpoint
    def step(_: None, part: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        hidden, targets = part
        scores = logits(hidden)
        picked = jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
        return None, jax.nn.logsumexp(scores, axis=-1) - picked

    def split(x: jax.Array) -> jax.Array:
        return x.reshape(b, s // size, size, *x.shape[2:]).swapaxes(0, 1)

    _, nll = jax.lax.scan(step, None, (split(hidden), split(targets)))
    return nll.swapaxes(0, 1).reshape(b, s)


def group_sums(nll: jax.Array, weights: jax.Array, groups: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Weighted sums of `nll` and of the weights by report group: two float32 [count + 1], entry 0 for no group."""
    flat = groups.reshape(-1)
    total = jax.ops.segment_sum((nll * weights).reshape(-1), flat, count + 1)
    return total, jax.ops.segment_sum(weights.reshape(-1), flat, count + 1)
