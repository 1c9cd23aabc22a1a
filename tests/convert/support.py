"""Small random models in checkpoint form, shared by the tests of this folder."""

import ml_dtypes
import numpy as np

from nvlm_jax.config import CrossAttentionConfig, DecoderConfig, InputConfig, ModelConfig, VisionConfig
from nvlm_jax.convert import names

INPUTS = InputConfig(tokenizer="", max_tiles=4, thumbnail_tag="<tile_global>", system="Be brief.")


def small(arch: str = "d", **decoder) -> ModelConfig:
    return ModelConfig(
        arch=arch,
        vision=VisionConfig(image_size=28, patch_size=7, width=15, layers=2, heads=3, head_dim=5, ff=22),
        decoder=DecoderConfig(**({"vocab_size": 70, "width": 12, "layers": 4, "heads": 2, "kv_heads": 1, "head_dim": 6,
                                  "ff": 17} | decoder)),
        projector_width=0 if arch == "x" else 11,
        cross_attention=None if arch == "d" else CrossAttentionConfig(2, tag_embeddings=4 if arch == "h" else 0),
        dtype="float32",
        frozen_dtype="float32",
    )  # fmt: skip


def random_parameters(
    config: ModelConfig, dtype: str = "float32", seed: int = 0, scale: float = 1.0
) -> dict[names.Path, np.ndarray]:
    """Normal values for all parameters, times `scale`; with dtype "mixed", every other one is bfloat16."""
    rng = np.random.default_rng(seed)
    found = {}
    for part in names.parts_of(config):
        for i, tensor in enumerate(names.tensors(config, part)):
            name = dtype if dtype != "mixed" else ("float32", "bfloat16")[i % 2]
            values = (scale * rng.normal(size=tensor.stacked_shape)).astype(np.float32)
            found[tensor.ours] = values.astype(ml_dtypes.bfloat16 if name == "bfloat16" else np.float32)
    return found


def assert_same(got: dict, want: dict) -> None:
    """Equal bit for bit, dtypes included."""
    assert got.keys() == want.keys()
    for path, value in want.items():
        assert got[path].dtype == value.dtype, path
        assert np.array_equal(np.asarray(got[path][...]), value), path
