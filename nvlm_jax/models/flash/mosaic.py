"""The kernels on TPUs. One grid in order: its last dimensions step over the other side's blocks, sums stay in VMEM.

Arrays are turned to [B, H, S, h] around the kernels, for blocks have to span the last two dimensions. Scores are held
with keys down and queries across: what belongs to a query is then a row, cheap to spread and to sum over.
A block that is not met costs a step of the grid, but nothing is read for it.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from nvlm_jax.models.flash.blocks import FLOOR, MASKED, NN, NT, TN, Given, Sizes, factor, log_total, product
from nvlm_jax.models.flash.rule import Marks, Rule, spans, visible

LANES = 128
BLOCKS = (512, 384, 256, 128)


class Size(NamedTuple):
    """Of a kernel: queries and keys of a block."""

    q: int
    k: int


def sizes(queries: int, keys: int, width: int) -> Sizes:
    """Blocks for rows of these lengths: those that pad least, and of them the largest."""
    size = Size(*(min(BLOCKS, key=lambda n: (-(-length // n) * n, -n)) for length in (queries, keys)))
    return Sizes(size, size, size)


def serves(width: int, dtype: jnp.dtype) -> bool:
    """Whether heads of this width can be computed."""
    return width % 64 == 0 and dtype in (jnp.bfloat16, jnp.float32)


def forward(
    q: jax.Array, k: jax.Array, v: jax.Array, rule: Rule, size: Size, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """Output [B, Sq, H, h] in the dtype of q, and float32 [B, H, Sq], `log_total` of each query."""
    batch, length, heads, width = q.shape
    call = _Call(q, k, rule, size)
    out, log = pl.pallas_call(
        functools.partial(_forward, call=call, scale=factor(width)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(batch, heads, length // size.q, k.shape[1] // size.k),
            in_specs=[call.q, call.k, call.k, call.q_marks, call.k_marks],
            out_specs=[call.q, call.by_query],
            scratch_shapes=[
                pltpu.VMEM((1, size.q), jnp.float32),
                pltpu.VMEM((1, size.q), jnp.float32),
                pltpu.VMEM((width, size.q), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((batch, heads, length, width), q.dtype),
            jax.ShapeDtypeStruct((batch, heads, 1, length), jnp.float32),
        ],
        name="flash_forward",
        interpret=interpret,
        compiler_params=_params(looped=1),
    )(spans(rule, *size).of_queries.reshape(-1), *map(_turn, (q, k, v)), *_stacked(rule))
    return _turn(out), log[:, :, 0]


def gradient_q(given: Given, size: Size, interpret: bool) -> jax.Array:
    """The gradient by q, [B, Sq, H, h]."""
    batch, length, heads, width = given.q.shape
    call = _Call(given.q, given.k, given.rule, size)
    dq = pl.pallas_call(
        functools.partial(_gradient_q, call=call, scale=factor(width)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(batch, heads, length // size.q, given.k.shape[1] // size.k),
            in_specs=call.backward_specs,
            out_specs=call.q,
            scratch_shapes=[pltpu.VMEM((width, size.q), jnp.float32)],
        ),
        out_shape=jax.ShapeDtypeStruct((batch, heads, length, width), given.q.dtype),
        name="flash_gradient_q",
        interpret=interpret,
        compiler_params=_params(looped=1),
    )(spans(given.rule, *size).of_queries.reshape(-1), *_turned(given))
    return _turn(dq)


def gradient_kv(given: Given, size: Size, interpret: bool) -> tuple[jax.Array, jax.Array]:
    """The gradients by k and v, [B, Sk, K, h]."""
    batch, keys, kv_heads, width = given.k.shape
    queries, heads = given.q.shape[1:3]
    call = _Call(given.q, given.k, given.rule, size, by_key=True)
    shape = jax.ShapeDtypeStruct((batch, kv_heads, keys, width), given.k.dtype)
    dk, dv = pl.pallas_call(
        functools.partial(_gradient_kv, call=call, scale=factor(width)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(batch, kv_heads, keys // size.k, heads // kv_heads, queries // size.q),
            in_specs=call.backward_specs,
            out_specs=[call.k, call.k],
            scratch_shapes=[pltpu.VMEM((size.k, width), jnp.float32), pltpu.VMEM((size.k, width), jnp.float32)],
        ),
        out_shape=[shape, shape],
        name="flash_gradient_kv",
        interpret=interpret,
        compiler_params=_params(looped=2),
    )(spans(given.rule, *size).of_keys.reshape(-1), *_turned(given))
    return _turn(dk), _turn(dv)


def _turned(given: Given) -> tuple[jax.Array, ...]:
    """As the kernels of the backward pass take it."""
    by_query = given.log[:, :, None], given.delta[:, :, None]
    return *map(_turn, given[:3]), *by_query, _turn(given.d_out), *_stacked(given.rule)


def _turn(x: jax.Array) -> jax.Array:
    return x.swapaxes(1, 2)


def _stacked(rule: Rule) -> tuple[jax.Array, jax.Array]:
    """Marks of queries as rows [B, n, Sq], of keys as columns [B, Sk, n]."""
    return jnp.stack(rule.q.arrays, axis=1), jnp.stack(rule.k.arrays, axis=2)


def _params(looped: int) -> pltpu.CompilerParams:
    return pltpu.CompilerParams(dimension_semantics=("parallel",) * 3 + ("arbitrary",) * looped)


class _Call:
    """Which block of each array a step of the grid reads or writes.

    The grid is (row, query head, block of queries, block of keys), or by key (row, key/value head, block of keys, query
    head of the group, block of queries). A step outside its block's span is given the block of the step before or
    after it, so that nothing is copied.
    """

    def __init__(self, q: jax.Array, k: jax.Array, rule: Rule, size: Size, by_key: bool = False):
        width, group = q.shape[3], q.shape[2] // k.shape[2]
        alike, tagged = len(rule.q.segment) == 1, len(rule.q.arrays)
        self.by_key = by_key
        self.blocks = k.shape[1] // size.k if by_key else q.shape[1] // size.q
        self.last = 4 if by_key else 3  # dimension of the grid along which the other side's blocks follow each other
        self.alike = alike

        def places(*grid_and_spans) -> tuple:
            """Row, query head, key/value head, block of queries, block of keys."""
            *grid, span = grid_and_spans
            low, high = self.span(grid[0], grid[2], span)[::3]
            other = jnp.maximum(jnp.minimum(grid[self.last], high - 1), low)
            if by_key:
                return grid[0], grid[1] * group + grid[3], grid[1], other, grid[2]
            return grid[0], grid[1], grid[1] // group, grid[2], other

        def spec(shape: tuple[int | None, ...], index) -> pl.BlockSpec:
            return pl.BlockSpec(shape, lambda *args: index(*places(*args)))

        self.q = spec((None, None, size.q, width), lambda b, n, kv, i, j: (b, n, i, 0))
        self.k = spec((None, None, size.k, width), lambda b, n, kv, i, j: (b, kv, j, 0))
        self.by_query = spec((None, None, 1, size.q), lambda b, n, kv, i, j: (b, n, 0, i))
        self.q_marks = spec((None, tagged, size.q), lambda b, n, kv, i, j: (0 if alike else b, 0, i))
        self.k_marks = spec((None, size.k, tagged), lambda b, n, kv, i, j: (0 if alike else b, j, 0))

    @property
    def backward_specs(self) -> list[pl.BlockSpec]:
        """Of q, k, v, the logarithm, delta, the gradient of the output, and the marks."""
        return [self.q, self.k, self.k, self.by_query, self.by_query, self.q, self.q_marks, self.k_marks]

    def span(self, row, block, spans_ref) -> tuple:
        """Low, from, to and high of a block."""
        begin = 4 * ((0 if self.alike else row * self.blocks) + block)
        return tuple(spans_ref[begin + i] for i in range(4))

    def sweep(self, spans_ref, step) -> None:
        """`step` if this step of the grid is in its block's span, masked where not all pairs see each other."""
        low, begin, end, high = self.span(pl.program_id(0), pl.program_id(2), spans_ref)
        other = pl.program_id(self.last)
        whole = (other >= begin) & (other < end)
        pl.when(whole)(functools.partial(step, masked=False))
        pl.when((other >= low) & (other < high) & ~whole)(functools.partial(step, masked=True))

    def first(self) -> jax.Array:
        """Whether this is the first step for its block."""
        first = pl.program_id(3) == 0
        return first & (pl.program_id(4) == 0) if self.by_key else first

    def final(self) -> jax.Array:
        """Whether this is the last step for its block."""
        final = pl.program_id(3) == pl.num_programs(3) - 1
        return final & (pl.program_id(4) == pl.num_programs(4) - 1) if self.by_key else final


def _scores(k: jax.Array, q: jax.Array, q_marks, k_marks, masked: bool) -> jax.Array:
    """Float32 [keys, queries]."""
    scores = product(k, q, NT)
    if not masked:
        return scores
    columns = Marks(*(k_marks[:, i : i + 1] for i in range(k_marks.shape[1])))
    rows = Marks(*(q_marks[i : i + 1, :] for i in range(q_marks.shape[0])))
    return jnp.where(visible(rows, columns), scores, MASKED)


def _forward(spans_ref, q, k, v, q_marks, k_marks, out, log, top, total, turned, *, call: _Call, scale: float):
    @pl.when(call.first())
    def start():
        top[...] = jnp.full_like(top, FLOOR)
        total[...] = jnp.zeros_like(total)
        turned[...] = jnp.zeros_like(turned)

    def step(masked):
        scores = _scores(k[...], q[...], q_marks, k_marks, masked)
        new_top = jnp.maximum(top[...], scores.max(axis=0, keepdims=True) * scale)
        weights = jnp.exp2(scores * scale - new_top)
        shrink = jnp.exp2(top[...] - new_top)
        total[...] = total[...] * shrink + weights.sum(axis=0, keepdims=True)
        turned[...] = turned[...] * shrink + product(v[...], weights.astype(v.dtype), TN)
        top[...] = new_top

    call.sweep(spans_ref, step)

    @pl.when(call.final())
    def end():
        sums = total[...]
        out[...] = (turned[...] / jnp.where(sums > 0, sums, 1.0)).T.astype(out.dtype)
        log[...] = log_total(top[...], sums)


def _gradient_q(spans_ref, q, k, v, log, delta, d_out, q_marks, k_marks, dq, turned, *, call: _Call, scale: float):
    @pl.when(call.first())
    def start():
        turned[...] = jnp.zeros_like(turned)

    def step(masked):
        weights = jnp.exp2(_scores(k[...], q[...], q_marks, k_marks, masked) * scale - log[...])
        d_scores = weights * (product(v[...], d_out[...], NT) - delta[...])
        turned[...] += product(k[...], d_scores.astype(k.dtype), TN)

    call.sweep(spans_ref, step)

    @pl.when(call.final())
    def end():
        dq[...] = (turned[...].T * q.shape[1] ** -0.5).astype(dq.dtype)


def _gradient_kv(
    spans_ref, q, k, v, log, delta, d_out, q_marks, k_marks, dk, dv, dk_sum, dv_sum, *, call: _Call, scale: float
):  # fmt: skip
    @pl.when(call.first())
    def start():
        dk_sum[...] = jnp.zeros_like(dk_sum)
        dv_sum[...] = jnp.zeros_like(dv_sum)

    def step(masked):
        weights = jnp.exp2(_scores(k[...], q[...], q_marks, k_marks, masked) * scale - log[...])
        dv_sum[...] += product(weights.astype(d_out.dtype), d_out[...], NN)
        d_scores = weights * (product(v[...], d_out[...], NT) - delta[...])
        dk_sum[...] += product(d_scores.astype(q.dtype), q[...], NN)

    call.sweep(spans_ref, step)

    @pl.when(call.final())
    def end():
        dk[...] = (dk_sum[...] * q.shape[1] ** -0.5).astype(dk.dtype)
        dv[...] = dv_sum[...].astype(dv.dtype)
