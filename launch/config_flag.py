"""The flag --config of every command that takes a run: its file is found by path, or by name from any directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from configs import locate
from nvlm_jax.config import ConfigError, RunConfig, from_mapping


class _Parser(ConfigFileFlagParser):
    def parse(self, path: str) -> ml_collections.ConfigDict:
        file, colon, choices = path.partition(":")
        try:
            config = super().parse(locate(file) + colon + choices)
        except Exception as error:  # ml_collections puts a traceback into the message of some
            cause = error.__context__ if str(error).startswith("Error whilst parsing") else error
            text = str(cause) if isinstance(cause, ConfigError) else f"does not run: {type(cause).__name__}: {cause}"
            raise ValueError(text) from cause
        if not isinstance(config, ml_collections.ConfigDict):
            raise ValueError(f"get_config gives {type(config).__name__}; a ConfigDict would be right")
        return config


def run_config(mapping: Mapping[str, Any]) -> RunConfig:
    """The run that --config and its flags ask for; an LLM brings its tokenizer unless a flag names another.

    Args:
        mapping: the value of --config, as a plain mapping.

    Raises:
        ConfigError: as `from_mapping`; or `init` names a checkpoint that cannot be read.
    """
    config, given = from_mapping(RunConfig, mapping), config_flags.get_override_values(flags.FLAGS["config"])
    if given.get("inputs.system"):  # the default text, too, where it is asked for
        config = dataclasses.replace(config, inputs=dataclasses.replace(config.inputs, system=given["inputs.system"]))
    named = given.get("init.llm") or given.get("init.checkpoint") or not config.inputs.tokenizer
    if not named or "inputs.tokenizer" in given:
        return config
    from nvlm_jax.training.llm_tokenizer import with_tokenizer_of_llm  # imports JAX, which preparing data does without

    return with_tokenizer_of_llm(config)


def define_config(text: str) -> flags.FlagHolder[ml_collections.ConfigDict]:
    """--config=FILE[:CHOICES], and --config.KEY=VALUE for each key that the file's configuration has.

    Args:
        text: the flag's help.
    """
    holder = config_flags.DEFINE_config_file("config", None, text, lock_config=True)
    flags.FLAGS["config"].parser = _Parser("config", lock_config=True)
    return holder
