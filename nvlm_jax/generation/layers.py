"""The decoder's layers one by one, each with its own weights and its own part of the cache.

A loop over stacked layers takes each layer's weights and cache out of the stack, which copies them, for every token
anew. Here they are taken apart once, before the first token. And of the last layer only what is asked for is computed:
of a prompt its last token, and the keys and values of the others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from nvlm_jax.models.cross_attention import GatedCrossAttention, ImageMemory
from nvlm_jax.models.decoder import Cache, CacheMask, DecoderLayer, KeyValues, pick
from nvlm_jax.models.layers import Int8, turns
from nvlm_jax.models.nvlm import NVLM

# With more layers the programs take too long to compile, and the loop is used. Prompts are long: the loop costs them
# little. Small layers stay in it too, for a few questions take less time than compiling does, unless the engine is told
# that there will be many (`layers_apart`).
MOST_CHOOSING = 32
MOST_READING = 8
LEAST_BYTES = 4 * 2**20


class Layer(NamedTuple):
    """A decoder layer, and the gated layer before it where there is one."""

    own: DecoderLayer
    gated: GatedCrossAttention | None


Layers = list[Layer] | None  # None = in a loop


def layers_of(model: NVLM, most: int, least_bytes: int) -> Layers:
    """The model's layers; None where they stay in a loop: more than `most`, of fewer than `least_bytes`, or in 8 bits,
    which are turned back in it."""
    count = model.config.decoder.layers
    small = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model.decoder.layers))) < count * least_bytes
    own = None if count > most or small else _apart(model.decoder.layers)
    if own is None:
        return None
    if model.cross_attention is None:
        return [Layer(layer, None) for layer in own]
    gated = _apart(model.cross_attention.layers)
    every, place = len(own) // len(gated), model.cross_attention.place
    return [Layer(layer, gated[i // every] if i % every == place else None) for i, layer in enumerate(own)]


def split_layers(values: KeyValues, layers: Layers) -> KeyValues | list[KeyValues]:
    """Keys and values of all layers [L, ...] as `extend` takes them."""
    return values if layers is None else [KeyValues(*pair) for pair in zip(*values, strict=True)]


def joined_layers(values: KeyValues | list[KeyValues], layers: Layers) -> KeyValues:
    """The inverse: [L, ...]."""
    return values if layers is None else KeyValues(*(jnp.stack(parts) for parts in zip(*values, strict=True)))


def extend(
    model: NVLM,
    layers: Layers,
    x: jax.Array,
    positions: jax.Array,
    mask: CacheMask,
    past: Any,
    fresh: Any,
    memory: ImageMemory | None,
    only: jax.Array | None = None,
) -> tuple[jax.Array, Any]:
    """`NVLM.extend`, layer by layer where they are apart.

    Args:
        model: of these layers.
        layers: from `layers_of`.
        x: [B, S, D], embeddings.
        positions: int32 [B, S].
        mask: who sees what.
        past: keys and values of earlier tokens, as of `split_layers`; None = there are none.
        fresh: room for the latest tokens, likewise; None = just those that are read now.
        memory: with every gated layer's keys and values; None = no tile is seen by any row.
        only: int32 [B], the one token of each row whose hidden state is wanted; None = all.

    Returns:
        hidden [B, S, D], or with `only` [B, 1, D]; and the latest tokens' keys and values, as of `split_layers`.
    """
    if layers is None:
        hidden, fresh = model.extend(x, positions, mask, Cache(past, fresh), memory)
        return hidden if only is None else pick(hidden, only), fresh
    positions = turns(positions, model.config.decoder.head_dim, model.config.decoder.rope_theta)
    found, group = [], -1
    for number, (own, gated) in enumerate(layers):
        if gated is not None:
            group += 1
            if memory is not None:
                keys, values = memory.keys[group], memory.values[group]
                x = gated(x, keys, values, memory.visible, kept=True, real=memory.real)
        cache = Cache(past and past[number], fresh and fresh[number])
        x, values = own(x, positions, mask, cache, only if number == len(layers) - 1 else None)
        found.append(values)
    return model.decoder.norm(x), found


def _apart(layers: nnx.Module) -> list[Any] | None:
    graphdef, params = nnx.split(layers)
    leaves = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, Int8))
    if any(isinstance(leaf, Int8) for leaf in leaves):
        return None
    count = leaves[0].shape[0]
    return [nnx.merge(graphdef, jax.tree.map(lambda p, i=i: p[i], params)) for i in range(count)]
