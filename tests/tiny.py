"""A model small enough to compile in seconds, batches made by hand, and a run of it with data from memory."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nvlm_jax.config import (
    CrossAttentionConfig,
    DataConfig,
    DecoderConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    VisionConfig,
)
from nvlm_jax.inputs.batch import THUMBNAIL, Batch
from nvlm_jax.models.build import Model, abstract_model
from nvlm_jax.parallel.sharding import path_text

TRAINABLE = {
    "d": ("projector", "decoder"),
    "x": ("projector", "cross_attention", "decoder"),
    "h": ("projector", "cross_attention", "decoder"),
}


def make_model_config(arch: str, **changes: Any) -> ModelConfig:
    """Two layers; every width divides by 8. Gates start open, so that gradients pass."""
    return ModelConfig(
        arch=arch,
        vision=VisionConfig(image_size=16, patch_size=4, width=24, layers=2, heads=3, head_dim=8, ff=32),
        decoder=DecoderConfig(64, 32, 2, 4, 2, 8, 48, rope_theta=1e4),
        projector_width=0 if arch == "x" else 40,
        cross_attention=None if arch == "d" else CrossAttentionConfig(1, 0.5, 0.5, 6 if arch == "h" else 0),
        dtype="float32",
        **({"frozen_dtype": "float32", "remat": "none"} | changes),
    )


def make_run_config(arch: str, **train: Any) -> RunConfig:
    """A run of that model on rows of 32 tokens and 4 tiles, on one device."""
    return RunConfig(
        name=f"test-{arch}",
        model=make_model_config(arch),
        data=DataConfig(tokens_per_row=32, tiles_per_row=4),
        optimizer=OptimizerConfig(1e-2, 1e-3, warmup_steps=2),
        train=TrainConfig(**({"steps": 6, "batch_rows": 8, "trainable": TRAINABLE[arch]} | train)),
        mesh=MeshConfig(),
    )


def make_model(config: ModelConfig, seed: int = 0) -> Model:
    """The model with random float32 parameters from NumPy: nothing to compile."""
    random = np.random.default_rng(seed)
    graphdef, abstract = nnx.split(abstract_model(config))

    def draw(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        name = path_text(path).split("/")[-1]
        noise = random.normal(0, 0.1, leaf.shape).astype(np.float32)
        return jnp.asarray(noise + {"scale": 1.0, "attention_gate": 0.5, "mlp_gate": 0.5}.get(name, 0.0), jnp.float32)

    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(draw, abstract))


def make_batch(config: ModelConfig, rows: int, seed: int, tokens: int = 32, tiles: int = 4, groups: int = 2) -> Batch:
    """Valid packed rows, of text-only samples and of samples with one or two tiles and a thumbnail.

    Trained tokens are very uneven: all of some rows' tokens, one or none of others'.
    """
    random = np.random.default_rng(seed)
    per_tile = config.tokens_per_tile
    batch = Batch(*(np.zeros((rows, tokens), np.int32) for _ in Batch._fields))._replace(
        loss_weights=np.zeros((rows, tokens), np.float32),
        tiles=np.zeros((rows, tiles, config.vision.image_size, config.vision.image_size, 3), np.uint8),
        image_slots=np.full((rows, tokens), -1, np.int32),
        **{name: np.zeros((rows, tiles), np.int32) for name in ("tile_segment_ids", "tile_index", "tile_start")},
    )
    for row in range(rows):
        place, tile, segment = 0, 0, 0
        while tokens - place >= 6:
            count = int(random.choice([0, 0, 1, 3]))
            shown = {"d": range(count), "x": (), "h": range(count - 1, count) if count else ()}[config.arch]
            length = int(random.integers(4, 9)) + count + per_tile * len(shown)
            if length > tokens - place or tile + count > tiles:
                break
            segment += 1
            _write_sample(batch, random, config, row, place, tile, segment, length, count, shown)
            place, tile = place + length, tile + count
        batch.tiles[row, :tile] = random.integers(0, 256, batch.tiles[row, :tile].shape)
        used = batch.segment_ids[row] > 0
        share = (1.0, 0.5, 0.1, 0.0)[row % 4]
        batch.loss_weights[row] = used & (random.random(tokens) < share) & (batch.image_slots[row] < 0)
        batch.loss_groups[row] = np.where(batch.loss_weights[row] > 0, random.integers(0, groups + 1, tokens), 0)
    return batch


def _write_sample(batch, random, config, row, place, tile, segment, length, count, shown) -> None:
    """One sample of `length` tokens from `place` on, its `count` tiles from `tile` on, its image first."""
    span, per_tile = slice(place, place + length), config.tokens_per_tile
    batch.tokens[row, span] = random.integers(1, config.decoder.vocab_size, length)
    batch.targets[row, span] = random.integers(1, config.decoder.vocab_size, length)
    batch.segment_ids[row, span] = segment
    batch.positions[row, span] = np.arange(length)
    at = place
    for k in range(count):
        batch.tile_segment_ids[row, tile + k] = segment
        batch.tile_index[row, tile + k] = THUMBNAIL if k == count - 1 else k + 1
        batch.tile_start[row, tile + k] = place
        if config.arch != "h" or k == count - 1:
            batch.tag_tile[row, at] = tile + k + 1
            at += 1
        if k in shown:
            batch.image_slots[row, at : at + per_tile] = (tile + k) * per_tile + np.arange(per_tile)
            at += per_tile


@dataclasses.dataclass(frozen=True)
class Info:
    """What the loop asks of a batch."""

    sample_ids: tuple[tuple[str, ...], ...]
    sample_hash: str
    token_fill: float
    tile_fill: float
    samples: int
    bad: tuple[Any, ...] = ()


def make_batches(config: RunConfig, start: int) -> Iterator[tuple[Batch, Info]]:
    """Batches of steps `start` .. `train.steps`, each a function of its step alone."""
    for step in range(start, config.train.steps):
        batch = make_batch(config.model, config.train.batch_rows, step)
        ids = tuple((f"step{step}/row{row}",) for row in range(config.train.batch_rows))
        fills = float((batch.segment_ids > 0).mean()), float((batch.tile_segment_ids > 0).mean())
        yield batch, Info(ids, hashlib.sha256(repr(ids).encode()).hexdigest()[:16], *fills, samples=len(ids))
