"""Compiler flags and environment of each platform: the one place for them. Nothing stands here on hearsay.

GPU
    --xla_gpu_enable_latency_hiding_scheduler=true   collectives run beside computation instead of before it; JAX's
                                                     "GPU performance tips" name it first. Off by default.
    XLA_PYTHON_CLIENT_MEM_FRACTION=0.94              JAX takes 75 % of the memory otherwise; the planner counts 94 %.

TPU
    No flag: its compiler schedules for latency and fuses collectives by default, and what it is asked for in public
    recipes is tuned to their models. `launch.plan` compiles with the same defaults.
"""

from __future__ import annotations

from nvlm_jax.planning.chips import Chip

GPU = {
    "XLA_FLAGS": "--xla_gpu_enable_latency_hiding_scheduler=true",
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.94",
}
TPU: dict[str, str] = {}


def environment(chip: Chip) -> dict[str, str]:
    """The variables to set for a run on such chips."""
    return dict(TPU if chip.tpu else GPU)
