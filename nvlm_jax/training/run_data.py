"""Which data a run is trained on: its datasets' fingerprints, kept in config.json and compared at every start."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nvlm_jax.config import ConfigError

log = logging.getLogger(__name__)

Datasets = Mapping[str, Mapping[str, Any]]  # path -> {"name", "samples", "fingerprint"}


class RunData(NamedTuple):
    """The datasets of a run as they are now."""

    datasets: Datasets
    accept: bool = False  # that they are others than those the run began with


def data_differences(then: Datasets, now: Datasets) -> list[str]:
    """A line for each path of both whose dataset is another: its name, and what differs.

    >>> then, now = {"samples": 6, "fingerprint": "ab"}, {"name": "qa", "samples": 4, "fingerprint": "cd"}
    >>> data_differences({"runs/qa": then}, {"runs/qa": now})
    ['dataset qa (runs/qa): 6 samples with fingerprint ab then, 4 samples with fingerprint cd now']
    """
    lines = []
    for path in sorted(then.keys() & now.keys()):
        was, found = _text(then[path]), _text(now[path])
        if was != found:
            lines.append(f"dataset {now[path]['name']} ({path}): {was} then, {found} now")
    return lines


def _text(about: Mapping[str, Any]) -> str:
    return f"{about['samples']:,} samples with fingerprint {about['fingerprint']}"


def data_record(workdir: Path, before: Mapping[str, Any], now: RunData | None, step: int, steps: int) -> dict[str, Any]:
    """What config.json says of the run's data.

    Args:
        workdir: for messages.
        before: the record that is there; empty at the first start.
        now: the datasets; None where the caller has none, which leaves the record as it is.
        step: of the newest checkpoint, 0 without one.
        steps: of the whole run; a finished run reads no data any more.

    Returns:
        `datasets`, and `data_changes` where changes were accepted: the step, and the datasets until then.

    Raises:
        ConfigError: a dataset is another one than the run began with, and that was not accepted.
    """
    kept = {key: before[key] for key in ("datasets", "data_changes") if key in before}
    if now is None or (step >= steps and kept):
        return kept
    found = {"datasets": {path: dict(about) for path, about in now.datasets.items()}}
    if step == 0:
        return found
    if "datasets" not in kept:
        log.warning(
            "%s: begun by a version that kept no fingerprints of the data, so whether it changed since is not known; "
            "from now on they are kept",
            workdir,
        )
        return found
    changes = kept.get("data_changes", [])
    if lines := data_differences(kept["datasets"], found["datasets"]):
        if not now.accept:
            raise ConfigError(
                f"{workdir}: the data has changed since step {step} was saved; {'; '.join(lines)}. Put the data back, "
                "use another --workdir, or go on with the new data by --accept_data, which is recorded"
            )
        log.warning("%s: from step %d on with other data; %s", workdir, step, "; ".join(lines))
        changes = [*changes, {"step": step, "datasets": kept["datasets"]}]
    return found | ({"data_changes": changes} if changes else {})
