"""Small pieces shared by the encoder, the decoder and the cross-attention; and the scan over stacked layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from nvlm_jax.models.axes import constrain, split

M = TypeVar("M", bound=nnx.Module)

FEW = 64  # tokens of a row
TABLE_INIT = nnx.initializers.normal(0.02)  # of embedding tables
KERNEL_INIT = nnx.initializers.lecun_normal()  # of matrices: 0.02 everywhere leaves narrow models unable to look up

REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Int8(NamedTuple):
    """A stack of matrices in 8 bits: values * scale. For inference alone; see generation/int8.py."""

    values: jax.Array  # int8 [L, din, dout]
    scale: jax.Array  # [L, 1, dout]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape


def linear(din: int, dout: int, rngs: nnx.Rngs, dtype: str, bias: bool = False) -> nnx.Linear:
    """`nnx.Linear` with this project's defaults: parameters in float32, computation in `dtype`."""
    return nnx.Linear(din, dout, use_bias=bias, dtype=jnp.dtype(dtype), kernel_init=KERNEL_INIT, rngs=rngs)


def rms_norm(width: int, eps: float, rngs: nnx.Rngs, dtype: str) -> nnx.RMSNorm:
    """RMSNorm whose mean square is taken in float32."""
    return nnx.RMSNorm(width, epsilon=eps, dtype=jnp.dtype(dtype), rngs=rngs)


class GatedMLP(nnx.Module):
    """down(silu(gate(x)) * up(x)), the feed-forward of Qwen2 and Llama."""

    def __init__(self, width: int, ff: int, rngs: nnx.Rngs, dtype: str):
        self.gate = linear(width, ff, rngs, dtype)
        self.up = linear(width, ff, rngs, dtype)
        self.down = linear(ff, width, rngs, dtype)

    @jax.named_scope("mlp")
    def __call__(self, x: jax.Array) -> jax.Array:
        if split():  # rows and places lie on different mesh axes and cannot become one dimension where they are
            x = constrain(x, "rows", "places", None)
            hidden = jax.nn.silu(self.gate(x)) * self.up(x)
            return constrain(self.down(constrain(hidden, "rows", "places", "mlp")), "rows", "between", None)
        # As rows of one matrix: going backward, XLA's CPU backend takes half again as long over three axes.
        rows = x.reshape(-1, x.shape[-1])
        return self.down(jax.nn.silu(self.gate(rows)) * self.up(rows)).reshape(x.shape)


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU, by erf as PyTorch has it: `jax.nn.gelu` takes erfc, which costs several times as much."""
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1.0 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


def turns(positions: jax.Array, width: int, theta: float) -> jax.Array:
    """int32 [B, S] -> float32 [B, S, 2, width / 2]: cosines and sines of rotary positions, the same for all layers.

    Args:
        positions: within each sample.
        width: of a head, h.
        theta: base of the wavelengths.
    """
    half = width // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)

    def turn(positions: jax.Array) -> jax.Array:
        angles = positions[..., None].astype(jnp.float32) * frequencies
        return jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-2)

    # XLA's CPU backend fuses whatever it can into what uses it, and would compute these again for every head of every
    # layer, forward and backward. What a loop has made it leaves as it is; for a few tokens a loop is not worth it.
    return turn(positions) if split() or positions.shape[1] < FEW else jax.lax.map(turn, positions)


def rotate(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
    """Rotary position embedding in the half-split convention of Llama and Qwen2.

    Args:
        x: [B, S, H, h].
        positions: int32 [B, S], or their `turns`.
        theta: base of the wavelengths.
    """
    if positions.ndim == 2:
        positions = turns(positions, x.shape[-1], theta)
    cos, sin = positions[:, :, None, 0], positions[:, :, None, 1]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def stack(make: Callable[[nnx.Rngs], M], count: int, rngs: nnx.Rngs) -> M:
    """`count` layers as one module whose parameters carry a leading layer axis."""

    @nnx.split_rngs(splits=count)
    @nnx.vmap(in_axes=0, out_axes=0)
    def create(rngs: nnx.Rngs) -> M:
        return make(rngs)

    return create(rngs)


def rematerialised(function: Callable[..., Any], remat: str) -> Callable[..., Any]:
    """`function` whose intermediate values are recomputed in the backward pass, as the policy `remat` says."""
    if remat == "none":
        return function
    return jax.checkpoint(function, policy=REMAT_POLICIES[remat], prevent_cse=False)


def scan_layers(
    layers: nnx.Module,
    body: Callable[[Any, Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any = None,
    *,
    remat: str = "none",
    unroll: int = 1,
    group: int | None = None,
) -> tuple[Any, Any]:
    """`lax.scan` over a stacked module: `carry, y = body(layer, carry, x)` for each layer in turn.

    With `group`, consecutive runs of that many layers are handed to `body` as one stacked module, so that scans nest:
    compile time does not grow with depth even where something stands between the runs.
    """
    graphdef, params = nnx.split(layers)
    if group is not None:
        params = jax.tree.map(lambda p: p.reshape(-1, group, *p.shape[1:]), params)

    def step(carry: Any, scanned: Any) -> tuple[Any, Any]:
        params, x = scanned
        return body(nnx.merge(graphdef, whole(params) if group is None else params), carry, x)

    return jax.lax.scan(rematerialised(step, remat), carry, (params, xs), unroll=unroll)


def whole(params: Any) -> Any:
    """Parameters of one layer, `Int8` matrices turned back."""

    def turn(leaf: Any) -> Any:
        return leaf.values.astype(leaf.scale.dtype) * leaf.scale if isinstance(leaf, Int8) else leaf

    return jax.tree.map(turn, params, is_leaf=lambda leaf: isinstance(leaf, Int8))
