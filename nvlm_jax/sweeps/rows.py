"""A sweep's results as a table, one row a run: for CSV, Parquet and the report."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from nvlm_jax.sweeps.store import Run

LEFT_OUT = ("versions",)


def table(runs: Sequence[Run], plan: Mapping[str, Any]) -> pa.Table:
    """One row a run, finished or not; nested results as columns such as `accuracy.by_type.word`.

    Settings are the plan's of today: a variant that joined later may differ in more than a finished run once noted.
    """
    rows = [_row(run, plan["variants"].get(run.variant.name, {}).get("settings", {})) for run in runs]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return pa.table({key: _column([row.get(key) for row in rows]) for key in columns})


def write_csv(path: pathlib.Path, rows: pa.Table) -> None:
    """Write the table as CSV with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.csv.write_csv(rows, path)


def write_parquet(path: pathlib.Path, rows: pa.Table) -> None:
    """Write the table as Parquet, which `pandas.read_parquet` takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(rows, path)


def _row(run: Run, settings: Mapping[str, Any]) -> dict[str, Any]:
    row = {"variant": run.variant.name, "seed": run.seed, "base": run.variant.base, "status": run.state()["status"]}
    for key, value in (run.whole_results() or {}).items():
        if key not in LEFT_OUT:
            row |= _flat(key, value)
    return row | _flat("settings", settings)


def _flat(key: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {k: v for name, inner in value.items() for k, v in _flat(f"{key}.{name}", inner).items()}
    if isinstance(value, list):
        return {k: v for i, inner in enumerate(value) for k, v in _flat(f"{key}.{i}", inner).items()}
    return {key: value}


def _column(values: list[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and float in kinds:
        return pa.array([None if value is None else float(value) for value in values])
    if len(kinds) > 1:  # one setting may be a number here and a word there
        return pa.array([None if value is None else str(value) for value in values])
    return pa.array(values)
