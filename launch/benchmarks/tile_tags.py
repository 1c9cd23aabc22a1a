"""Which way of telling NVLM-H's tiles apart is learned soonest, where nothing else can tell them apart.

    python -m launch.benchmarks.tile_tags [--ways=added,positions,...] [--steps=1600] [--seeds=3]

Pages of six tiles of four symbols are made as image tokens, without an encoder. A question names a row and, by the
tokens of its tag, a tile; the answer is the symbol there. A fresh decoder of two layers and its gated layers train on
it. Who reads the row and cannot tell the tiles guesses its most frequent symbol, right in about 28 of 100.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from flax import nnx

from configs.nvlm import TINY_ASSETS
from launch.benchmarks.output import run
from nvlm_jax.config import CROSS_TAGS, ConfigError, CrossAttentionConfig, DecoderConfig, ModelConfig, VisionConfig
from nvlm_jax.inputs.tags import pad_tags, tile_tags
from nvlm_jax.inputs.tokenizer import Tokenizer
from nvlm_jax.models.attention import CausalMask, TileMask
from nvlm_jax.models.build import build_model

TABLE = "table"  # the learned table of earlier checkpoints
WAYS = (*CROSS_TAGS[1:], TABLE)
TILES, ROWS, SYMBOLS, WIDTH = 6, 4, 16, 32
ASK, ROW, ANSWER, SYMBOL = 44, 40, 45, 100  # token ids
BATCH, PARTS = 32, 8  # samples of a step; parts of the training whose accuracy is told


def make_config(way: str) -> ModelConfig:
    """The model of one way."""
    table, how = (TILES, "") if way == TABLE else (0, way)
    return ModelConfig(
        arch="h",
        vision=VisionConfig(image_size=16, patch_size=8, width=16, layers=1, heads=1, head_dim=16, ff=16),
        decoder=DecoderConfig(512, WIDTH, 2, 2, 2, 16, 2 * WIDTH, rope_theta=1e4),
        projector_width=WIDTH,
        cross_attention=CrossAttentionConfig(1, 0.3, 0.3, table, tile_tags=how),
        pixel_shuffle=1,
        dtype="float32",
        frozen_dtype="float32",
        remat="none",
        unroll=2,
    )


def draw(key: jax.Array, tags: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Symbols int32 [B, T, N] of pages, questions int32 [B, S], answers int32 [B]."""
    keys = jax.random.split(key, 3)
    symbols = jax.random.randint(keys[0], (BATCH, TILES, ROWS), 0, SYMBOLS)
    tile, row = (jax.random.randint(k, (BATCH,), 0, n) for k, n in zip(keys[1:], (TILES, ROWS), strict=True))
    around = (jnp.full((BATCH, 1), token) for token in (ASK, ANSWER))
    first, last = around
    questions = jnp.concatenate([first, ROW + row[:, None], tags[tile], last], axis=1)
    return symbols, questions, SYMBOL + symbols[jnp.arange(BATCH), tile, row]


def train(way: str, steps: int, seeds: int) -> list[list[float]]:
    """Accuracy in each part of the training, of each seed."""
    tokenizer = Tokenizer(TINY_ASSETS)
    ids = [tokenizer.encode(name) for name in tile_tags(TILES, 1)[:TILES]]
    tags = jnp.asarray(pad_tags(ids, len(ids[0])))
    rng = np.random.default_rng(0)
    symbol, row = (jnp.asarray(rng.normal(0, 0.7, (n, WIDTH)), jnp.float32) for n in (SYMBOLS, ROWS))
    states = [nnx.split(build_model(make_config(way), seed)) for seed in range(seeds)]
    graphdef, params = states[0][0], jax.tree.map(lambda *leaves: jnp.stack(leaves), *(s[1] for s in states))
    schedule = optax.warmup_cosine_decay_schedule(0, 2e-3, min(100, steps // 4), steps, 2e-5)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.05))

    def loss(params: nnx.State, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(graphdef, params)
        symbols, questions, answers = draw(key, tags)
        (b, s), zeros = questions.shape, jnp.zeros(questions.shape, jnp.int32)
        index, number = jnp.broadcast_to(jnp.arange(s), (b, s)), jnp.broadcast_to(jnp.arange(1, TILES + 1), (b, TILES))
        seen = TileMask(zeros + 1, index, zeros, jnp.ones_like(number), jnp.zeros_like(number))
        known = model.tile_tags(jnp.broadcast_to(tags, (b, *tags.shape)), number)
        memory = model.cross_attention.memory(symbol[symbols] + row, number, seen, known)
        causal = CausalMask(zeros + 1, index, zeros + 1, index, aligned=True)
        hidden, _ = model.decoder(model.decoder.embed(questions), index, causal, model.cross_attention, memory)
        logits = model.logits(hidden[:, -1])
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, answers).mean()
        return nll, (logits.argmax(-1) == answers).mean()

    @jax.jit
    @jax.vmap
    def part(params: nnx.State, state: Any, keys: jax.Array) -> tuple[nnx.State, Any, jax.Array]:
        def step(carry: tuple[nnx.State, Any], key: jax.Array) -> tuple[tuple[nnx.State, Any], jax.Array]:
            params, state = carry
            (_, right), gradient = jax.value_and_grad(loss, has_aux=True)(params, key)
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), right

        (params, state), right = jax.lax.scan(step, (params, state), keys)
        return params, state, right.mean()

    state, shares = jax.vmap(optimizer.init)(params), []
    for number in range(PARTS):
        keys = jax.random.split(jax.random.key(number), (seeds, max(1, steps // PARTS)))
        params, state, right = part(params, state, keys)
        shares.append(np.round(np.asarray(right), 3).tolist())
    return np.transpose(shares).tolist()


def report(found: dict[str, list[list[float]]]) -> str:
    """A line a way: accuracy in the last part of the training, seed by seed."""
    lines = (f"{way:18}" + "  ".join(f"{100 * seed[-1]:5.1f}" for seed in seeds) for way, seeds in found.items())
    return "right, %, in the last eighth of the training, seed by seed\n" + "\n".join(lines)


if __name__ == "__main__":
    CHOSEN = flags.DEFINE_list("ways", list(WAYS), f"of {', '.join(WAYS)}")
    STEPS = flags.DEFINE_integer("steps", 1600, f"of training, {BATCH} samples each", lower_bound=PARTS)
    SEEDS = flags.DEFINE_integer("seeds", 3, "of weights and samples", lower_bound=1)

    def measure(directory: Path) -> dict[str, list[list[float]]]:
        if unknown := sorted(set(CHOSEN.value) - set(WAYS)):
            raise ConfigError(f"--ways: {', '.join(unknown)}; expected some of {', '.join(WAYS)}")
        return {way: train(way, STEPS.value, SEEDS.value) for way in CHOSEN.value}

    run("tile_tags", measure, report)
