"""Which meshes, rematerialisation policies and accumulations are worth compiling, and in which order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from nvlm_jax.config import ConfigError, MeshConfig, RunConfig
from nvlm_jax.models.flops import executed_flops, padded_work
from nvlm_jax.parallel.mesh import check_run, make_mesh
from nvlm_jax.planning.chips import Chip
from nvlm_jax.planning.estimate import held_by_hand, shares
from nvlm_jax.planning.plan import adds_up, axis_bandwidth

MARGIN = 1.2  # of memory counted by hand, which is no more exact than that


class Candidate(NamedTuple):
    """One way to run the same global batch."""

    config: RunConfig
    mesh: Mesh
    held: float  # bytes on a device, by hand
    seconds: float  # of a step, by hand, nothing overlapped


def candidates(config: RunConfig, chip: Chip, devices: list[jax.Device], slices: int = 1) -> list[Candidate]:
    """Every candidate that divides and, by hand, fits; the fastest first.

    Raises:
        ConfigError: there is none.
    """
    found = []
    for changed in _variants(config, len(devices), slices):
        try:
            mesh = make_mesh(changed.mesh, devices)
            check_run(changed, mesh)
            held = held_by_hand(changed, mesh).total
        except (ConfigError, NotImplementedError):  # axes or parameters that do not divide; tori that cannot be cut so
            continue
        if held * MARGIN <= chip.hbm_bytes:
            found.append(Candidate(changed, mesh, held, seconds_by_hand(changed, mesh, chip)))
    if not found:
        raise ConfigError(
            f"no mesh of {len(devices)} {chip.name} chips holds {config.name}, with any rematerialisation and "
            "accumulation; take more chips, or some with more memory"
        )
    return sorted(found, key=lambda candidate: candidate.seconds)


def chip_hours(config: RunConfig, chip: Chip, devices: list[jax.Device]) -> float:
    """Of all the run's steps with the quickest candidate, counted by hand; nothing is compiled.

    Raises:
        ConfigError: as `candidates`.
    """
    best = candidates(config, chip, devices)[0]
    return best.seconds * config.train.steps * len(devices) / 3600


def seconds_by_hand(config: RunConfig, mesh: Mesh, chip: Chip) -> float:
    """Computation, weights gathered by `fsdp` in each pass, activations exchanged by `tensor` in each layer."""
    model, d, share = config.model, config.model.decoder, shares(config, mesh)
    work = padded_work(model, config.train.batch_rows, config.data.tokens_per_row, config.data.tiles_per_row)
    compute = sum(executed_flops(model, config.train.trainable, work).values()) / mesh.size / chip.flops
    passes = 3 if model.remat == "full" else 2
    weights = d.layers * (2 * d.width * (d.heads + d.kv_heads) * d.head_dim + 3 * d.width * d.ff) * 2
    count = config.train.accumulation
    network = 0.0
    if mesh.shape["fsdp"] > 1:
        sent = weights * (2 if adds_up(mesh, chip) else 1)
        network += count * (passes + 1) * sent / mesh.shape["tensor"] / axis_bandwidth(mesh, "fsdp", chip)
    if mesh.shape["tensor"] > 1:
        exchanged = d.layers * 4 * (passes + 1) * share.rows * share.places * d.width * 2
        network += count * exchanged / axis_bandwidth(mesh, "tensor", chip)
    if mesh.shape["data"] > 1:
        network += 2 * weights / mesh.shape["fsdp"] / mesh.shape["tensor"] / axis_bandwidth(mesh, "data", chip)
    return compute + network


def _variants(config: RunConfig, count: int, slices: int) -> Iterator[RunConfig]:
    rows = config.train.batch_rows
    for data in sorted({slices, 2 * slices}):
        for tensor in (1, 2, 4, 8):
            for context in (1, 2):
                if count % (data * tensor * context):
                    continue
                mesh = MeshConfig(data, count // (data * tensor * context), tensor, context)
                for remat in ("full", "dots"):
                    for accumulation in (1, 2, 4):
                        if rows % accumulation == 0:
                            yield dataclasses.replace(
                                config,
                                mesh=mesh,
                                model=dataclasses.replace(config.model, remat=remat),
                                train=dataclasses.replace(config.train, accumulation=accumulation),
                            )
