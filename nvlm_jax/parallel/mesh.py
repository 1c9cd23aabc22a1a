"""The mesh of a run: every device of every host, along four named axes.

    data      rows of the batch; parameters are whole on each
    fsdp      rows of the batch; parameters are split
    tensor    heads, feed-forward width and vocabulary; between blocks, places of a row
    context   places of a row

Over several slices or nodes `data` goes across them and the rest inside: gradients alone cross the slow network, once
a step (HSDP).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from nvlm_jax.config import ConfigError, MeshConfig, ModelConfig, RunConfig

AXES = ("data", "fsdp", "tensor", "context")
ROWS = ("data", "fsdp")  # axes over which the rows of a batch are split
# By name, for --mesh of the commands; tests hold all of them to the numbers of one device.
PRESETS = {
    "fsdp8": MeshConfig(fsdp=8),
    "fsdp4-tp2": MeshConfig(fsdp=4, tensor=2),
    "fsdp2-tp2-context2": MeshConfig(fsdp=2, tensor=2, context=2),
    "data2-fsdp4": MeshConfig(data=2, fsdp=4),
}


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over `devices` (default: all of all hosts), the axis set to -1 taking what the others leave.

    Raises:
        ConfigError: the axes do not multiply to the number of devices; the message says what would fit.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = fill_axes(config, len(devices))
    types = (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        try:
            return jax.make_mesh(sizes, AXES, axis_types=types, devices=devices)
        except NotImplementedError:  # an axis is no whole dimension of the torus, as tensor=4 on 16x16
            placed = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
            return Mesh(placed, AXES, axis_types=types)
    if sizes[0] % slices:
        raise ConfigError(
            f"mesh: data {sizes[0]} does not divide by the {slices} slices of these devices, and `data` alone may go "
            f"from slice to slice; data={slices} would fit"
        )
    inside = (sizes[0] // slices, *sizes[1:])
    across = (slices, 1, 1, 1)
    split = {"allow_split_physical_axes": True}
    return Mesh(mesh_utils.create_hybrid_device_mesh(inside, across, devices, **split), AXES, axis_types=types)


def parse_mesh(text: str) -> MeshConfig:
    """`fsdp=32,tensor=4`, or the name of a preset, as a MeshConfig; an axis that is not named has its default.

    Raises:
        ConfigError: neither; the message lists axes and presets.
    """
    if text in PRESETS:
        return PRESETS[text]
    sizes = {}
    for item in filter(None, text.split(",")):
        axis, _, size = item.partition("=")
        if axis not in AXES or not size.lstrip("-").isdigit():
            raise ConfigError(
                f"mesh: {item!r} is none of {', '.join(f'{a}=N' for a in AXES)}, nor {text!r} a preset "
                f"({', '.join(PRESETS)})"
            )
        sizes[axis] = int(size)
    if len(sizes) == len(AXES) or "fsdp" in sizes or -1 in sizes.values():
        return MeshConfig(**({"fsdp": 1} | sizes))
    return MeshConfig(**sizes)


def check_run(config: RunConfig, mesh: Mesh) -> None:
    """Raise ConfigError, with all faults, unless rows, places and heads of a run divide as the mesh splits them."""
    faults = []
    rows, tensor, context = math.prod(mesh.shape[axis] for axis in ROWS), mesh.shape["tensor"], mesh.shape["context"]
    try:
        check_rows(config.train.batch_rows, config.train.accumulation, mesh)
    except ConfigError as error:
        faults.append(str(error))
    places = config.data.tokens_per_row
    if places % (tensor * context):
        up = math.ceil(places / (tensor * context)) * tensor * context
        faults.append(
            f"data.tokens_per_row: {places} places do not divide by tensor * context = {tensor * context}; {up} would"
        )
    decoder = config.model.decoder
    for key in ("heads", "kv_heads"):
        if (count := getattr(decoder, key)) % tensor:
            fits = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0 and rows * tensor % n == 0)
            faults.append(f"mesh.tensor: {tensor} does not divide model.decoder.{key} = {count}; {fits} would")
    if faults:
        raise ConfigError("\n".join(faults))


def inference_mesh(model: ModelConfig, devices: Sequence[jax.Device]) -> Mesh | None:
    """Devices along `tensor` as far as heads and widths allow, the others along `fsdp`; None for one device.

    Raises:
        ConfigError: the model's sizes divide by no such mesh.
    """
    count, decoder, vision = len(devices), model.decoder, model.vision
    if count == 1:
        return None
    by_tensor = (decoder.heads, decoder.kv_heads, decoder.ff, decoder.vocab_size, model.projector_width)
    by_fsdp = (vision.width, decoder.width)
    for tensor in (n for n in range(count, 0, -1) if count % n == 0):
        if not any(size % tensor for size in by_tensor) and not any(size % (count // tensor) for size in by_fsdp):
            return make_mesh(MeshConfig(fsdp=count // tensor, tensor=tensor), devices)
    raise ConfigError(
        f"{count} devices: no tensor * fsdp of them divides heads, widths and vocabulary of the model; take fewer"
    )


def fill_axes(config: MeshConfig, count: int) -> tuple[int, ...]:
    """Sizes of the axes, in the order of AXES, for `count` devices. Raises ConfigError as `make_mesh` does."""
    sizes = {axis: getattr(config, axis) for axis in AXES}
    if wrong := {axis: size for axis, size in sizes.items() if size != -1 and size < 1}:
        raise ConfigError(f"mesh: {_text(wrong)}; a size is 1 or more, or -1 for what is left")
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    if len(open_axes) > 1:
        raise ConfigError(f"mesh: {' and '.join(open_axes)} are both -1; at most one axis can take what is left")
    known = math.prod(size for size in sizes.values() if size != -1)
    if open_axes and count % known == 0:
        sizes[open_axes[0]] = count // known
    elif math.prod(sizes.values()) != count:
        raise ConfigError(f"mesh: {_text(sizes)} does not fit {count} devices; {_advice(sizes, count)}")
    return tuple(sizes.values())


def check_rows(rows: int, accumulation: int, mesh: Mesh) -> None:
    """Raise ConfigError unless the rows of each accumulation step spread evenly over the mesh."""
    parts = math.prod(mesh.shape[axis] for axis in ROWS)
    if rows % (parts * accumulation):
        up = math.ceil(rows / (parts * accumulation)) * parts * accumulation
        raise ConfigError(
            f"train.batch_rows: {rows} rows in {accumulation} accumulation steps do not spread over data * fsdp = "
            f"{parts} devices; {up} rows would, or a mesh with more of its devices along tensor"
        )


def _text(sizes: dict[str, int]) -> str:
    return " * ".join(f"{axis} {size}" for axis, size in sizes.items())


def _advice(sizes: dict[str, int], count: int) -> str:
    """What to change: one axis at a time, the others as they are."""
    fits = []
    for axis in AXES:
        others = math.prod(size for name, size in sizes.items() if name != axis and size != -1)
        if sizes[axis] != -1 and -1 not in sizes.values() and count % others == 0:
            fits.append(f"{axis}={count // others}")
    if fits:
        return f"{' or '.join(fits)} would fit"
    divisors = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
    return f"every axis has to divide {count} ({divisors}), and all of them together multiply to it"
