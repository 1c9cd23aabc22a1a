"""A run whose whole configuration stands in a file: `configs/resolved.py:runs/sweep/VARIANT/seed=0/sft.json`.

The file holds the keys of `nvlm_jax.config.RunConfig` as JSON, or a workdir's config.json, which has them under
`config`. `launch.sweep` writes one for each stage of each variant; any of them can be trained by hand.
"""

from __future__ import annotations

import ml_collections

from nvlm_jax import json_text
from nvlm_jax.config import ConfigError, RunConfig, from_mapping, to_mapping


def get_config(path: str) -> ml_collections.ConfigDict:
    """The configuration in the file at `path`.

    Raises:
        ConfigError: no file there, no JSON in it, or keys and values that `RunConfig` does not take.
    """
    try:
        found = json_text.load(path)
        config = from_mapping(RunConfig, found.get("config", found), stored=True)  # who trains checks ranges
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"configs/resolved.py: {path!r} is no JSON file with a configuration: {error}") from error
    return ml_collections.ConfigDict(to_mapping(config))
