"""NVLM 1.0 in JAX. `nvlm_jax.load(path)` gives a model that answers; everything else is imported from its module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvlm_jax.pretrained import LoadedModel

__all__ = ["load"]


def load(path: str, dtype: str = "float32", **options: Any) -> LoadedModel:
    """A Hugging Face directory, an Orbax checkpoint or a run's workdir as a model; see `nvlm_jax.pretrained.load`."""
    from nvlm_jax import pretrained  # here, for data workers import this package and must not load JAX

    return pretrained.load(path, dtype, **options)
