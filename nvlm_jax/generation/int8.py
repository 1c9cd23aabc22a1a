"""Weights in 8 bits for inference: a quarter of float32's memory, half of bfloat16's.

The matrices of all stacked layers become whole numbers with one scale for each layer and output, found by qwix. They
are turned back a layer at a time, inside the scan over layers. Embeddings, the head and vectors stay as they are.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx

from nvlm_jax.models.layers import Int8
from nvlm_jax.models.nvlm import NVLM


def with_int8_weights(model: NVLM) -> NVLM:
    """The model with the kernels of its layers as `Int8`; everything else is shared with the given one.

    Raises:
        ImportError: qwix is not installed (requirements-int8.txt).
    """
    import qwix

    def convert(path: tuple[Any, ...], leaf: nnx.Variable) -> nnx.Variable:
        once_an_image = path[0] == "cross_attention" and path[-2] in ("k", "v")
        if path[-1] != "kernel" or "layers" not in path or once_an_image:
            return leaf
        value = leaf.get_value()
        found = qwix.quantize(value, jnp.int8, channelwise_axes=(0, value.ndim - 1))
        return leaf.replace(Int8(found.qvalue, found.scale))

    graphdef, state = nnx.split(model)
    flat = nnx.to_flat_state(state)
    return nnx.merge(graphdef, nnx.from_flat_state([(path, convert(path, leaf)) for path, leaf in flat]))
