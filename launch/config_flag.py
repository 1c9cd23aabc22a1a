"""The flag --config of every command that takes a run: its file is found by path, or by name from any directory."""

from __future__ import annotations

import ml_collections
from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from configs import locate


class _Parser(ConfigFileFlagParser):
    def parse(self, path: str) -> ml_collections.ConfigDict:
        file, colon, choices = path.partition(":")
        return super().parse(locate(file) + colon + choices)


def define_config(text: str) -> flags.FlagHolder[ml_collections.ConfigDict]:
    """--config=FILE[:CHOICES], and --config.KEY=VALUE for each key that the file's configuration has.

    Args:
        text: the flag's help.
    """
    holder = config_flags.DEFINE_config_file("config", None, text, lock_config=True)
    flags.FLAGS["config"].parser = _Parser("config", lock_config=True)
    return holder
