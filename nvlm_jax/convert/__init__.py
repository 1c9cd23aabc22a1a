"""Hugging Face checkpoints in and out. The table of names is `names.py`; docs/checkpoints.md describes the layouts."""

from nvlm_jax.convert.hf_config import backbone_from_hf, config_from_hf
from nvlm_jax.convert.read import open_model, open_part, place_part, read_part
from nvlm_jax.convert.shards import CheckpointError

__all__ = [
    "CheckpointError",
    "backbone_from_hf",
    "config_from_hf",
    "open_model",
    "open_part",
    "place_part",
    "read_part",
]
