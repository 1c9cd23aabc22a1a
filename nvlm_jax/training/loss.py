"""Next-token cross-entropy, without ever holding float32 logits of a whole row."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from nvlm_jax.models.axes import constrain


@jax.named_scope("loss")
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
        scores = constrain(logits(hidden), "rows", "places", "vocab")
        # A sum over one place instead of a look-up, which would gather the vocabulary where it is split.
        chosen = jnp.arange(scores.shape[-1]) == targets[..., None]
        picked = jnp.where(chosen, scores, 0.0).sum(axis=-1)
        return None, jax.nn.logsumexp(scores, axis=-1) - picked

    def split(x: jax.Array) -> jax.Array:
        # Every n-th place to each of the n chunks: wherever a row is cut over devices, all have a part of each chunk.
        return jnp.moveaxis(x.reshape(b, size, s // size, *x.shape[2:]), 2, 0)

    hidden = constrain(hidden, "rows", "places", None)
    _, nll = jax.lax.scan(step, None, (split(hidden), split(targets)))
    return jnp.moveaxis(nll, 0, 2).reshape(b, s)


def group_sums(nll: jax.Array, weights: jax.Array, groups: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Weighted sums of `nll` and of the weights by report group: two float32 [count + 1], entry 0 for no group."""
    flat = groups.reshape(-1)
    total = jax.ops.segment_sum((nll * weights).reshape(-1), flat, count + 1)
    return total, jax.ops.segment_sum(weights.reshape(-1), flat, count + 1)
