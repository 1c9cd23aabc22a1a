"""From a checked configuration to a model, real or abstract."""

from __future__ import annotations

import math

from flax import nnx

from nvlm_jax.config import ModelConfig
from nvlm_jax.models.dense_reader import DenseReader
from nvlm_jax.models.nvlm import NVLM

Model = NVLM | DenseReader


def build_model(config: ModelConfig, seed: int = 0) -> Model:
    """A freshly initialised model with float32 parameters."""
    return (DenseReader if config.dense_labels else NVLM)(config, nnx.Rngs(seed))


def abstract_model(config: ModelConfig) -> Model:
    """The model with shapes in place of arrays: no memory, whatever the size."""
    return nnx.eval_shape(lambda: build_model(config))


def parameter_counts(model: Model) -> dict[str, int]:
    """Number of parameters of each top-level part, in the order of the parts."""
    counts: dict[str, int] = {}
    for path, value in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        counts[str(path[0])] = counts.get(str(path[0]), 0) + math.prod(value.shape)
    return counts
