"""Which data a sweep runs on: fingerprints of its datasets, kept in sweep.json and compared at every start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nvlm_jax.sweeps.sweep_file import SweepError
from nvlm_jax.training.run_data import RunData, data_differences

log = logging.getLogger(__name__)


def data_of_sweep(
    root: Path, plan: Mapping[str, Any], now: RunData | None, is_finished: Callable[[], bool]
) -> dict[str, Any]:
    """What sweep.json says of the data.

    Args:
        root: directory of the sweep, for messages.
        plan: that is there; empty before the first start.
        now: the datasets; None where the caller has none, which leaves what is there.
        is_finished: whether no run is left that would read data.

    Returns:
        `datasets` by path, and `data_changes`, the datasets until each change that was accepted.

    Raises:
        SweepError: a dataset is another one than before, which was not accepted.
    """
    kept = {key: plan[key] for key in ("datasets", "data_changes") if key in plan}
    if now is None:
        return kept
    if plan and "datasets" not in kept:
        log.warning("%s: begun by a version that kept no fingerprints of its data; from now on they are kept", root)
    then = kept.get("datasets", {})
    if lines := data_differences(then, now.datasets):
        if is_finished():
            return kept
        if not now.accept:
            raise SweepError(
                f"{root}: the data has changed since the sweep began, so its runs could not be compared; "
                f"{'; '.join(lines)}. Put the data back, use another --workdir, or go on by --accept_data, which is "
                "recorded"
            )
        kept["data_changes"] = [*kept.get("data_changes", []), then]
    return kept | {"datasets": then | {path: dict(about) for path, about in now.datasets.items()}}
