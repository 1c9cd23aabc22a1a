"""The golden NVLM-D checkpoint and its PyTorch outputs, for the tests that compare with them."""

import functools
import pathlib

import numpy as np
from flax import nnx

from nvlm_jax.config import ModelConfig
from nvlm_jax.convert import config_from_hf, names, read_part
from nvlm_jax.inputs.batch import THUMBNAIL, Batch
from nvlm_jax.models.build import abstract_model
from nvlm_jax.models.nvlm import NVLM

DIRECTORY = pathlib.Path(__file__).parent / "goldens" / "hf"
CASES = ("text", "thumb", "tiles")


@functools.cache
def expected() -> dict[str, np.ndarray]:
    return dict(np.load(DIRECTORY / "expected.npz"))


@functools.cache
def train_step() -> dict[str, np.ndarray]:
    return dict(np.load(DIRECTORY / "train_step.npz"))


def config() -> ModelConfig:
    return config_from_hf(DIRECTORY)[0]


def model() -> NVLM:
    settings = config()
    graphdef, state = nnx.split(abstract_model(settings))
    flat = {}
    for part in names.parts_of(settings):
        flat |= read_part(DIRECTORY, part, settings)
    leaves = [(path, value.replace(flat[path])) for path, value in nnx.to_flat_state(state)]
    return nnx.merge(graphdef, nnx.from_flat_state(leaves))


def batch(case: str, ids: np.ndarray | None = None, loss_mask: np.ndarray | None = None) -> Batch:
    """One row with the case's tokens; `loss_mask[t]` is 1 where token t is a target."""
    golden = expected()
    ids = golden[f"{case}/input_ids"] if ids is None else ids
    tiles = golden.get(f"{case}/tiles", np.zeros((0, 56, 56, 3), np.uint8))
    is_image = ids == golden["image_token_id"]
    count = len(tiles)
    weights = np.zeros(len(ids), np.float32)
    if loss_mask is not None:
        weights[:-1] = loss_mask[1:]
    row = Batch(
        tokens=ids,
        targets=np.append(ids[1:], 0).astype(np.int32),
        loss_weights=weights,
        loss_groups=np.zeros(len(ids), np.int32),
        segment_ids=np.ones(len(ids), np.int32),
        positions=np.arange(len(ids), dtype=np.int32),
        tiles=tiles,
        tile_segment_ids=np.ones(count, np.int32),
        tile_index=np.array([*range(1, count), THUMBNAIL][:count], np.int32) if count else np.zeros(0, np.int32),
        tile_start=np.zeros(count, np.int32),
        image_slots=np.where(is_image, np.cumsum(is_image) - 1, -1).astype(np.int32),
        tag_tile=np.zeros(len(ids), np.int32),
        tile_tags=np.zeros((count, 0), np.int32),
    )
    return Batch(*(np.asarray(value)[None] for value in row))
