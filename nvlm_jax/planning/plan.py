"""What a run will need and how long it will take, before it is launched.

Memory and collectives are the compiler's (`compile.py`); FLOPs are counted (`models/flops.py`); time is a roofline:
each resource at its published peak, all at once (overlap) or one after the other (no overlap).

Weak spots, all on the hopeful side: matrix units never reach their peak; work by element costs no time of its own but
what it moves; a collective has its links to itself. On the other side, no-overlap adds what XLA in fact overlaps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from nvlm_jax.config import RunConfig
from nvlm_jax.models.attention import KERNEL_LIMIT
from nvlm_jax.models.flops import (
    Work,
    executed_flops,
    keys_per_tile,
    padded_work,
    sample_work,
    scaled,
    useful_flops,
)
from nvlm_jax.planning.chips import GIB, Chip
from nvlm_jax.planning.compile import Compiled
from nvlm_jax.planning.estimate import hbm_traffic, held_by_hand
from nvlm_jax.planning.hlo import bytes_by_axis

SECONDS_A_DAY = 86400
ADDED_FROM = 64  # chips of one group, see `adds_up`
BLOCK = 512  # queries and keys of a kernel's block
BY_HAND = "by hand, collectives as compiled for CPUs; an H100's steps at 1b took twice as long (docs/scaling.md)"


class Workload(NamedTuple):
    """What the rows are filled with: samples of one kind. The default is the paper's Table 3."""

    text: int = 1024  # places of a sample that are neither image tokens nor tags
    tiles: int = 7  # 6 + 1
    tag_tokens: int = 5  # places of a tile's tag
    fill: float = 0.98  # of the scarcer budget of a row, tokens or tiles


def useful_work(config: RunConfig, load: Workload) -> tuple[Work, float]:
    """The work of a step's samples, and how many they are."""
    sample = sample_work(config.model, load.text, load.tiles, load.tag_tokens)
    by_row = config.data.tokens_per_row / sample.tokens
    if sample.tiles:
        by_row = min(by_row, config.data.tiles_per_row / sample.tiles)
    samples = config.train.batch_rows * by_row * load.fill
    return scaled(sample, samples), samples


def make_plan(config: RunConfig, chip: Chip, mesh: Mesh, compiled: Compiled, load: Workload) -> dict[str, Any]:
    """The plan of one configuration, ready for JSON.

    `hbm_gib` is a device's; times are of a step in seconds; FLOPs are of a step over all devices, padding and
    recomputation not counted; `collective_bytes_by_axis` is what a device sends in a step.
    """
    devices, model, train = mesh.size, config.model, config.train
    work, samples = useful_work(config, load)
    useful = useful_flops(model, train.trainable, work)
    executed = _executed(config, mesh, load)
    sent = bytes_by_axis(compiled.collectives)
    seconds = {"compute": sum(executed.values()) / devices / chip.flops}
    seconds["hbm"] = hbm_traffic(config, mesh) / chip.hbm_bandwidth
    for axes, count in sent.items():
        seconds[f"network:{axes}"] = count / axis_bandwidth(mesh, axes, chip)
    network = sum(value for key, value in seconds.items() if key.startswith("network"))
    # Work by element is not fused away where it binds: then memory, and not the matrix units, sets the pace.
    together = max(seconds.values())
    apart = max(seconds["compute"], seconds["hbm"]) + network
    peak = sum(useful.values()) / devices / chip.flops
    limit = compiled.limit or chip.hbm_bytes
    cross_check = {}
    if not chip.tpu:  # the compilation was for CPUs: its memory is no GPU's
        held = held_by_hand(config, mesh)
        cross_check = {"hbm_gib_compiled_for_cpu": compiled.used / GIB}
        compiled = compiled._replace(memory=held._asdict(), used=held.total)
    hosts = max(devices // chip.devices_per_host, 1)
    plan = {
        "name": config.name,
        "topology": chip.name,
        "method": "compiled for the slice" if chip.tpu else BY_HAND,
        "mesh": {axis: int(size) for axis, size in mesh.shape.items()},
        "remat": model.remat,
        "batch_rows": train.batch_rows,
        "accumulation": train.accumulation,
        "chips": devices,
        "hbm_gib": compiled.used / GIB,
        "hbm_limit_gib": limit / GIB,
        "hbm_gib_by_kind": {kind: value / GIB for kind, value in compiled.memory.items()},
        "fits": compiled.fits and compiled.used <= limit,
        "refused": not compiled.fits,
        "step_seconds": apart,
        "step_seconds_overlap": together,
        "seconds_by_resource": seconds,
        "mfu_overlap": peak / together,
        "mfu_no_overlap": peak / apart,
        "binding": max(seconds, key=seconds.get),
        "compile_seconds": compiled.seconds,
        "compile_cpu_seconds": compiled.cpu_seconds,
        "flops_by_module": useful,
        "executed_flops_by_module": executed,
        "padding_share_of_flops": 1 - sum(useful.values()) / _without_recomputation(config),
        "collective_bytes_by_axis": sent,
        "samples_per_second": samples / apart,
        "tokens_per_second": work.tokens / apart,
        "tiles_per_second": work.tiles / apart,
        "loader_mib_per_second_per_host": _batch_bytes(config) / hosts / apart / (1 << 20),
        "days": train.steps * apart / SECONDS_A_DAY,
        "chip_hours": train.steps * apart * devices / 3600,
    }
    plan |= cross_check
    if not plan["fits"]:
        plan["advice"] = advice(config, mesh, compiled, limit)
    elif found := added_up(mesh, chip, compiled):
        plan["advice"] = found
    return plan


def axis_bandwidth(mesh: Mesh, axes: str, chip: Chip) -> float:
    """Bytes a second that a device sends to its group along these axes: both directions of each torus dimension that
    the group spans, or the way out of its slice or node if the group leaves that."""
    chosen = [list(mesh.axis_names).index(name) for name in axes.split("+")]
    group = mesh.devices[tuple(slice(None) if i in chosen else 0 for i in range(mesh.devices.ndim))].reshape(-1)
    if not chip.tpu:
        nodes = {_place(mesh, device) // chip.devices_per_host for device in group}
        return chip.link_bandwidth if len(nodes) == 1 else chip.network_bandwidth
    if len({getattr(device, "slice_index", 0) for device in group}) > 1:
        return chip.network_bandwidth
    coordinates = np.array([device.coords for device in group])
    spanned = int((coordinates != coordinates[0]).any(axis=0).sum())
    return max(spanned, 1) * 2 * chip.link_bandwidth


def adds_up(mesh: Mesh, chip: Chip) -> bool:
    """Whether XLA gathers weights along `fsdp`, and scatters their gradients, by all-reduces, which send twice as much.

    Seen (libtpu 0.0.42, v5p) where all of 64 or 128 chips are one group; not of 8, 16 and 32, nor in two groups of 64.
    Assumed of larger groups and other TPUs.
    """
    return chip.tpu and mesh.shape["fsdp"] == mesh.size >= ADDED_FROM


def added_up(mesh: Mesh, chip: Chip, compiled: Compiled) -> str:
    """What to do where the compiled program does so; empty where it does not."""
    if not adds_up(mesh, chip) or mesh.size % 2:
        return ""
    sent = [(c.kind, c.bytes * c.times) for c in compiled.collectives if c.axes == "fsdp"]
    total, added = sum(count for _, count in sent), sum(count for kind, count in sent if kind == "all-reduce")
    if 2 * added <= total:
        return ""
    return (
        f"{added / 1e9:.1f} of the {total / 1e9:.1f} GB along fsdp are all-reduces: in one group of all chips XLA "
        f"gathers weights by adding them up, which sends twice as much. --mesh=data=2,fsdp={mesh.size // 2} does not, "
        "and each chip holds twice as much of parameters and optimizer"
    )


def advice(config: RunConfig, mesh: Mesh, compiled: Compiled, limit: float) -> str:
    """What would make a step fit, by what takes the most memory."""
    over = (compiled.used - limit) / GIB
    state = sum(compiled.memory[kind] for kind in ("parameters", "optimizer", "frozen"))
    first = f"{compiled.used / GIB:.1f} GiB of {limit / GIB:.1f}: {over:.1f} too much. "
    if state > 0.8 * limit:
        count = int(np.ceil(mesh.size * state / (0.6 * limit)))
        return first + (
            f"Parameters and optimizer alone take {state / GIB:.1f}; about {count} such chips would hold them, "
            "or a chip with more memory"
        )
    options = []
    if config.model.remat != "full":
        options.append("--config.model.remat=full")
    rows = config.train.batch_rows // config.train.accumulation // (mesh.shape["data"] * mesh.shape["fsdp"])
    if rows > 1:
        options.append(f"--config.train.accumulation={config.train.accumulation * 2} ({rows} rows a device now)")
    if mesh.shape["data"] > 1:
        options.append("data=1 with a larger fsdp")
    heads = config.model.decoder.kv_heads
    if mesh.shape["tensor"] < heads and heads % (mesh.shape["tensor"] * 2) == 0 and mesh.shape["fsdp"] % 2 == 0:
        options.append(f"--mesh with tensor={mesh.shape['tensor'] * 2} and half the fsdp")
    options.append("more chips")
    return first + "What would lower it: " + "; ".join(options)


def _executed(config: RunConfig, mesh: Mesh, load: Workload) -> dict[str, float]:
    places, model = config.data.tokens_per_row, config.model
    work = padded_work(model, config.train.batch_rows, places, _tiles_with_padding(config, mesh))
    if places**2 < KERNEL_LIMIT:
        return executed_flops(model, config.train.trainable, work)
    return executed_flops(model, config.train.trainable, met_work(config, work, load), "kernel")


def met_work(config: RunConfig, work: Work, load: Workload) -> Work:
    """`work` with those pairs alone that kernels compute: of blocks that meet, in rows full of the load's samples."""
    rows, places, keys = config.train.batch_rows, config.data.tokens_per_row, keys_per_tile(config.model)
    length = max(int(sample_work(config.model, load.text, load.tiles, load.tag_tokens).tokens), 1)
    first = np.arange(0, places, BLOCK)  # of each block of queries
    blocks = first // BLOCK + 1 - first // length * length // BLOCK
    work = work._replace(self_pairs=rows * min(float(blocks.sum() * BLOCK**2), places**2))
    if not work.cross_pairs:
        return work
    last = np.minimum(first + BLOCK, places) - 1
    a_sample = load.tiles * keys
    begin, end = first // length * a_sample // BLOCK, -((last // length + 1) * a_sample // -BLOCK)
    end = np.minimum(end, -(config.data.tiles_per_row * keys // -BLOCK))
    return work._replace(cross_pairs=rows * float(np.maximum(end - begin, 0).sum() * BLOCK**2))


def _tiles_with_padding(config: RunConfig, mesh: Mesh) -> float:
    """Tiles a row as `spread_tiles` pads them, so that those of a group of rows divide by the devices it shares."""
    groups = mesh.shape["data"] * mesh.shape["fsdp"]
    rows = config.train.batch_rows // config.train.accumulation / groups
    tiles, share = rows * config.data.tiles_per_row, mesh.size // groups
    return float(np.ceil(tiles / share) * share / rows) if config.data.tiles_per_row else 0.0


def _without_recomputation(config: RunConfig) -> float:
    """FLOPs of full rows with nothing computed twice; of a causal row only the half that may be seen."""
    data, model = config.data, config.model
    work = padded_work(model, config.train.batch_rows, data.tokens_per_row, data.tiles_per_row)
    work = work._replace(self_pairs=work.self_pairs / 2)
    return sum(useful_flops(model, config.train.trainable, work).values())


def _batch_bytes(config: RunConfig) -> float:
    side, data = config.model.vision.image_size, config.data
    return config.train.batch_rows * (data.tiles_per_row * (side * side * 3 + 12) + data.tokens_per_row * 32)


def _place(mesh: Mesh, device: Any) -> int:
    return int(np.argwhere(mesh.devices.reshape(-1) == device)[0, 0])
