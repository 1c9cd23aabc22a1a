"""What a tile costs in the real model: Qwen2's vocabulary, tiles of 448 pixels, 256 image tokens each."""

import numpy as np
from PIL import Image

from configs.nvlm import model_config
from nvlm_jax.config import InputConfig
from nvlm_jax.inputs.batch import Message
from nvlm_jax.inputs.example import ExampleBuilder
from nvlm_jax.inputs.tags import tile_tags


def test_a_tile_takes_261_positions_in_d(qwen2_path):
    builder = ExampleBuilder(InputConfig(tokenizer=str(qwen2_path)), model_config("d", "72b"))
    assert {len(builder.tokenizer.encode(tag)) for tag in tile_tags(3, 2)} == {5}
    example = builder.prompt([Message("user", "<image>\nwhat?")], [Image.new("RGB", (3 * 448, 2 * 448))])
    first = np.flatnonzero(example.image_slots >= 0)[::256]
    assert len(first) == 7 and set(np.diff(first)) == {261}
