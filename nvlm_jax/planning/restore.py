"""What each device reads and holds when a run's checkpoint is restored, from shapes and shardings alone."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from nvlm_jax.config import RunConfig
from nvlm_jax.parallel.sharding import path_text, state_shardings
from nvlm_jax.training.checkpoints import abstract_state, with_shardings

Part = tuple[tuple[int, int], ...]  # first and last + 1 of each dimension


class Restore(NamedTuple):
    """The plan of a restore."""

    whole: int  # bytes of the checkpoint
    parts: dict[str, dict[Any, Part]]  # array -> device -> the part of it that is read for that device
    read: dict[Any, int]  # device -> bytes read for it
    held: dict[Any, int]  # device -> bytes that it holds when all is done


def restore_plan(config: RunConfig, mesh: Mesh) -> Restore:
    """Every array of a run: trained parameters, optimizer, frozen parameters. Nothing is allocated.

    Args:
        config: of the run.
        mesh: that it is restored onto, whatever mesh saved it; of devices that need not be here.
    """
    split, state = abstract_state(config)
    trees = {"params": state.params, "opt_state": state.opt_state, "frozen": split.frozen}
    whole, parts = 0, {}
    read, held = (dict.fromkeys(mesh.devices.flat, 0) for _ in range(2))
    for item, tree in trees.items():
        placed = with_shardings(tree, state_shardings(tree, mesh))
        for path, leaf in jax.tree_util.tree_flatten_with_path(placed)[0]:
            size = leaf.dtype.itemsize
            whole += math.prod(leaf.shape) * size
            shard = math.prod(leaf.sharding.shard_shape(leaf.shape)) * size
            own = parts[f"{item}/{path_text(path)}"] = {}
            for device, index in leaf.sharding.devices_indices_map(leaf.shape).items():
                own[device] = tuple(part.indices(n)[:2] for part, n in zip(index, leaf.shape, strict=True))
                read[device] += math.prod(stop - start for start, stop in own[device]) * size
                held[device] += shard
    return Restore(whole, parts, read, held)
