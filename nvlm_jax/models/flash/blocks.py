"""The mathematics of one block of queries against one of keys, the same for both backends.

Weights are powers of two: exp(score - top) = 2**(factor * score' - top'), with factor = log2(e) / sqrt(h) and score'
the bare product of query and key, so that scaling costs nothing. Sums, scores and weights are float32; operands of
products are in the dtype of the arrays.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nvlm_jax.models.flash.rule import Rule

MASKED = -1e30  # score of a pair that does not see each other
FLOOR = -1e20  # least top: keeps the weights of a query that sees nothing at exactly zero
NN, NT, TN = ((1,), (0,)), ((1,), (1,)), ((0,), (0,))  # which dimensions a product sums over


class Sizes(NamedTuple):
    """Of the three kernels: each backend's `Size`, of `q` queries and `k` keys a block."""

    forward: Any
    dq: Any
    dkv: Any

    @property
    def units(self) -> tuple[int, int]:
        """What the numbers of queries and of keys have to be multiples of."""
        return math.lcm(*(s.q for s in self)), math.lcm(*(s.k for s in self))


class Given(NamedTuple):
    """What the backward pass is given."""

    q: jax.Array  # [B, Sq, H, h]
    k: jax.Array  # [B, Sk, K, h]
    v: jax.Array  # [B, Sk, K, h]
    log: jax.Array  # float32 [B, H, Sq], `log_total` of each query
    delta: jax.Array  # float32 [B, H, Sq], the output times its gradient, summed over h
    d_out: jax.Array  # [B, Sq, H, h]
    rule: Rule


def factor(width: int) -> float:
    """What turns a product of query and key into the logarithm, to base 2, of its weight."""
    return math.log2(math.e) / math.sqrt(width)


def product(a: jax.Array, b: jax.Array, over: tuple[tuple[int], tuple[int]]) -> jax.Array:
    """The matrix product, in float32; exact to float32 if the operands are."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(a, b, (over, ((), ())), precision=precision, preferred_element_type=jnp.float32)


def log_total(top: jax.Array, total: jax.Array) -> jax.Array:
    """log2 of the sum of 2**score of a query; 0 where it saw nothing, which no masked score comes near."""
    return jnp.where(total > 0, top + jnp.log(jnp.where(total > 0, total, 1.0)) * math.log2(math.e), 0.0)
