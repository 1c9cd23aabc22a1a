"""A tiny run on generated data, shared by the tests of the data pipeline."""

import dataclasses
import pathlib

import pytest

from data_pipelines import embedded
from nvlm_jax.config import (
    CrossAttentionConfig,
    DataConfig,
    DatasetConfig,
    DecoderConfig,
    InputConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    VisionConfig,
)

TOKENIZER = pathlib.Path(__file__).parents[2] / "nvlm_jax" / "assets" / "tiny"


@pytest.fixture(scope="session")
def data_path(tmp_path_factory):
    """A directory with the embedded datasets qa, text and dense, 60 samples each."""
    path = tmp_path_factory.mktemp("data")
    embedded.prepare(path, ["qa", "text", "dense"], samples=60, processes=0)
    return path


@pytest.fixture
def make_config(data_path):
    """make_config(arch, blend={name: weight}, **fields of DataConfig) -> RunConfig of 12 steps of 4 rows."""

    def make(arch="d", blend=None, steps=12, batch_rows=4, inputs=None, path=data_path, **data):
        blend = {"qa": 0.75, "text": 0.25} if blend is None else blend
        model = ModelConfig(
            arch=arch,
            vision=VisionConfig(image_size=64, patch_size=8, width=96, layers=4, heads=3, head_dim=32, ff=384),
            decoder=DecoderConfig(vocab_size=512, width=128, layers=4, heads=4, kv_heads=2, head_dim=32, ff=384),
            cross_attention=None if arch == "d" else CrossAttentionConfig(every=2),
        )
        fields = {"tokens_per_row": 1024, "tiles_per_row": 14, "pack_window": 64} | data
        return RunConfig(
            model=model,
            inputs=dataclasses.replace(InputConfig(tokenizer=str(TOKENIZER)), **(inputs or {})),
            data=DataConfig(blend=tuple(DatasetConfig(n, f"{path}/{n}", w) for n, w in blend.items()), **fields),
            train=TrainConfig(steps=steps, batch_rows=batch_rows),
        )

    return make
