"""Around the kernels: rows padded to whole blocks, what is kept for the backward pass, interpret mode."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nvlm_jax.models.flash import mosaic, triton
from nvlm_jax.models.flash.blocks import Given, Sizes
from nvlm_jax.models.flash.rule import Rule, all_see_all, pad_rule

BACKENDS: dict[str, ModuleType] = {"mosaic": mosaic, "triton": triton}


class How(NamedTuple):
    """What the kernels are compiled with."""

    backend: str
    sizes: Sizes
    interpret: bool


def flash_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    rule: Rule | None,
    backend: str,
    interpret: bool = False,
    sizes: Sizes | None = None,
) -> jax.Array:
    """Softmax attention with grouped key/value heads, scaled by 1/sqrt(h).

    Args:
        q: [B, Sq, H, h].
        k: [B, Sk, K, h]; query head i reads key/value head i // (H / K).
        v: [B, Sk, K, h].
        rule: who sees whom; None = everyone sees everything.
        backend: "mosaic" (TPU) or "triton" (NVIDIA GPU).
        interpret: run the kernels without their hardware, slowly.
        sizes: of the kernels' blocks; None = the backend's choice.

    Returns:
        [B, Sq, H, h] in the dtype of q; exactly zero, as are all gradients by it, where a query sees nothing.
    """
    queries = q.shape[1]
    sizes = BACKENDS[backend].sizes(queries, k.shape[1], q.shape[3]) if sizes is None else sizes
    return _attention(How(backend, sizes, interpret), *padded(q, k, v, rule, sizes.units))[:, :queries]


def padded(
    q: jax.Array, k: jax.Array, v: jax.Array, rule: Rule | None, units: tuple[int, int]
) -> tuple[jax.Array, jax.Array, jax.Array, Rule]:
    """The same with queries and keys added that neither see nor are seen, up to multiples of `units`."""
    more_q, more_k = (-x.shape[1] % unit for x, unit in zip((q, k), units, strict=True))
    rule = all_see_all(q.shape[1], k.shape[1]) if rule is None else rule
    return _pad(q, more_q), _pad(k, more_k), _pad(v, more_k), pad_rule(rule, more_q, more_k)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(how: How, q: jax.Array, k: jax.Array, v: jax.Array, rule: Rule) -> jax.Array:
    return BACKENDS[how.backend].forward(q, k, v, rule, how.sizes.forward, how.interpret)[0]


def _attention_forward(how: How, q: jax.Array, k: jax.Array, v: jax.Array, rule: Rule):
    out, log = BACKENDS[how.backend].forward(q, k, v, rule, how.sizes.forward, how.interpret)
    return out, (q, k, v, rule, out, log)


def _attention_backward(how: How, kept, d_out: jax.Array):
    q, k, v, rule, out, log = kept
    backend = BACKENDS[how.backend]
    delta = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(axis=-1).swapaxes(1, 2)
    given = Given(q, k, v, log, delta, d_out, rule)
    dq = backend.gradient_q(given, how.sizes.dq, how.interpret)
    return dq, *backend.gradient_kv(given, how.sizes.dkv, how.interpret), None


_attention.defvjp(_attention_forward, _attention_backward)


def _pad(x: jax.Array, more: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))) if more else x
