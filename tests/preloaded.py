"""What commands and processes of tests import, without the commands: each defines flags of its own."""

import gc

import grain  # noqa: F401
import jinja2  # noqa: F401
import pyarrow.parquet  # noqa: F401
import rich.progress  # noqa: F401

import nvlm_jax.evaluation.session
import nvlm_jax.training.loop  # noqa: F401

gc.set_threshold(200_000, 50, 100)  # as in conftest.py
