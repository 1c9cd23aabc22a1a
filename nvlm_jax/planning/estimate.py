"""Memory and traffic by hand: parameters, optimizer, kept activations, and the most that passes by at one time.

A check on what the compiler says, the first sieve of the planner's search, and all there is for HBM traffic.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nvlm_jax.config import MeshConfig, RunConfig, TrainConfig
from nvlm_jax.models.flops import keys_per_tile
from nvlm_jax.parallel.sharding import batch_shardings, state_shardings
from nvlm_jax.planning.compile import abstract_batch, held_bytes
from nvlm_jax.training.checkpoints import abstract_state, with_shardings
from nvlm_jax.training.loss import chunk_size
from nvlm_jax.training.step import SplitModel, TrainState


class Held(NamedTuple):
    """Bytes on one device."""

    parameters: float
    optimizer: float
    frozen: float
    batch: float
    kept: float  # activations that wait for the backward pass
    passing: float  # the most of: the loss; a layer going backward beside all gradients, in float32; the encoder

    @property
    def total(self) -> float:
        return sum(self)


class Shares(NamedTuple):
    """A device's share of one accumulation step."""

    rows: float
    places: float  # of a row, inside a block
    between: float  # of a row, between blocks
    tiles: float


def shares(config: RunConfig, mesh: Mesh) -> Shares:
    """How much of an accumulation step each device computes."""
    groups = mesh.shape["data"] * mesh.shape["fsdp"]
    rows = config.train.batch_rows / config.train.accumulation / groups
    places = config.data.tokens_per_row / mesh.shape["context"]
    others = mesh.size // groups
    tiles = math.ceil(rows * config.data.tiles_per_row / others)
    return Shares(rows, places, places / mesh.shape["tensor"], tiles)


def held_by_hand(config: RunConfig, mesh: Mesh) -> Held:
    """Memory of one device, by hand: programs hold 0.91 to 1.2 of it (docs/scaling.md), less if room is short."""
    split, state = _state(config)
    trees = [
        with_shardings(tree, state_shardings(tree, mesh)) for tree in (state.params, state.opt_state, split.frozen)
    ]
    batch = held_bytes(with_shardings(abstract_batch(config), batch_shardings(mesh)))
    parameters, optimizer, frozen = (float(held_bytes(tree)) for tree in trees)
    kept, passing = _activations(config, mesh, gradients=parameters)
    return Held(parameters, optimizer, frozen, float(batch), kept, passing)


def hbm_traffic(config: RunConfig, mesh: Mesh) -> float:
    """Bytes that a step moves between a device's memory and its units, to within a factor of two.

    Weights are read once a pass, as gathered; the optimizer reads and writes each of its numbers; of a layer's
    activations about twelve arrays of the width and four of the feed-forward go by in each pass.
    """
    split, state = _state(config)
    item = jnp.dtype(config.model.dtype).itemsize
    tensor, passes = mesh.shape["tensor"], 4 if config.model.remat == "full" else 3
    counts = {
        part: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree[part]))
        for tree in (state.params, split.frozen)
        for part in tree
    }
    vision = counts.pop("vision", 0) * (4 if "vision" in config.train.trainable else 1)
    weights = config.train.accumulation * item * (vision + passes * sum(counts.values()) / tensor)
    trained = held_bytes(with_shardings(state.params, state_shardings(state.params, mesh)))
    optimizer = trained * (2 + 4 + 1)  # parameters, two moments, gradients
    share, d, v = shares(config, mesh), config.model.decoder, config.model.vision
    by_token = 12 * d.width / tensor + 4 * d.ff / tensor
    decoder = passes * d.layers * share.rows * share.places * by_token * item
    patches = 1 + (v.image_size // v.patch_size) ** 2
    vision_activations = v.layers * share.tiles * patches * (12 * v.width + 2 * v.ff) * item
    return weights + optimizer + config.train.accumulation * (decoder + vision_activations)


def _state(config: RunConfig) -> tuple[SplitModel, TrainState]:
    """Shapes of the run's arrays, made once for all ways to compute them: a search asks often."""
    model = dataclasses.replace(config.model, remat="none")
    return _abstract_state(dataclasses.replace(config, model=model, mesh=MeshConfig(), train=_one_step(config)))


def _one_step(config: RunConfig) -> TrainConfig:
    return dataclasses.replace(config.train, accumulation=1)


_abstract_state = functools.lru_cache(maxsize=4)(abstract_state)


class _Layer(NamedTuple):
    """Bytes of one layer's activations."""

    kept: float  # from the forward to the backward pass
    inside: float  # beside those while it goes backward


def _activations(config: RunConfig, mesh: Mesh, gradients: float) -> tuple[float, float]:
    """What is kept, and the most that passes by; `gradients`: bytes of all, in float32."""
    model, d, cross = config.model, config.model.decoder, config.model.cross_attention
    item, share, tensor = jnp.dtype(model.dtype).itemsize, shares(config, mesh), mesh.shape["tensor"]
    layer, encoder = _decoder_layer(config, share, tensor, item), _encoder_layer(config, share, item)
    loss, head_gradient = _loss(config, mesh, share, item)
    kept = layer.kept * (d.layers + (0 if cross is None else d.layers // cross.every))
    kept += 2 * share.rows * config.data.tiles_per_row * keys_per_tile(model) * d.width * item  # and their gradient
    if item < 4:  # parameters in the dtype of the computation, made before the loop over the layers
        kept += gradients * item / 4
    if "vision" in config.train.trainable:
        kept += encoder.kept * model.vision.layers
    inner = d.heads * d.head_dim
    gathered = 2 * item * (2 * d.width * inner + 3 * d.width * d.ff) / tensor
    backward = layer.inside + gathered + gradients + head_gradient
    if cross is not None:  # a gated layer is computed again before the layers behind it go backward
        again = share.rows * share.places * (3 * d.width + (d.ff + 3 * inner) / tensor)
        backward += again * item + gathered / 2
    return kept, max(backward, loss, encoder.inside)


def _decoder_layer(config: RunConfig, share: Shares, tensor: int, item: int) -> _Layer:
    """Kept is what it reads; with "dots" what its matrix products give, too: q, k, v and the feed-forward's two inside
    the block, two of the width behind it; with "none" all that it computes, much of it in float32 as well."""
    d, tokens = config.model.decoder, share.rows * share.places
    between, inner = share.rows * share.between * d.width * item, d.heads * d.head_dim
    inside = tokens * (3 * d.width + (4 * d.ff + 3 * inner) / tensor) * item
    products = tokens * (inner + 2 * d.kv_heads * d.head_dim + 2 * d.ff) / tensor * item + 2 * between
    return _Layer(between + {"full": 0.0, "dots": products, "none": 2 * inside}[config.model.remat], inside)


def _encoder_layer(config: RunConfig, share: Shares, item: int) -> _Layer:
    """Likewise."""
    v = config.model.vision
    patches = share.tiles * (1 + (v.image_size // v.patch_size) ** 2)
    inside = patches * (4 * v.width + 2 * v.ff) * item
    more = {"full": 0.0, "dots": patches * (5 * v.width + v.ff) * item, "none": 2 * inside}
    return _Layer(patches * v.width * item + more[config.model.remat], inside)


def _loss(config: RunConfig, mesh: Mesh, share: Shares, item: int) -> tuple[float, float]:
    """Scores in float32 and their gradient, the head's weights, gathered, and the gradient of those; and what waits of
    that until the decoder has gone backward.

    A device that has whole rows and the whole vocabulary holds the gradient as a sum in float32, which waits, as a copy
    in the weights' dtype, and as the sum over devices that comes back.
    """
    d, chunk = config.model.decoder, config.model.loss_chunk
    vocabulary, places = d.vocab_size / mesh.shape["tensor"], config.data.tokens_per_row
    head, trained = d.width * vocabulary, "decoder" in config.train.trainable
    if mesh.shape["tensor"] * mesh.shape["context"] > 1:
        chunk, gradient, waits = min(chunk, places) / mesh.shape["context"], item, item
    else:
        chunk, gradient, waits = chunk_size(places, chunk), 4 + 2 * item, 4
    scores = share.rows * chunk * vocabulary * (4 + item)
    return scores + head * (item + trained * gradient), trained * head * waits
