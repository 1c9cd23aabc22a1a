"""The flag --config of every command that takes a run: its file is found by path, or by name from any directory."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import sys
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
        if not pathlib.Path(locate(file)).is_file():
            raise FileNotFoundError(
                f"--config={file}: no such file; a configuration is a Python file such as configs/nvlm.py"
            )
        try:
            config = super().parse(locate(file) + colon + choices)
        except Exception as error:  # ml_collections puts a traceback into the message of some
            cause = error.__context__ if str(error).startswith("Error whilst parsing") else error
            text = str(cause) if isinstance(cause, ConfigError) else f"does not run: {type(cause).__name__}: {cause}"
            raise ValueError(text) from cause
        if not isinstance(config, ml_collections.ConfigDict):
            raise ValueError(f"get_config gives {type(config).__name__}; a ConfigDict would be right")
        _check_places(config)
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


def _check_places(config: ml_collections.ConfigDict) -> None:
    """Raise ValueError for a flag of a dataset that the blend does not have: `--config.data.blend[7].path=...`."""
    size = len(config.get("data", {}).get("blend", ()))
    for argument in sys.argv:
        found = re.match(r"--?config\.data\.blend\[(\d+)\]", argument)
        if found and int(found[1]) >= size:
            there = f"it has {size} datasets, 0 to {size - 1}" if size else "it has none"
            text = f"{argument}: data.blend has no dataset {found[1]}; {there}. --blend=NAME:PATH:WEIGHT gives others"
            raise ValueError(text)


def with_brackets(argument: str) -> str:
    """The places of lists as ml_collections wants them.

    >>> with_brackets("--config.data.blend.0.path=a.0.b")
    '--config.data.blend[0].path=a.0.b'
    """
    key, equal, value = argument.partition("=")
    if not re.match(r"--?config\.", key):
        return argument
    return re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", key) + equal + value


def define_config(text: str) -> flags.FlagHolder[ml_collections.ConfigDict]:
    """--config=FILE[:CHOICES], and --config.KEY=VALUE for each key that the file's configuration has.

    A place in a list may be written as `data.blend.0.path` or `data.blend[0].path`: arguments of this process are
    brought into the second form before they are parsed.

    Args:
        text: the flag's help.
    """
    holder = config_flags.DEFINE_config_file("config", None, text, lock_config=True)
    sys.argv[1:] = map(with_brackets, sys.argv[1:])
    flags.FLAGS["config"].parser = _Parser("config", lock_config=True)
    return holder
