"""From shuffled vision features to the decoder's width (paper, Table 10; released model: `mlp1`)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from nvlm_jax.models.layers import gelu, linear


class Projector(nnx.Module):
    """LayerNorm, then one linear layer (NVLM-X) or linear, GELU, linear (NVLM-D and NVLM-H); no biases."""

    def __init__(self, din: int, inner: int, dout: int, rngs: nnx.Rngs, dtype: str):
        # use_fast_variance=False: E[x^2] - E[x]^2 loses digits that the reference keeps.
        self.norm = nnx.LayerNorm(din, epsilon=1e-5, use_fast_variance=False, dtype=jnp.dtype(dtype), rngs=rngs)
        self.first = linear(din, inner or dout, rngs, dtype)
        self.second = linear(inner, dout, rngs, dtype) if inner else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C * factor**2] -> [..., D]."""
        x = self.first(self.norm(x))
        return x if self.second is None else self.second(gelu(x))
