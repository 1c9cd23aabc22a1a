"""Next-token cross-entropy, without ever holding float32 logits of a whole row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from nvlm_jax.models.axes import by_part, constrain, parts, split

PARTS = 6  # of a row, at least, for one of them to be left out where few places are wanted
Logits = Callable[[jax.Array], jax.Array]  # hidden [B, c, D] -> float32 [B, c, V]; a pytree, its leaves the weights


@jax.named_scope("loss")
def token_nll(logits: Logits, hidden: jax.Array, targets: jax.Array, wanted: jax.Array, chunk: int) -> jax.Array:
    """-log p(target) of the wanted places, their logits computed `chunk` places of the rows at a time, also backward.

    Few places of a conversation with a picture are trained. Each row's wanted places are put first, and a device that
    holds whole rows computes no logits behind the last of them in any of its rows. There the gradient of the weights is
    added up in float32, over chunks; over devices in the dtype of the weights, as that of all others is. Only reverse
    differentiation is defined.

    Args:
        logits: of a model, `logits_by_chunks()`.
        hidden: [B, S, D].
        targets: int32 [B, S].
        wanted: bool [B, S].
        chunk: at most this many places at once.

    Returns:
        float32 [B, S]; 0 where not wanted.
    """
    if parts("places") * parts("vocab") > 1:
        return _everywhere(logits, hidden, targets, wanted, chunk)
    if not split():
        return _wanted_first(logits, hidden, targets, wanted, chunk)
    # Each device its own rows: the compiler would keep all of them at the same chunk.
    leaves, tree = jax.tree.flatten(logits)

    def own_rows(hidden: jax.Array, targets: jax.Array, wanted: jax.Array, *leaves: jax.Array) -> jax.Array:
        return _wanted_first(jax.tree.unflatten(tree, leaves), hidden, targets, wanted, chunk)

    names = [("rows", None, None), ("rows", None), ("rows", None), *((None,) * leaf.ndim for leaf in leaves)]
    return by_part(own_rows, names, ("rows", None))(hidden, targets, wanted, *leaves)


def _nll(scores: jax.Array, targets: jax.Array) -> jax.Array:
    """Of every place: float32 [B, c] of logits [B, c, V] and targets [B, c]."""
    # A sum over one place instead of a look-up, which would gather the vocabulary where it is split.
    chosen = jnp.arange(scores.shape[-1]) == targets[..., None]
    return jax.nn.logsumexp(scores, axis=-1) - jnp.where(chosen, scores, 0.0).sum(axis=-1)


def _everywhere(logits: Logits, hidden: jax.Array, targets: jax.Array, wanted: jax.Array, chunk: int) -> jax.Array:
    """For devices that share rows or the vocabulary: every chunk, to which all of them belong."""
    b, s = targets.shape
    size = max(n for n in range(1, min(chunk, s) + 1) if s % n == 0)

    def cut(x: jax.Array) -> jax.Array:
        # Every n-th place to each of the n chunks: wherever a row is cut over devices, all have a part of each chunk.
        return jnp.moveaxis(x.reshape(b, size, s // size, *x.shape[2:]), 2, 0)

    @jax.checkpoint
    def step(_: None, part: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        hidden, targets = part
        return None, _nll(constrain(logits(hidden), "rows", "places", "vocab"), targets)

    _, found = jax.lax.scan(step, None, (cut(constrain(hidden, "rows", "places", None)), cut(targets)))
    return jnp.where(wanted, jnp.moveaxis(found, 0, 2).reshape(b, s), 0.0)


def _wanted_first(logits: Logits, hidden: jax.Array, targets: jax.Array, wanted: jax.Array, chunk: int) -> jax.Array:
    """Each row's wanted places before the others, and no chunk behind the last of them."""
    b, s = targets.shape
    size = chunk_size(s, chunk)
    more = -s % size  # places behind the last, wanted by nobody
    order = jnp.argsort(~wanted, axis=1, stable=True)
    back, count = jnp.argsort(order, axis=1), -(-wanted.sum(axis=1).max() // size)

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(_reordered(x, order, back), ((0, 0), (0, more), *((0, 0),) * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(b, (s + more) // size, size, *x.shape[2:]), 1, 0)

    found = _first_chunks(logits, cut(hidden), cut(targets), count)
    found = jnp.moveaxis(found, 0, 1).reshape(b, s + more)[:, :s]
    return jnp.where(wanted, _reordered(found, back, order), 0.0)


@jax.custom_vjp
def _first_chunks(logits: Logits, hidden: jax.Array, targets: jax.Array, count: jax.Array) -> jax.Array:
    """`_nll` of the first `count` chunks [n, B, c]; 0 of the others, of which nothing is computed, nor backward."""

    def chunk(i: jax.Array, found: jax.Array) -> jax.Array:
        return found.at[i].set(_nll(logits(hidden[i]), targets[i]))

    return jax.lax.fori_loop(0, count, chunk, jnp.zeros(targets.shape))


def _first_chunks_forward(*given: Any) -> tuple[jax.Array, tuple]:
    trained = any(weight.perturbed for weight in jax.tree.leaves(given[0]))
    arguments = jax.tree.map(lambda argument: argument.value, given)
    return _first_chunks(*arguments), (arguments, () if trained else None)


def _first_chunks_backward(kept: tuple, gradient: Any) -> tuple:
    """Differentiating the loop would add zeros to the weights' gradient for each chunk that is left out."""
    (logits, hidden, targets, count), trained = kept
    if isinstance(gradient, SymbolicZero):
        return None, None, None, None

    def chunk(i: jax.Array, found: tuple) -> tuple:
        d_logits, d_hidden = found
        if trained is None:
            [d_chunk] = jax.vjp(lambda hidden: _nll(logits(hidden), targets[i]), hidden[i])[1](gradient[i])
        else:
            of_chunk = jax.vjp(lambda logits, hidden: _nll(logits(hidden), targets[i]), logits, hidden[i])[1]
            more, d_chunk = of_chunk(gradient[i])
            d_logits = jax.tree.map(lambda a, b: a + b.astype(a.dtype), d_logits, more)
        return d_logits, d_hidden.at[i].set(d_chunk)

    zeros = None if trained is None else jax.tree.map(lambda a: jnp.zeros(a.shape), logits)
    d_logits, d_hidden = jax.lax.fori_loop(0, count, chunk, (zeros, jnp.zeros_like(hidden)))
    if trained is not None:
        d_logits = jax.tree.map(lambda d, a: d.astype(a.dtype), d_logits, logits)
    return d_logits, d_hidden, None, None


_first_chunks.defvjp(_first_chunks_forward, _first_chunks_backward, symbolic_zeros=True)


def chunk_size(places: int, chunk: int) -> int:
    """Places of a chunk of a row on a device that holds whole rows and the whole vocabulary."""
    most = min(chunk, max(places // PARTS, 1))
    divisor = max(n for n in range(1, most + 1) if places % n == 0)
    return divisor if 2 * divisor >= most else -(-places // -(-places // most))


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
