"""Names for the dimensions of activations. The model says what a dimension is, never where it lies.

Whoever traces the model for several devices does so `with laid_out(layout)`, and each `constrain(x, "rows", "places",
None)` in it is handed to that layout (`parallel/sharding.py` has the table from names to mesh axes). Without a layout
nothing happens: on one device, in data workers, in notebooks.

    rows           of a batch
    places         of a row, while heads or feed-forward are split
    between        of a row, between two blocks
    tiles          of all rows
    memory         tiles of a row that the cross-attention reads
    heads, kv, mlp, vocab, embed    as in the table of parameters
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Protocol

import jax

Names = tuple[str | None, ...]


class Layout(Protocol):
    """Where named dimensions lie."""

    platform: str  # of the devices: "cpu", "gpu" or "tpu"

    def place(self, x: jax.Array, names: Names) -> jax.Array:
        """`x` with its dimensions laid where these names belong."""

    def parts(self, name: str) -> int:
        """Into how many parts a dimension of this name is split."""

    def by_part(self, function: Callable[..., jax.Array], given: Sequence[Names], made: Names) -> Callable:
        """`function` as each device computes it, from its part of each argument, to its part of the result."""


_LAYOUT: ContextVar[Layout | None] = ContextVar("layout", default=None)
_COMPILER_SPLITS: ContextVar[bool] = ContextVar("compiler_splits", default=False)


@contextlib.contextmanager
def laid_out(layout: Layout | None) -> Iterator[None]:
    """Trace the model for this layout; None = for one device."""
    token = _LAYOUT.set(layout)
    try:
        yield
    finally:
        _LAYOUT.reset(token)


@contextlib.contextmanager
def split_by_compiler(several: bool = True) -> Iterator[None]:
    """Trace the model for several devices without a layout: with nothing in it that the compiler cannot split."""
    token = _COMPILER_SPLITS.set(several)
    try:
        yield
    finally:
        _COMPILER_SPLITS.reset(token)


def split() -> bool:
    """Whether there is a layout: several devices share the arrays."""
    return _LAYOUT.get() is not None


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """`x`, laid out by the names of its dimensions (None: whole on every device that shares the others)."""
    layout = _LAYOUT.get()
    return x if layout is None else layout.place(x, names)


def parts(name: str) -> int:
    """Into how many parts the dimension `name` is split; 1 without a layout."""
    layout = _LAYOUT.get()
    return 1 if layout is None else layout.parts(name)


def by_part(function: Callable[..., jax.Array], given: Sequence[Names], made: Names) -> Callable[..., jax.Array]:
    """`function`, computed by each device on its part of the arguments, whose dimensions have the names `given`."""
    layout = _LAYOUT.get()
    return function if layout is None else layout.by_part(function, given, made)


def platform() -> str:
    """What the model is traced for, "cpu", "gpu" or "tpu": the layout's devices, which may be elsewhere, or ours.

    "any" where the compiler splits the model: kernels of one platform are out of place there.
    """
    layout = _LAYOUT.get()
    if layout is None and _COMPILER_SPLITS.get():
        return "any"
    return jax.default_backend() if layout is None else layout.platform
