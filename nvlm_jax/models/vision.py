"""InternViT: the vision encoder of all three architectures (paper, section 4.1; checkpoint InternViT-6B-448px-V1-5)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from nvlm_jax.config import VisionConfig
from nvlm_jax.models.attention import attend
from nvlm_jax.models.axes import constrain, parts
from nvlm_jax.models.layers import TABLE_INIT, gelu, linear, rms_norm, scan_layers, stack

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)


def normalise(tiles: jax.Array) -> jax.Array:
    """uint8 [..., P, P, 3] -> float32 of the same shape: RGB / 255, minus the mean, over the deviation."""
    return (tiles.astype(jnp.float32) / 255.0 - jnp.array(PIXEL_MEAN)) / jnp.array(PIXEL_STD)


def pixel_shuffle(features: jax.Array, factor: int) -> jax.Array:
    """Each factor x factor block of neighbouring patches becomes one token (InternVL's ps_version "v2").

    [tiles, patches, C] -> [tiles, patches / factor**2, C * factor**2]; channels ordered (row, column, channel).
    """
    side = int(features.shape[1] ** 0.5)
    pattern = "t (y dy x dx) c -> t (y x) (dy dx c)"
    return rearrange(features, pattern, y=side // factor, dy=factor, x=side // factor, dx=factor)


def spread_tiles(tiles: jax.Array) -> jax.Array:
    """[B, T, ...] -> [B * T (+ padding), ...], as many tiles on each device of the mesh as on any other.

    Heads do not divide (25 in InternViT-6B), tiles do: those of each group of rows go to the devices that share them,
    padded to a multiple of their number.
    """
    grouped = tiles.reshape(parts("rows"), -1, *tiles.shape[2:])
    extra = -grouped.shape[1] % (parts("tiles") // parts("rows"))
    grouped = jnp.pad(grouped, ((0, 0), (0, extra), *((0, 0),) * (tiles.ndim - 2)))
    return constrain(grouped.reshape(-1, *tiles.shape[2:]), "tiles", *(None,) * (tiles.ndim - 2))


def gather_tiles(tokens: jax.Array, rows: int, tiles: int) -> jax.Array:
    """The inverse of `spread_tiles`, for what was made of each tile: [.., N, D] -> [B, T, N, D]."""
    tokens = constrain(tokens, "tiles", None, None)
    grouped = tokens.reshape(parts("rows"), -1, *tokens.shape[1:])
    grouped = constrain(grouped, "rows", None, None, None)
    return grouped[:, : rows * tiles // parts("rows")].reshape(rows, tiles, *tokens.shape[1:])


def position_table(side: int, width: int) -> jax.Array:
    """What the learned positions start from: float32 [1, 1 + side**2, width], zeros for the class token.

    Sines and cosines of each patch's row and column, of periods from 2 to 4 * side patches, so that attention to what
    stands beside a patch is soon learned; as large as the patches' own embedding.
    """
    count = width // 4
    frequencies = jnp.pi * (2.0 * side) ** -jnp.linspace(0.0, 1.0, count)
    angles = jnp.arange(side)[:, None] * frequencies
    line = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1) / jnp.sqrt(2.0)
    rows, columns = jnp.repeat(line, side, axis=0), jnp.tile(line, (side, 1))
    table = jnp.concatenate([rows, columns], axis=1)
    return jnp.pad(table, ((1, 0), (0, width - 4 * count)))[None]


class VisionAttention(nnx.Module):
    """Self-attention over the patches of one tile; q and k are normalised over all heads at once."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs, dtype: str):
        inner = config.heads * config.head_dim
        self.qkv = linear(config.width, 3 * inner, rngs, dtype, bias=config.qkv_bias)
        self.out = linear(inner, config.width, rngs, dtype, bias=True)
        self.q_norm = rms_norm(inner, config.norm_eps, rngs, dtype) if config.qk_norm else None
        self.k_norm = rms_norm(inner, config.norm_eps, rngs, dtype) if config.qk_norm else None
        self.heads = config.heads

    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = jnp.split(self.qkv(x), 3, axis=-1)
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (rearrange(a, "t p (n h) -> t p n h", n=self.heads) for a in (q, k, v))
        return self.out(rearrange(attend(q, k, v, axes=("tiles", None, None)), "t p n h -> t p (n h)"))


class VisionLayer(nnx.Module):
    """Pre-norm block with LayerScale on both branches."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs, dtype: str):
        scale = jnp.full((config.width,), config.layer_scale_init, jnp.float32)
        self.norm1 = rms_norm(config.width, config.norm_eps, rngs, dtype)
        self.attention = VisionAttention(config, rngs, dtype)
        self.scale1 = nnx.Param(scale)
        self.norm2 = rms_norm(config.width, config.norm_eps, rngs, dtype)
        self.up = linear(config.width, config.ff, rngs, dtype, bias=True)
        self.down = linear(config.ff, config.width, rngs, dtype, bias=True)
        self.scale2 = nnx.Param(scale)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = constrain(x, "tiles", None, None)
        x = x + self.attention(self.norm1(x)) * self.scale1[...].astype(x.dtype)
        hidden = gelu(self.up(self.norm2(x)))
        return x + self.down(hidden) * self.scale2[...].astype(x.dtype)


class VisionEncoder(nnx.Module):
    """Tiles -> patch features of the last layer."""

    def __init__(
        self, config: VisionConfig, rngs: nnx.Rngs, dtype: str = "float32", remat: str = "none", unroll: int = 1
    ):
        self.config, self.dtype, self.remat, self.unroll = config, dtype, remat, unroll
        self.patch = linear(3 * config.patch_size**2, config.width, rngs, dtype, bias=True)
        self.class_token = nnx.Param(TABLE_INIT(rngs.params(), (1, 1, config.width)))
        self.position = nnx.Param(position_table(config.image_size // config.patch_size, config.width))
        self.layers = stack(lambda rngs: VisionLayer(config, rngs, dtype), config.layers, rngs)

    def embed(self, tiles: jax.Array) -> jax.Array:
        """uint8 [tiles, P, P, 3] -> [tiles, 1 + patches, C], the class token first."""
        size = self.config.patch_size
        pixels = rearrange(normalise(tiles), "t (y dy) (x dx) c -> t (y x) (dy dx c)", dy=size, dx=size)
        x = self.patch(pixels)
        first = jnp.broadcast_to(self.class_token[...], (x.shape[0], 1, x.shape[2])).astype(x.dtype)
        return jnp.concatenate([first, x], axis=1) + self.position[...].astype(x.dtype)

    def hidden_states(self, tiles: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The embedding [tiles, 1 + patches, C] and every layer's output [layers, tiles, 1 + patches, C]."""
        x = self.embed(tiles)
        _, states = scan_layers(self.layers, lambda layer, x, _: (layer(x),) * 2, x)
        return x, states

    def __call__(self, tiles: jax.Array) -> jax.Array:
        """uint8 [tiles, P, P, 3] -> [tiles, patches, C]: the last layer without the class token."""
        how = {"remat": self.remat, "unroll": self.unroll}
        x, _ = scan_layers(self.layers, lambda layer, x, _: (layer(x), None), self.embed(tiles), **how)
        return x[:, 1:]
