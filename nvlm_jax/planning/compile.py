"""Compile the very step that training runs for devices that are not here: a TPU slice through libtpu, or fake CPUs.

No array is made. What comes back is read from the compiled program: memory by kind, collectives by mesh axis.
"""

from __future__ import annotations

import importlib.util
import os
import re
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from nvlm_jax.config import ConfigError, RunConfig
from nvlm_jax.inputs.batch import Batch
from nvlm_jax.inputs.tags import tag_room_of
from nvlm_jax.parallel.mesh import check_run
from nvlm_jax.parallel.sharding import batch_shardings, state_shardings
from nvlm_jax.planning.chips import GIB, Chip, parse_topology
from nvlm_jax.planning.hlo import Collective, collectives
from nvlm_jax.training.checkpoints import abstract_state, with_shardings
from nvlm_jax.training.loop import compile_step
from nvlm_jax.training.step import make_train_step

# libtpu looks for a TPU and for other programs that use one; there is neither.
LIBTPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
GROUPS = 1  # of questions; the step's sums by group are a few numbers


class Compiled(NamedTuple):
    """What the compiler says of one device's program."""

    memory: dict[str, float]  # bytes by kind; "temporary" is what the step needs beside its arguments
    used: float  # bytes, the most that is held at one time
    limit: float | None  # bytes, where the compiler names it
    fits: bool
    collectives: list[Collective]
    seconds: float  # to trace and compile
    cpu_seconds: float = 0.0  # of all cores, likewise


def planned_devices(topology: str, slices: int = 1) -> tuple[Chip, list[Any]]:
    """The chip and the devices of `v5p:4x4x8` or `h100:128`: a slice for the compiler alone, or so many CPUs.

    Call it before JAX has been used. Raises ConfigError as `parse_topology` and `tpu_devices` do.
    """
    chip, shape, count = parse_topology(topology)
    jax.config.update("jax_platforms", "cpu")
    if chip.tpu:
        return chip, tpu_devices(chip, shape, slices)
    jax.config.update("jax_num_cpu_devices", count * slices)
    return chip, jax.devices()


def tpu_devices(chip: Chip, shape: str, slices: int = 1) -> list[Any]:
    """The devices of a slice that exists only for the compiler.

    Raises:
        ConfigError: libtpu is not installed, or it does not know the slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError("planning for TPUs needs their compiler, and no TPU: pip install libtpu==0.0.42.1")
    for name, value in LIBTPU.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    try:
        description = topologies.get_topology_desc(f"{chip.name}:{shape}", "tpu", num_slices=slices)
    except jax.errors.JaxRuntimeError as error:
        raise ConfigError(f"--topology: libtpu does not know {chip.name}:{shape}: {error}") from error
    return list(description.devices)


def abstract_batch(config: RunConfig) -> Batch:
    """The shapes of a global batch of a run."""
    model, data, rows = config.model, config.data, config.train.batch_rows
    places, tiles, side = (rows, data.tokens_per_row), (rows, data.tiles_per_row), model.vision.image_size
    shapes = {name: jax.ShapeDtypeStruct(places, np.int32) for name in Batch._fields}
    shapes |= {n: jax.ShapeDtypeStruct(tiles, np.int32) for n in ("tile_segment_ids", "tile_index", "tile_start")}
    shapes["loss_weights"] = jax.ShapeDtypeStruct(places, np.float32)
    shapes["tile_tags"] = jax.ShapeDtypeStruct((*tiles, tag_room_of(config.inputs, model)), np.int32)
    shapes["tiles"] = jax.ShapeDtypeStruct((*tiles, side, side, 3), np.uint8)
    return Batch(**shapes)


def compile_for(config: RunConfig, mesh: Mesh) -> Compiled:
    """The train step of `config` for the devices of `mesh`.

    Raises:
        ConfigError: batch, rows or heads do not divide as the mesh splits them.
    """
    check_run(config, mesh)
    begin, used_before = time.monotonic(), time.process_time()
    split, state = abstract_state(config)
    step = compile_step(make_train_step(split.graphdef, config, GROUPS), state, split.frozen, mesh)
    arguments = {
        "parameters": with_shardings(state.params, state_shardings(state.params, mesh)),
        "optimizer": with_shardings(state.opt_state, state_shardings(state.opt_state, mesh)),
        "frozen": with_shardings(split.frozen, state_shardings(split.frozen, mesh)),
        "batch": with_shardings(abstract_batch(config), batch_shardings(mesh)),
    }
    counter = with_shardings(state.step, state_shardings(state.step, mesh))
    given = state._replace(step=counter, params=arguments["parameters"], opt_state=arguments["optimizer"])
    memory = {kind: float(held_bytes(tree)) for kind, tree in arguments.items()}
    lowered = step.lower(given, arguments["frozen"], arguments["batch"])
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        used, limit = _exceeded(str(error), sum(memory.values()))
        memory["temporary"] = used - sum(memory.values())
        return Compiled(memory, used, limit, False, [], time.monotonic() - begin, time.process_time() - used_before)
    used = _held(compiled.memory_analysis(), mesh.devices.flat[0].platform)
    memory["temporary"] = used - sum(memory.values())
    sizes = tuple(mesh.shape[name] for name in mesh.axis_names)
    sent = collectives(compiled.as_text(), mesh.axis_names, sizes)
    return Compiled(memory, used, None, True, sent, time.monotonic() - begin, time.process_time() - used_before)


def held_bytes(tree: Any) -> int:
    """Bytes that one device holds of a tree of abstract arrays with shardings."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        total += int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
    return total


def _held(found: Any, platform: str) -> float:
    """The most that is held at one time, of what the compiler says of a program's memory.

    For TPUs, its sum of temporary buffers counts places of the heap that they share more than once: a step that was
    accepted for 15.75 GiB "needed" 17.3. For CPUs, its peak leaves temporary buffers out, and the sum is right.
    """
    if platform == "tpu":
        return float(found.peak_memory_in_bytes + found.generated_code_size_in_bytes)
    outputs = found.output_size_in_bytes - found.alias_size_in_bytes
    return float(found.argument_size_in_bytes + outputs + found.temp_size_in_bytes + found.generated_code_size_in_bytes)


def _exceeded(message: str, arguments: float) -> tuple[float, float]:
    """Bytes wanted and bytes there are, of the compiler's refusal of a step with so many bytes of arguments; any other
    error is raised again."""
    size = r"\(?([\d.]+)([KMGT])\)?"
    whole = re.search(rf"[Uu]sed {size} of {size} hbm", message)
    found = whole or re.search(rf"HLO temporaries {size} exceeds available HBM {size}", message)
    if found is None:
        raise RuntimeError(f"the compiler refused the step: {message[:2000]}")
    unit = {"K": GIB / 1024**2, "M": GIB / 1024, "G": GIB, "T": 1024 * GIB}
    wanted, limit = float(found[1]) * unit[found[2]], float(found[3]) * unit[found[4]]
    return wanted if whole else wanted + arguments, limit
