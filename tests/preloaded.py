"""What commands import, without the commands: each defines flags of its own."""

import gc

import flax.nnx  # noqa: F401
import grain  # noqa: F401
import jinja2  # noqa: F401
import numpy  # noqa: F401
import optax
import optax.contrib  # noqa: F401
import orbax.checkpoint  # noqa: F401
import pyarrow.parquet  # noqa: F401
import rich.progress  # noqa: F401

gc.set_threshold(200_000, 50, 100)  # as in conftest.py
