"""Eight fake CPU devices for every test, and a model and batches small enough to compile in seconds."""

from __future__ import annotations

import gc
import os
import pathlib

from tests.fast_compile import FAST_COMPILE

# Before anything imports JAX. Compiled programs are kept from one test, and one call of pytest, to the next.
XLA_FLAGS = f"--xla_force_host_platform_device_count=8 {FAST_COMPILE}"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {XLA_FLAGS}".strip()
# XLA reads its number of threads here. A collective operation holds its thread until all devices have come, and a
# device can wait in two at once: with a thread a device, the default, they waited for ever in one run of eight.
os.environ.setdefault("NPROC", "32")
CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

# Tracing makes many objects that live on: by default a quarter of its time goes to looking for garbage among them.
gc.set_threshold(200_000, 50, 100)

from collections.abc import Callable  # noqa: E402

import pytest  # noqa: E402

from nvlm_jax.config import ModelConfig, RunConfig  # noqa: E402
from nvlm_jax.inputs.batch import Batch  # noqa: E402
from tests.tiny import make_batch, make_model_config, make_run_config  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: several of them wait for processes, and what waits last leaves the cores idle."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def tiny_model_config() -> Callable[..., ModelConfig]:
    """(arch, **changes) -> ModelConfig."""
    return make_model_config


@pytest.fixture
def tiny_run_config() -> Callable[..., RunConfig]:
    """(arch, **settings of train) -> RunConfig."""
    return make_run_config


@pytest.fixture
def random_batch() -> Callable[..., Batch]:
    """(config, rows, seed, tokens, tiles, groups) -> Batch."""
    return make_batch
