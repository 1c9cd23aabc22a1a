"""Show one batch of any run as an HTML page: images, tiles with their tags, every token, and which tiles it sees.

    python -m launch.show_batch --config=configs/nvlm.py:arch=x,size=tiny,stage=sft --out=page.html --step=0 --rows=4
    python -m launch.show_batch --config=configs/nvlm.py:arch=d,size=72b,stage=sft --blend=sft --data=data --out=a.html
    python -m launch.show_batch --config=configs/nvlm.py:size=tiny --picture=docs/images/page_tiles.png

The page holds everything it shows and makes no request. `--picture` draws one generated page cut into tiles by the
run's settings, with their tags; it needs no dataset. No model is built: what sees what is asked of the model's own
masks, on the CPU.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys

import jax
import numpy as np
from absl import app, flags
from flax import nnx

from data_pipelines import picture, show
from data_pipelines.blend import PlanError
from data_pipelines.records import DatasetError
from launch.blends import with_blend
from launch.command import run_command
from launch.config_flag import define_config, run_config
from nvlm_jax.config import ConfigError, ModelConfig
from nvlm_jax.inputs.batch import Batch
from nvlm_jax.models.attention import CausalMask, TileMask
from nvlm_jax.models.cross_attention import CrossAttention

CONFIG = define_config("configs/nvlm.py:arch=x,size=tiny,stage=sft")
OUT = flags.DEFINE_string("out", None, "the HTML file")
STEP = flags.DEFINE_integer("step", 0, "which step's batch", lower_bound=0)
ROWS = flags.DEFINE_integer("rows", 4, "how many rows of it", lower_bound=1)
PICTURE = flags.DEFINE_string("picture", None, "a PNG file: one generated page and its tiles")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; every option is a flag, --name=value")
    if not (OUT.value or PICTURE.value):
        raise app.UsageError("nothing to write: give --out=page.html, --picture=page.png or both")
    jax.config.update("jax_platforms", "cpu")  # a training run may hold the accelerator
    try:
        config = run_config(with_blend(CONFIG.value))
        if PICTURE.value:
            picture.write_picture(pathlib.Path(PICTURE.value), config.inputs, config.model.vision.image_size)
            print(PICTURE.value)
        if OUT.value:
            shown = show.read_batch(config, STEP.value, ROWS.value)
            show.write_page(pathlib.Path(OUT.value), show.describe(shown, tiles_seen(config.model, shown.batch)))
            tokens, tiles = shown.info.token_fill, shown.info.tile_fill
            print(f"{OUT.value}: {tokens:.1%} of the batch's tokens and {tiles:.1%} of its tiles are filled")
    except (ConfigError, DatasetError, PlanError, FileNotFoundError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


def tiles_seen(model: ModelConfig, batch: Batch) -> show.Sees:
    """Which tiles each token sees, by the masks that the model itself uses.

    Args:
        model: for its architecture and cross-attention; no weights are made.
        batch: NumPy arrays of R rows, S tokens and T tiles.
    """
    return show.Sees(_through_cross_attention(model, batch), _in_the_decoder(model, batch))


def _through_cross_attention(model: ModelConfig, batch: Batch) -> np.ndarray:
    (r, s), t = batch.tokens.shape, batch.tile_index.shape[1]
    if model.cross_attention is None or not t:
        return np.zeros((r, s, t), bool)
    # Keys do not matter here, only the mask.
    settings = dataclasses.replace(model.cross_attention, tag_embeddings=0, tile_tags="")
    layers = nnx.eval_shape(lambda: CrossAttention(settings, model.decoder, model.arch, nnx.Rngs(0), model.dtype))
    index = np.broadcast_to(np.arange(s), (r, s))
    mask = TileMask(batch.segment_ids, index, batch.tag_tile, batch.tile_segment_ids, batch.tile_start)
    return np.asarray(layers.memory(np.zeros((r, t, 0, 0)), batch.tile_index, mask).visible)


def _in_the_decoder(model: ModelConfig, batch: Batch) -> np.ndarray:
    """A tile's image tokens count as seen from the last of them on."""
    (r, s), t = batch.tokens.shape, batch.tile_index.shape[1]
    if not t or model.dense_labels:  # the encoder's labels have no decoder
        return np.zeros((r, s, t), bool)
    index = np.broadcast_to(np.arange(s), (r, s))
    held, last = np.zeros((r, t), np.int32), np.zeros((r, t), np.int32)
    row, place = np.nonzero(batch.image_slots >= 0)
    tile = batch.image_slots[row, place] // model.tokens_per_tile
    held[row, tile] = batch.segment_ids[row, place]
    np.maximum.at(last, (row, tile), place)
    return np.asarray(CausalMask(batch.segment_ids, index, held, last).block(0, t))


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    run_command(main)
