"""Tokenizers, a small model and images for the tests of inputs."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import pathlib

import numpy as np
import pytest
import tokenizers
from PIL import Image

from nvlm_jax.config import CrossAttentionConfig, DecoderConfig, InputConfig, ModelConfig, VisionConfig
from nvlm_jax.inputs.example import ExampleBuilder
from tests import qwen2

ROOT = pathlib.Path(__file__).parents[2]
TINY = str(ROOT / "nvlm_jax" / "assets" / "tiny")
TILE = 16  # pixels; 4 x 4 patches of 4 pixels, so 4 image tokens


@pytest.fixture(scope="session")
def tiny() -> str:
    """The tiny models' tokenizer."""
    return TINY


@pytest.fixture(scope="session")
def golden():
    """Read one of the golden JSON files."""
    return lambda name: json.loads((ROOT / "tests" / "goldens" / "hf" / name).read_text())


@pytest.fixture(scope="session")
def qwen2_raw() -> tokenizers.Tokenizer:
    """The Qwen2 vocabulary as the library has it: special tokens in a text are recognised."""
    return qwen2.build()


@pytest.fixture(scope="session")
def qwen2_path(qwen2_raw, tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("qwen2")
    qwen2_raw.save(str(directory / "tokenizer.json"))
    return str(directory)


@pytest.fixture(scope="session")
def builder():
    """Make an ExampleBuilder for a small model: `builder("x", template="plain")`."""

    @functools.cache
    def make(arch="d", groups=(), dense_labels=0, tokenizer=TINY, **inputs) -> ExampleBuilder:
        model = ModelConfig(
            arch=arch,
            vision=VisionConfig(image_size=TILE, patch_size=4),
            decoder=DecoderConfig(),
            cross_attention=None if arch == "d" else CrossAttentionConfig(),
            dense_labels=dense_labels,
        )
        return ExampleBuilder(dataclasses.replace(InputConfig(tokenizer=tokenizer), **inputs), model, groups)

    return make


@pytest.fixture(scope="session")
def png():
    """An image of tiles (cols, rows) as PNG; each tile is of one colour, 10, 20, 30 ... in reading order."""

    def make(cols=1, rows=1, first=10) -> bytes:
        values = first + 10 * np.arange(cols * rows).reshape(rows, cols)
        pixels = values.repeat(TILE, 0).repeat(TILE, 1).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).convert("RGB").save(file, "PNG")
        return file.getvalue()

    return make
