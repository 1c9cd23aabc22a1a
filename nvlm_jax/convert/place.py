"""Arrays from a checkpoint straight onto devices: each device's part is read alone, no host holds it whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

Index = tuple[slice, ...]


def place(target: jax.ShapeDtypeStruct, read: Callable[[Index], np.ndarray]) -> jax.Array:
    """The array that `read` reads, with the shape, dtype and sharding of `target`.

    Args:
        target: abstract; its sharding names the devices, of which those of this process are served.
        read: index -> that part of the array, in any dtype. Called once for each different part, one after the other.
    """
    places: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
    for device, index in target.sharding.addressable_devices_indices_map(target.shape).items():
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index, target.shape, strict=True))
        places.setdefault(bounds, []).append(device)
    shards: list[Any] = []
    for bounds, devices in places.items():
        part = read(tuple(slice(*b) for b in bounds)).astype(target.dtype, copy=False)
        shards += jax.block_until_ready([jax.device_put(part, device) for device in devices])
    return jax.make_array_from_single_device_arrays(target.shape, target.sharding, shards)
