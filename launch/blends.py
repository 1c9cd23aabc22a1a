"""The datasets of a run from the command line, for any command with a --config: they replace `data.blend`.

--blend=mine:runs/data/mine:0.8 --blend=text:runs/data/text:0.2    NAME:PATH:WEIGHT each; without a weight 1
--blend=sft --data=runs/data                   the datasets of Table 6 and the text-only ones that stand in runs/data
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from configs.blends import pretrain, sft, text
from configs.blends.rows import blend
from data_pipelines.records import DatasetError, read_manifest
from nvlm_jax.config import ConfigError

BLENDS = {"pretrain": pretrain.BLEND, "sft": sft.WITH_TEXT, "sft-images": sft.BLEND, "text": text.BLEND}
BLEND = flags.DEFINE_multi_string(
    "blend", [], f"NAME:PATH:WEIGHT of a dataset, several times; or alone one of the paper's: {', '.join(BLENDS)}"
)
DATA = flags.DEFINE_string("data", "runs/data", "with one of the paper's blends: the directory of its datasets")
FORM = "NAME:PATH:WEIGHT, such as mine:runs/data/mine:0.8"


def with_blend(config: ConfigDict, here: bool = True) -> dict:
    """The config as a plain mapping, with the datasets that the flags name.

    Args:
        config: of --config.
        here: whether the datasets are on this machine; elsewhere one of the paper's blends leaves the config's.

    Raises:
        ConfigError: a value of --blend, or an item of `data.blend`, that names no dataset.
        DatasetError: nothing of the paper's blend is prepared.
    """
    mapping = config.to_dict()
    chosen = [name for name in BLEND.value if name in BLENDS]
    if chosen and len(BLEND.value) > 1:
        raise ConfigError(f"--blend={chosen[0]}: is a whole blend of the paper's; give it alone, or only {FORM}")
    if chosen and here:
        mapping["data"]["blend"] = _of_the_paper(chosen[0])
    elif BLEND.value and not chosen:
        mapping["data"]["blend"] = [_dataset(item, "--blend") for item in BLEND.value]
    else:
        mapping["data"]["blend"] = [_dataset(item, "data.blend") for item in mapping["data"]["blend"]]
    _check_names(mapping["data"]["blend"])
    return mapping


def blend_flags() -> list[str]:
    """These flags as they were given, for another command."""
    data = [f"--data={DATA.value}"] if flags.FLAGS["data"].present else []
    return [*(f"--blend={item}" for item in BLEND.value), *data]


def _of_the_paper(name: str) -> list[dict[str, Any]]:
    try:
        return blend(BLENDS[name], _sizes([share.name for share in BLENDS[name]], DATA.value), DATA.value)
    except ValueError as error:
        raise DatasetError(f"--blend={name}: {error}") from error


def _dataset(item: Any, key: str) -> Any:
    """A dataset of the blend as a mapping: from NAME:PATH:WEIGHT, or from a tuple of these; a mapping as it is."""
    if isinstance(item, str):
        return _parse(item, key)
    if isinstance(item, Sequence):
        names = ("name", "path", "weight")
        if not 2 <= len(item) <= 3 or not all(isinstance(part, str) for part in item[:2]):
            raise ConfigError(f"{key}: {tuple(item)!r} is no dataset; ('mine', 'runs/data/mine', 0.8) would be right")
        return dict(zip(names, item, strict=False))
    return item


def _parse(text: str, key: str) -> dict[str, Any]:
    """The path may be an address with colons of its own."""
    name, _, rest = text.partition(":")
    path, colon, weight = rest.rpartition(":")
    number = _number(weight) if colon else None
    if number is None:
        path, number = rest, 1.0
    if not name or not path:
        near = "" if ":" in text else f", or one of the paper's blends: {', '.join(BLENDS)}"
        raise ConfigError(f"{key}={text}: expected {FORM}{near}")
    if not 0 < number < float("inf"):
        raise ConfigError(f"{key}={text}: the weight is {weight}; a number above 0 would be right")
    return {"name": name, "path": path, "weight": number}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _check_names(datasets: Sequence[Any]) -> None:
    names = [dataset.get("name") for dataset in datasets if isinstance(dataset, dict)]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise ConfigError(f"data.blend: two datasets are named {twice[0]!r}; each needs a name of its own")


def _sizes(names: list[str], root: str) -> dict[str, int]:
    sizes = {}
    for name in names:
        if (Path(root) / name).is_dir():
            sizes[name] = read_manifest(Path(root) / name).samples
    return sizes
