"""What the makers publish of each accelerator. All numbers are of one JAX device.

Sources. TPUs: peak FLOPs, HBM size and bandwidth from docs.cloud.google.com/tpu/docs (v4, v5e, v5p, v6e, tpu7x; a chip
of tpu7x is two devices, each with half of it); bytes a second of one link and direction from
jax-ml.github.io/scaling-book/tpus, for tpu7x from its 1,200 GB/s a chip over six links, both directions, shared by two
devices; HBM limits are what their compiler names when it refuses a program, for v4 and tpu7x a little below the size;
between slices 100 Gb/s a host and direction are assumed. H100: NVIDIA's datasheet (SXM, dense bf16; NVLink 900 GB/s,
both directions) and one 400 Gb/s InfiniBand port a GPU, as in DGX H100. H200: its datasheet, else as H100. B200: an
eighth of DGX B200's figures, dense bf16 as half its FP8. Of a GPU's memory 94 % are taken as usable.
"""

from __future__ import annotations

from typing import NamedTuple

from nvlm_jax.config import ConfigError

GIB = 1 << 30


class Chip(NamedTuple):
    """One JAX device of a kind."""

    name: str
    flops: float  # a second, bf16, dense
    hbm_gib: float  # that a program may use: for TPUs what their compiler allows
    hbm_bandwidth: float  # bytes a second
    link_bandwidth: float  # bytes a second, one direction: of one torus link, or of NVLink as a whole
    network_bandwidth: float  # bytes a second, one direction, between slices or nodes, a device's share
    devices_per_host: int
    tpu: bool = True

    @property
    def hbm_bytes(self) -> float:
        return self.hbm_gib * GIB


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 30.75, 1228e9, 45e9, 3.125e9, 4),
        Chip("v5e", 197e12, 15.75, 819e9, 45e9, 3.125e9, 4),
        Chip("v5p", 459e12, 95.74, 2765e9, 90e9, 3.125e9, 4),
        Chip("v6e", 918e12, 31.25, 1640e9, 90e9, 3.125e9, 4),
        Chip("tpu7x", 1153.5e12, 94.75, 3690e9, 50e9, 1.5625e9, 8),
        Chip("h100", 989e12, 80e9 / GIB * 0.94, 3350e9, 450e9, 50e9, 8, tpu=False),
        Chip("h200", 989e12, 141e9 / GIB * 0.94, 4800e9, 450e9, 50e9, 8, tpu=False),
        Chip("b200", 2250e12, 180e9 / GIB * 0.94, 8000e9, 900e9, 50e9, 8, tpu=False),
    )
}
# Slices that exist: docs.cloud.google.com/tpu/docs. Larger tori of v4, v5p and tpu7x are 4i x 4j x 4k.
PLANAR = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")
TOPOLOGIES = {"v4": CUBES, "v5e": PLANAR, "v5p": CUBES, "v6e": PLANAR, "tpu7x": CUBES}


def parse_topology(text: str) -> tuple[Chip, str, int]:
    """`v5p:4x4x8` or `h100:128` -> chip, shape ("" for GPUs), number of chips.

    Raises:
        ConfigError: no such chip or shape; the message lists those that exist.
    """
    kind, _, shape = text.partition(":")
    if kind not in CHIPS:
        raise ConfigError(f"--topology: {text!r}; chips are {', '.join(CHIPS)}, as in v5p:4x4x8 or h100:128")
    chip = CHIPS[kind]
    numbers = shape.split("x")
    if not all(n.isdigit() and int(n) > 0 for n in numbers):
        raise ConfigError(f"--topology: {text!r} names no size; {_exist(chip)}")
    sizes = [int(n) for n in numbers]
    count = 1
    for size in sizes:
        count *= size
    if chip.tpu:
        large = len(sizes) == 3 and TOPOLOGIES[kind] is CUBES and all(n % 4 == 0 for n in sizes)
        if shape not in TOPOLOGIES[kind] and not (large and sorted(sizes) == sizes):
            raise ConfigError(f"--topology: there is no {text}; {_exist(chip)}")
        return chip, shape, count
    if len(sizes) > 1 or (count > chip.devices_per_host and count % chip.devices_per_host):
        raise ConfigError(f"--topology: {text!r}; {_exist(chip)}")
    return chip, "", count


def _exist(chip: Chip) -> str:
    if not chip.tpu:
        return f"{chip.name}:N is N GPUs, {chip.devices_per_host} a node: {chip.name}:8, {chip.name}:128 ..."
    shapes = TOPOLOGIES[chip.name]
    more = ", and larger ones of multiples of 4 in rising order" if shapes is CUBES else ""
    return f"{chip.name} slices are {', '.join(shapes)}{more}"
