"""The benchmarks, one file each. A module in this folder that defines `BENCHMARKS` is all that a new one takes."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from nvlm_jax.evaluation.benchmark import Benchmark


@functools.cache
def registry() -> dict[str, Benchmark]:
    """Name -> benchmark, in the order of the modules' names.

    Raises:
        ValueError: two benchmarks of one name, or a module without `BENCHMARKS`.
    """
    found: dict[str, Benchmark] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        defined = getattr(importlib.import_module(f"{__name__}.{module.name}"), "BENCHMARKS", None)
        if not defined:
            raise ValueError(f"{__name__}.{module.name}: defines no BENCHMARKS; expected a tuple of Benchmark")
        for benchmark in defined:
            if benchmark.name in found:
                raise ValueError(f"{__name__}.{module.name}: a second benchmark named {benchmark.name!r}")
            found[benchmark.name] = benchmark
    return found
