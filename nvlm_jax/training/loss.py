"""Next-token cross-entropy, without ever holding float32 logits of a whole row."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from nvlm_jax.models.axes import constrain, split

PARTS = 6  # of a row, at least, for one of them to be left out where few places are wanted
Loss = Callable[[jax.Array, jax.Array], jax.Array]  # hidden [B, c, D], targets int32 [B, c] -> float32 [B, c]


@jax.named_scope("loss")
def token_nll(
    logits: Callable[[jax.Array], jax.Array], hidden: jax.Array, targets: jax.Array, wanted: jax.Array, chunk: int
) -> jax.Array:
    """-log p(target) of the wanted places, their logits computed `chunk` places of the rows at a time, also backward.

    Few places of a conversation with a picture are trained. On one device each row's wanted places are put first, and
    no logits are computed behind the last of them in any row.

    Args:
        logits: hidden [B, c, D] -> float32 [B, c, V].
        hidden: [B, S, D].
        targets: int32 [B, S].
        wanted: bool [B, S].
        chunk: at most this many places at once.

    Returns:
        float32 [B, S]; 0 where not wanted.
    """

    def nll(hidden: jax.Array, targets: jax.Array) -> jax.Array:
        scores = constrain(logits(hidden), "rows", "places", "vocab")
        # A sum over one place instead of a look-up, which would gather the vocabulary where it is split.
        chosen = jnp.arange(scores.shape[-1]) == targets[..., None]
        return jax.nn.logsumexp(scores, axis=-1) - jnp.where(chosen, scores, 0.0).sum(axis=-1)

    s = targets.shape[1]
    most, compute = (chunk, _everywhere) if split() else (min(chunk, max(s // PARTS, 1)), _wanted_first)
    size = max(n for n in range(1, min(most, s) + 1) if s % n == 0)
    return compute(nll, hidden, targets, wanted, size)


def _everywhere(nll: Loss, hidden: jax.Array, targets: jax.Array, wanted: jax.Array, size: int) -> jax.Array:
    """For several devices, which would add up the vocabulary's gradient anew for each chunk that may be left out."""
    b, s = targets.shape

    def cut(x: jax.Array) -> jax.Array:
        # Every n-th place to each of the n chunks: wherever a row is cut over devices, all have a part of each chunk.
        return jnp.moveaxis(x.reshape(b, size, s // size, *x.shape[2:]), 2, 0)

    step = jax.checkpoint(lambda _, part: (None, nll(*part)))
    _, found = jax.lax.scan(step, None, (cut(constrain(hidden, "rows", "places", None)), cut(targets)))
    return jnp.where(wanted, jnp.moveaxis(found, 0, 2).reshape(b, s), 0.0)


def _wanted_first(nll: Loss, hidden: jax.Array, targets: jax.Array, wanted: jax.Array, size: int) -> jax.Array:
    """Each row's wanted places before the others, and no chunk behind the last of them."""
    b, s = targets.shape
    order = jnp.argsort(~wanted, axis=1, stable=True)
    back, most = jnp.argsort(order, axis=1), wanted.sum(axis=1).max()

    def cut(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(_reordered(x, order, back).reshape(b, s // size, size, *x.shape[2:]), 1, 0)

    @jax.checkpoint
    def step(_: None, part: tuple[jax.Array, ...]) -> tuple[None, jax.Array]:
        start, hidden, targets = part
        return None, jax.lax.cond(start < most, nll, lambda *_: jnp.zeros((b, size), jnp.float32), hidden, targets)

    _, found = jax.lax.scan(step, None, (jnp.arange(0, s, size), cut(hidden), cut(targets)))
    return jnp.where(wanted, _reordered(jnp.moveaxis(found, 0, 1).reshape(b, s), back, order), 0.0)


@jax.custom_vjp
def _reordered(x: jax.Array, order: jax.Array, back: jax.Array) -> jax.Array:
    """Places of x [B, S, ...] in another order; gradients are put back into theirs, where a look-up's are added up."""
    return jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), axis=1)


_reordered.defvjp(
    lambda x, order, back: (_reordered(x, order, back), (order, back)),
    lambda kept, gradient: (_reordered(gradient, *kept[::-1]), None, None),
)


def group_sums(nll: jax.Array, weights: jax.Array, groups: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Weighted sums of `nll` and of the weights by report group: two float32 [count + 1], entry 0 for no group."""
    flat = groups.reshape(-1)
    total = jax.ops.segment_sum((nll * weights).reshape(-1), flat, count + 1)
    return total, jax.ops.segment_sum(weights.reshape(-1), flat, count + 1)
