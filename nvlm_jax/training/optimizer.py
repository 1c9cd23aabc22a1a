"""AdamW as the paper trains (Tables 10 and 11): decoupled decay, cosine with warm-up, clip by global norm."""

from __future__ import annotations

from typing import Any

import jax
import optax

from nvlm_jax.config import OptimizerConfig

# Last names of parameter paths that are vectors or scalars of a layer; stacked layers hide that from `ndim`.
VECTORS = frozenset({"scale", "bias", "scale1", "scale2", "attention_gate", "mlp_gate"})
GATES = frozenset({"attention_gate", "mlp_gate"})


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate of each step, 0-based: linear warm-up from 0, then cosine down to the minimum."""
    return optax.warmup_cosine_decay_schedule(
        0.0 if config.warmup_steps else config.learning_rate,
        config.learning_rate,
        config.warmup_steps,
        max(steps, config.warmup_steps + 1),
        config.min_learning_rate,
    )


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The gradient transformation for a run of `steps` steps."""

    def named(names: frozenset[str], tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: _last_name(path) in names, tree)

    def decayed(tree: Any) -> Any:
        return jax.tree.map(lambda vector: config.decay_vectors or not vector, named(VECTORS, tree))

    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(config.beta1, config.beta2, config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.masked(optax.scale(config.gate_learning_rate_scale), lambda tree: named(GATES, tree)),
        optax.scale_by_learning_rate(learning_rate(config, steps)),
    )


def _last_name(path: tuple[Any, ...]) -> str:
    names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
    return next(name for name in reversed(names) if name not in ("", "value"))
