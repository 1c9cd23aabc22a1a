"""The paper's blends for any command with a --config: what is prepared of them replaces `data.blend`.

--blend=sft --data=runs/data       the datasets of Table 6 and the text-only ones that stand in runs/data
"""

from __future__ import annotations

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from configs.blends import pretrain, sft, text
from configs.blends.rows import blend
from data_pipelines.records import DatasetError, read_manifest

BLENDS = {"pretrain": pretrain.BLEND, "sft": sft.WITH_TEXT, "sft-images": sft.BLEND, "text": text.BLEND}
BLEND = flags.DEFINE_enum("blend", None, list(BLENDS), "one of the paper's blends instead of the config's")
DATA = flags.DEFINE_string("data", "runs/data", "with --blend: the directory of its prepared datasets")


def with_blend(config: ConfigDict) -> dict:
    """The config as a plain mapping, with the blend that the flags name.

    Raises:
        DatasetError: nothing of that blend is prepared.
    """
    mapping = config.to_dict()
    if BLEND.value:
        chosen = BLENDS[BLEND.value]
        try:
            mapping["data"]["blend"] = blend(chosen, _sizes([share.name for share in chosen], DATA.value), DATA.value)
        except ValueError as error:
            raise DatasetError(f"--blend={BLEND.value}: {error}") from error
    return mapping


def _sizes(names: list[str], root: str) -> dict[str, int]:
    sizes = {}
    for name in names:
        if (Path(root) / name).is_dir():
            sizes[name] = read_manifest(Path(root) / name).samples
    return sizes
