"""The kernels on NVIDIA GPUs. Each program owns one block and loops over those it meets on the other side.

Arrays are [B, S, H, h] as the model holds them: a program reads its head's part of each row in place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from nvlm_jax.models.flash.blocks import FLOOR, MASKED, NN, NT, Given, Sizes, factor, log_total, product
from nvlm_jax.models.flash.rule import Marks, Rule, spans, visible


class Size(NamedTuple):
    """Of a kernel: queries and keys of a block, and how Triton runs a program."""

    q: int
    k: int
    warps: int = 4
    stages: int = 3


def sizes(queries: int, keys: int, width: int) -> Sizes:
    """Blocks for rows of these lengths and heads of this width: among the fastest on an H100 (docs/performance.md)."""
    wide = width > 64
    back = Size(64, 64, warps=4, stages=2 if wide else 3)
    found = Sizes(forward=Size(128, 64, warps=8 if wide else 4), dq=back, dkv=back)
    longest = tuple(max(16, pl.next_power_of_2(n)) for n in (queries, keys))
    return Sizes(*(s._replace(q=min(s.q, longest[0]), k=min(s.k, longest[1])) for s in found))


def serves(width: int, dtype: jnp.dtype) -> bool:
    """Whether heads of this width can be computed. Of float32 no block fits that would be fast."""
    return width in (16, 32, 64, 128) and dtype in (jnp.bfloat16, jnp.float16)


def forward(
    q: jax.Array, k: jax.Array, v: jax.Array, rule: Rule, size: Size, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """Output [B, Sq, H, h] in the dtype of q, and float32 [B, H, Sq], `log_total` of each query."""
    batch, length, heads, width = q.shape
    call = _Call(q, k, rule, size)
    return pl.pallas_call(
        functools.partial(_forward, block=size.k, scale=factor(width)),
        grid=(length // size.q, heads, batch),
        in_specs=[call.q, call.whole_k, call.whole_k, call.span, call.marks(call.mark), call.marks(call.whole_mark)],
        out_specs=[call.q, call.by_query],
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((batch, heads, length), jnp.float32)],
        name="flash_forward",
        interpret=interpret,
        compiler_params=_params(size),
    )(q, k, v, spans(rule, size.q, size.k).of_queries, rule.q.arrays, rule.k.arrays)


def gradient_q(given: Given, size: Size, interpret: bool) -> jax.Array:
    """The gradient by q, [B, Sq, H, h]."""
    batch, length, heads, width = given.q.shape
    call = _Call(given.q, given.k, given.rule, size)
    return pl.pallas_call(
        functools.partial(_gradient_q, block=size.k, scale=factor(width)),
        grid=(length // size.q, heads, batch),
        in_specs=[
            *(call.q, call.whole_k, call.whole_k, call.by_query, call.by_query, call.q),
            *(call.span, call.marks(call.mark), call.marks(call.whole_mark)),
        ],
        out_specs=call.q,
        out_shape=jax.ShapeDtypeStruct(given.q.shape, given.q.dtype),
        name="flash_gradient_q",
        interpret=interpret,
        compiler_params=_params(size),
    )(*given[:6], spans(given.rule, size.q, size.k).of_queries, given.rule.q.arrays, given.rule.k.arrays)


def gradient_kv(given: Given, size: Size, interpret: bool) -> tuple[jax.Array, jax.Array]:
    """The gradients by k and v, [B, Sk, K, h]. Each query head makes some of its own; those of a group are summed."""
    batch, keys, kv_heads, width = given.k.shape
    heads, dtype = given.q.shape[2], given.k.dtype
    call = _Call(given.q, given.k, given.rule, size, by_key=True)
    shape = jax.ShapeDtypeStruct((batch, keys, heads, width), dtype if heads == kv_heads else jnp.float32)
    found = pl.pallas_call(
        functools.partial(_gradient_kv, block=size.q, scale=factor(width)),
        grid=(keys // size.k, heads, batch),
        in_specs=[
            *(call.whole_q, call.k, call.k, call.whole_by_query, call.whole_by_query, call.whole_q),
            *(call.span, call.marks(call.whole_mark), call.marks(call.mark)),
        ],
        out_specs=[call.own_k, call.own_k],
        out_shape=[shape, shape],
        name="flash_gradient_kv",
        interpret=interpret,
        compiler_params=_params(size),
    )(*given[:6], spans(given.rule, size.q, size.k).of_keys, given.rule.q.arrays, given.rule.k.arrays)
    if heads == kv_heads:
        return tuple(found)
    return tuple(x.reshape(batch, keys, kv_heads, -1, width).sum(axis=3).astype(dtype) for x in found)


def _params(size: Size) -> pltriton.CompilerParams:
    return pltriton.CompilerParams(num_warps=size.warps, num_stages=size.stages)


class _Call:
    """Which part of each array a program (block, query head, row) reads or writes."""

    def __init__(self, q: jax.Array, k: jax.Array, rule: Rule, size: Size, by_key: bool = False):
        queries, heads, width = q.shape[1:]
        keys, group = k.shape[1], heads // k.shape[2]
        alike = len(rule.q.segment) == 1  # the rule is the same for all rows
        block = size.k if by_key else size.q
        self.tagged = len(rule.q.arrays)
        self.q = pl.BlockSpec((None, size.q, None, width), lambda i, n, b: (b, i, n, 0))
        self.k = pl.BlockSpec((None, size.k, None, width), lambda i, n, b: (b, i, n // group, 0))
        self.own_k = pl.BlockSpec((None, size.k, None, width), lambda i, n, b: (b, i, n, 0))
        self.whole_q = pl.BlockSpec((None, queries, None, width), lambda i, n, b: (b, 0, n, 0))
        self.whole_k = pl.BlockSpec((None, keys, None, width), lambda i, n, b: (b, 0, n // group, 0))
        self.by_query = pl.BlockSpec((None, None, size.q), lambda i, n, b: (b, n, i))
        self.whole_by_query = pl.BlockSpec((None, None, queries), lambda i, n, b: (b, n, 0))
        self.span = pl.BlockSpec((None, None, 4), lambda i, n, b: (0 if alike else b, i, 0))
        self.mark = pl.BlockSpec((None, block), lambda i, n, b: (0 if alike else b, i))
        other = queries if by_key else keys
        self.whole_mark = pl.BlockSpec((None, other), lambda i, n, b: (0 if alike else b, 0))

    def marks(self, spec: pl.BlockSpec) -> tuple[pl.BlockSpec, ...]:
        """The same for each array of the marks."""
        return (spec,) * self.tagged


def _sweep(span: Any, step: Callable[..., Any], carry: Any) -> Any:
    """`step` for every block of the span, masked where not all pairs see each other."""
    low, begin, end, high = (span[i] for i in range(4))
    carry = jax.lax.fori_loop(low, begin, functools.partial(step, masked=True), carry)
    carry = jax.lax.fori_loop(begin, end, functools.partial(step, masked=False), carry)
    return jax.lax.fori_loop(end, high, functools.partial(step, masked=True), carry)


def _marks(refs: tuple[Any, ...], places: Any, axis: int) -> Marks:
    """Marks of these places, ready to be broadcast along the other `axis`."""
    return Marks(*(jnp.expand_dims(ref[places], axis) for ref in refs))


def _forward(q_ref, k_ref, v_ref, span, q_marks, k_marks, out_ref, log_ref, *, block: int, scale: float):
    q, own = q_ref[...], _marks(q_marks, slice(None), 1)

    def step(j, carry, masked):
        top, total, out = carry
        places = pl.ds(j * block, block)
        scores = product(q, k_ref[places, :], NT)
        if masked:
            scores = jnp.where(visible(own, _marks(k_marks, places, 0)), scores, MASKED)
        new_top = jnp.maximum(top, scores.max(axis=1) * scale)
        weights = jnp.exp2(scores * scale - new_top[:, None])
        shrink = jnp.exp2(top - new_top)
        out = out * shrink[:, None] + product(weights.astype(v_ref.dtype), v_ref[places, :], NN)
        return new_top, total * shrink + weights.sum(axis=1), out

    rows = q.shape[0]
    start = (jnp.full(rows, FLOOR, jnp.float32), jnp.zeros(rows, jnp.float32), jnp.zeros(q.shape, jnp.float32))
    top, total, out = _sweep(span, step, start)
    out_ref[...] = (out / jnp.where(total > 0, total, 1.0)[:, None]).astype(out_ref.dtype)
    log_ref[...] = log_total(top, total)


def _gradient_q(
    q_ref, k_ref, v_ref, log_ref, delta_ref, d_out_ref, span, q_marks, k_marks, dq_ref, *, block: int, scale: float
):
    q, d_out, own = q_ref[...], d_out_ref[...], _marks(q_marks, slice(None), 1)
    log, delta = log_ref[...][:, None], delta_ref[...][:, None]

    def step(j, dq, masked):
        places = pl.ds(j * block, block)
        k = k_ref[places, :]
        scores = product(q, k, NT)
        if masked:
            scores = jnp.where(visible(own, _marks(k_marks, places, 0)), scores, MASKED)
        weights = jnp.exp2(scores * scale - log)
        d_scores = weights * (product(d_out, v_ref[places, :], NT) - delta)
        return dq + product(d_scores.astype(k.dtype), k, NN)

    dq = _sweep(span, step, jnp.zeros(q.shape, jnp.float32))
    dq_ref[...] = (dq * q.shape[1] ** -0.5).astype(dq_ref.dtype)


def _gradient_kv(
    q_ref,
    k_ref,
    v_ref,
    log_ref,
    delta_ref,
    d_out_ref,
    span,
    q_marks,
    k_marks,
    dk_ref,
    dv_ref,
    *,
    block: int,
    scale: float,
):
    k, v, own = k_ref[...], v_ref[...], _marks(k_marks, slice(None), 1)

    def step(i, carry, masked):
        dk, dv = carry
        places = pl.ds(i * block, block)
        q, d_out = q_ref[places, :], d_out_ref[places, :]
        scores = product(k, q, NT)  # keys down, queries across
        if masked:
            scores = jnp.where(visible(_marks(q_marks, places, 0), own), scores, MASKED)
        weights = jnp.exp2(scores * scale - log_ref[places][None, :])
        dv += product(weights.astype(d_out.dtype), d_out, NN)
        d_scores = weights * (product(v, d_out, NT) - delta_ref[places][None, :])
        return dk + product(d_scores.astype(q.dtype), q, NN), dv

    zeros = jnp.zeros(k.shape, jnp.float32)
    dk, dv = _sweep(span, step, (zeros, zeros))
    dk_ref[...] = (dk * k.shape[1] ** -0.5).astype(dk_ref.dtype)
    dv_ref[...] = dv.astype(dv_ref.dtype)
