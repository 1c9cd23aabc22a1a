"""How every array is split over the mesh: one table from parameter to logical axes, one from those to mesh axes.

The vision encoder's weights are split by `fsdp` only: its 25 heads divide by nothing (paper's InternViT-6B). Its tiles
are split over the whole mesh instead.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nvlm_jax.config import ConfigError
from nvlm_jax.inputs.batch import Batch
from nvlm_jax.models.axes import Names
from nvlm_jax.parallel.mesh import ROWS

MESH_AXES: dict[str | None, str | tuple[str, ...] | None] = {
    # Activations (models/axes.py says what they are).
    "rows": ROWS,
    "replicas": "data",  # rows, where the width is split by `fsdp`
    "places": "context",
    "between": ("context", "tensor"),
    "tiles": (*ROWS, "context", "tensor"),
    "memory": "context",
    # Parameters, and the widths of activations that come from them.
    "vision": "fsdp",  # width of the vision encoder
    "features": "fsdp",  # what the projector reads
    "embed": "fsdp",  # width of the decoder
    "vocab": "tensor",
    "heads": "tensor",
    "kv": "tensor",
    "mlp": "tensor",
    None: None,
}

# Path of a parameter (its end, for a part's name may be left out) -> logical axis of each dimension. The first that
# matches counts. Stacked layers have one more dimension in front, never split.
PARAMETERS: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"vision/(class_token|position)", (None, None, "vision")),
    (r"vision/patch/kernel", (None, "vision")),
    (r"vision/layers/(attention/qkv|up)/kernel", ("vision", None)),
    (r"vision/layers/(attention/out|down)/kernel", (None, "vision")),
    (r"projector/first/kernel", ("features", "mlp")),
    (r"projector/second/kernel", ("mlp", "embed")),
    (r"decoder/embedding", ("vocab", "embed")),
    (r"decoder/head/kernel", ("embed", "vocab")),
    (r"cross_attention/tags", (None, "embed")),
    (r"(decoder/layers/attention|cross_attention/layers)/q/kernel", ("embed", "heads")),
    (r"(decoder/layers/attention|cross_attention/layers)/[kv]/kernel", ("embed", "kv")),
    (r"(decoder/layers/attention|cross_attention/layers)/out/kernel", ("heads", "embed")),
    (r"decoder/layers/attention/q/bias", ("heads",)),
    (r"decoder/layers/attention/[kv]/bias", ("kv",)),
    (r"(decoder|cross_attention)/layers/mlp/(gate|up)/kernel", ("embed", "mlp")),
    (r"(decoder|cross_attention)/layers/mlp/down/kernel", ("mlp", "embed")),
    (r"cross_attention/layers/(attention|mlp)_gate", ()),
    (r"cross_attention/resampler/latents", (None, "embed")),
    (r"cross_attention/resampler/layers/[qkv]/kernel", ("embed", "heads")),
    (r"cross_attention/resampler/layers/out/kernel", ("heads", "embed")),
    (r"cross_attention/resampler/layers/mlp/(gate|up)/kernel", ("embed", "mlp")),
    (r"cross_attention/resampler/layers/mlp/down/kernel", ("mlp", "embed")),
    (r"head", ("features", "vocab")),  # of the dense reader that pretrains the encoder
    (r".*/?(scale|scale1|scale2|bias)", (None,)),
)


def path_text(path: tuple[Any, ...]) -> str:
    """A key path of a tree of parameters or of an optimizer state as "decoder/layers/q/kernel"."""
    names = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
    return "/".join(names[:-1] if names and names[-1] == "value" else names)


def logical_axes(path: str) -> tuple[str | None, ...]:
    """Logical axis of each dimension of the parameter at `path`, or of an optimizer moment of it.

    Raises:
        ConfigError: no line of the table matches.
    """
    for pattern, axes in PARAMETERS:
        if re.search(f"(^|/){pattern}$", path):
            return (None, *axes) if "/layers/" in f"/{path}" else axes
    raise ConfigError(f"parameter {path}: no line of PARAMETERS in nvlm_jax/parallel/sharding.py says how to split it")


def parameter_sharding(path: str, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Where the array of this path and shape lies. Scalars, such as the optimizer's count, are whole everywhere.

    Raises:
        ConfigError: a dimension does not divide by its mesh axis, or the table has another number of dimensions.
    """
    if not shape:
        return NamedSharding(mesh, PartitionSpec())
    axes = logical_axes(path)
    if len(axes) != len(shape):
        raise ConfigError(f"parameter {path}: shape {shape} has not the dimensions {axes} that the table gives it")
    names = [MESH_AXES[axis] for axis in axes]
    for dimension, (size, logical, name) in enumerate(zip(shape, axes, names, strict=True)):
        if name and size % mesh.shape[name]:
            raise ConfigError(
                f"parameter {path}: dimension {dimension} ({logical}) of size {size} does not divide by "
                f"mesh.{name} = {mesh.shape[name]}"
            )
    return NamedSharding(mesh, PartitionSpec(*(name if name and mesh.shape[name] > 1 else None for name in names)))


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """The sharding of every array of `state`: parameters, trained or frozen, optimizer moments, counters.

    Args:
        state: any tree whose leaves have shapes and whose paths end in the parameters' own, such as a `TrainState`.
        mesh: from `make_mesh`.

    Raises:
        ConfigError: as `parameter_sharding`.
    """

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        return parameter_sharding(path_text(path), tuple(leaf.shape), mesh)

    return jax.tree_util.tree_map_with_path(place, state)


class MeshLayout:
    """Where the named dimensions of activations lie on a mesh: the `Layout` that `models/axes.py` asks for."""

    def __init__(self, mesh: Mesh):
        self.mesh = mesh
        self.platform = mesh.devices.flat[0].platform

    def place(self, x: jax.Array, names: Names) -> jax.Array:
        """`x` with a sharding constraint."""
        if len(names) != x.ndim:
            raise ValueError(f"an array of shape {x.shape} has not the dimensions {names}")
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, _spec(names)))

    def parts(self, name: str) -> int:
        """Into how many parts a dimension of this name is split."""
        axes = MESH_AXES[name]
        return math.prod(self.mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))

    def by_part(self, function: Callable[..., jax.Array], given: Sequence[Names], made: Names) -> Callable:
        """`function` as each device computes it, from its part of each argument, to its part of the result."""
        # What is replicated cannot be told apart inside of a kernel, so it is not checked there.
        specs = tuple(_spec(names) for names in given)
        return jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=_spec(made), check_vma=False)


def _spec(names: Names) -> PartitionSpec:
    return PartitionSpec(*(MESH_AXES[name] for name in names))


def mesh_layout(mesh: Mesh) -> MeshLayout | None:
    """The layout of activations on `mesh`; None for one device of this machine, where nothing has to be said."""
    layout = MeshLayout(mesh)
    return layout if mesh.size > 1 or layout.platform != jax.default_backend() else None


def batch_shardings(mesh: Mesh) -> Batch:
    """Rows over data and fsdp, places of a row over context; tiles go with their row."""
    rows = NamedSharding(mesh, PartitionSpec(MESH_AXES["rows"]))
    places = NamedSharding(mesh, PartitionSpec(MESH_AXES["rows"], MESH_AXES["places"]))
    by_tile = {"tiles", "tile_segment_ids", "tile_index", "tile_start", "tile_tags"}
    return Batch(*(rows if field in by_tile else places for field in Batch._fields))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def global_batch(batch: Batch, shardings: Batch, rows: int | None = None) -> Batch:
    """This process's rows as arrays of the whole batch, on the devices; `rows` of the whole, if this is a part."""
    rows = len(batch.tokens) if rows is None else rows
    make = jax.make_array_from_process_local_data
    return Batch(*(make(s, x, (rows, *x.shape[1:])) for s, x in zip(shardings, batch, strict=True)))
