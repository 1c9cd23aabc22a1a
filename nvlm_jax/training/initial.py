"""The model before the first step: fresh parameters, then the parts that `config.init` names."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from nvlm_jax.config import ConfigError, CrossAttentionConfig, ModelConfig, RunConfig, to_mapping
from nvlm_jax.convert import open_part, place_part
from nvlm_jax.inputs.tokenizer import tokenizer_digest
from nvlm_jax.models.build import Model, abstract_model, build_model
from nvlm_jax.parallel.sharding import path_text
from nvlm_jax.training.checkpoints import place, restore_model
from nvlm_jax.training.imported import open_checkpoint, restore_parameters
from nvlm_jax.training.llm_tokenizer import check_tokenizer
from nvlm_jax.training.steps import is_checkpoint
from nvlm_jax.training.workdir import differences, flatten

PARTS = {"vision": "vision", "llm": "decoder", "projector": "projector"}  # key of `init` -> part of the model
# Settings of the inputs that a model has learned: another stage may not change them.
FORMAT_KEYS = ("tile_tags", "thumbnail", "thumbnail_tag", "image_token", "end_token", "joined_as_released_hf")
# Settings of the model that are not in its parameters: how it is computed, or how fresh ones are drawn.
FREE_MODEL_KEYS = ("dtype", "frozen_dtype", "remat", "unroll", "loss_chunk", "vision.layer_scale_init",
                   "decoder.max_positions", "decoder.rope_scaling_factor",
                   "cross_attention.gate_init", "cross_attention.last_gate_init")  # fmt: skip
Path = tuple[str, ...]
log = logging.getLogger(__name__)


def initial_model(config: RunConfig, mesh: Mesh | None = None) -> Model:
    """The model of step 0: float32 where it will be trained, `frozen_dtype` elsewhere.

    Args:
        config: of the run; `config.init` says which parts come from where, the rest is drawn from `config.seed`.
        mesh: where to put the parameters, each straight onto its own devices; None = the first device.

    Raises:
        ConfigError: a checkpoint of another architecture, tag format or size, a parameter that the source has too
            many or too few of, or another tokenizer than that of `init.llm`.
    """
    graphdef, abstract = nnx.split(abstract_model(config.model))
    variables = dict(nnx.to_flat_state(place(_trained_dtypes(abstract, config), mesh)))
    target = {path: variable.get_value() for path, variable in variables.items()}
    loaded = _loaded(config, target, mesh)
    fresh = _fresh(config, {path: leaf for path, leaf in target.items() if path not in loaded})
    log.info("initial weights: %d arrays loaded, %d fresh (each is named at level DEBUG)", len(loaded), len(fresh))
    for path, leaf in target.items():
        log.debug("%s %s %s", "loaded" if path in loaded else "fresh ", "/".join(path), tuple(leaf.shape))
    values = {**loaded, **fresh}
    if config.init.cross_attention:
        values |= _gated_layers(values, target, config.model.cross_attention)
    flat = [(path, variable.replace(values[path])) for path, variable in variables.items()]
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def check_same_model(found: RunConfig, config: RunConfig, where: str, key: str) -> None:
    """Raise ConfigError unless a checkpoint's architecture, sizes and input format are those of `config`.

    Args:
        found: config of the checkpoint.
        config: of the run that wants it.
        where: the checkpoint.
        key: the config key that names it.
    """
    theirs, ours = _fixed_model(found.model), _fixed_model(config.model)
    for inputs, mapping in ((found.inputs, theirs), (config.inputs, ours)):
        mapping.update({f"inputs.{name}": getattr(inputs, name) for name in FORMAT_KEYS})
    lines = differences(theirs, ours)
    if other := _other_tokenizer(found, config):
        lines.append(other)
    if lines:
        raise ConfigError(
            f"{key}: the checkpoint {where} does not fit this run:\n  "
            + "\n  ".join(lines)
            + f"\nSet these keys to the checkpoint's values, or name another checkpoint in {key}."
        )


def _other_tokenizer(found: RunConfig, config: RunConfig) -> str:
    """What to say where both have a tokenizer's file and they differ; else nothing."""
    theirs, ours = (run.inputs.tokenizer for run in (found, config))
    then, now = tokenizer_digest(theirs), tokenizer_digest(ours)
    return f"inputs.tokenizer: {theirs} ({then}) there, {ours} ({now}) now" if then and now and then != now else ""


def _fixed_model(model: ModelConfig) -> dict[str, Any]:
    flat = flatten(to_mapping(model), "model")
    return {key: value for key, value in flat.items() if key.removeprefix("model.") not in FREE_MODEL_KEYS}


def _trained_dtypes(abstract: nnx.State, config: RunConfig) -> nnx.State:
    def cast(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        trained = path_text(path).split("/")[0] in config.train.trainable
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype if trained else config.model.frozen_dtype)

    return jax.tree_util.tree_map_with_path(cast, abstract)


def _loaded(config: RunConfig, target: dict[Path, Any], mesh: Mesh | None) -> dict[Path, jax.Array]:
    """What `config.init` names, by path."""
    init = config.init
    if init.checkpoint:
        found, model = restore_model(init.checkpoint, mesh=mesh)
        check_same_model(found, config, init.checkpoint, "init.checkpoint")
        return _fit(_arrays(model), target, init.checkpoint, "init.checkpoint")
    loaded: dict[Path, jax.Array] = {}
    for key, part in PARTS.items():
        if source := getattr(init, key):
            wanted = {path: leaf for path, leaf in target.items() if path[0] == part}
            if not wanted:
                raise ConfigError(f"init.{key}: {source} is given, but this model has no part {part}")
            if key == "llm":
                check_tokenizer(config)
            loaded |= _fit(_read(source, key, config, wanted), wanted, source, f"init.{key}")
    return loaded


def _read(source: str, key: str, config: RunConfig, wanted: dict[Path, Any]) -> dict[Path, Any]:
    """All parameters of one part: of a workdir or a step's directory, otherwise of a Hugging Face directory."""
    if not is_checkpoint(source):
        return place_part(open_part(source, key, config.model), wanted)
    arrays = open_checkpoint(source)[1]
    found = {path: array for path, array in arrays.items() if path[0] == PARTS[key]}
    _check_fit(found, wanted, source, f"init.{key}")
    return restore_parameters(source, wanted)


def _arrays(model: Model) -> dict[Path, jax.Array]:
    return {path: leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(model))}


def _fit(found: dict[Path, Any], wanted: dict[Path, Any], source: str, key: str) -> dict[Path, jax.Array]:
    """The arrays of `found` in the dtypes and places of `wanted`. Raises ConfigError unless names and shapes agree."""
    _check_fit(found, wanted, source, key)
    return {path: jax.device_put(_cast(found[path], leaf.dtype), leaf.sharding) for path, leaf in wanted.items()}


def _check_fit(found: dict[Path, Any], wanted: dict[Path, Any], source: str, key: str) -> None:
    faults = [f"{'/'.join(path)}: missing there" for path in wanted if path not in found]
    faults += [f"{'/'.join(path)}: of no use here" for path in found if path not in wanted]
    faults += [
        f"{'/'.join(path)}: {tuple(found[path].shape)} there, {tuple(leaf.shape)} here"
        for path, leaf in wanted.items()
        if path in found and tuple(found[path].shape) != tuple(leaf.shape)
    ]
    if faults:
        raise ConfigError(f"{key}: the parameters of {source} do not fit this model:\n  " + "\n  ".join(faults))


def _gated_layers(
    values: dict[Path, jax.Array], target: dict[Path, Any], cross: CrossAttentionConfig
) -> dict[Path, jax.Array]:
    """Norms, attention and feed-forward of the decoder layer behind each gated one; gates stay as they are.

    What the decoder's heads look for in a text they then look for in the image tokens, and the projector is all that
    has to be learned from nothing. A decoder's keys and values are of normed states and image tokens come as they are,
    so the norm's scale goes into both. (Not of the paper, which does not say what these layers start from.)
    """
    copied, behind = {}, slice(cross.place, None, cross.every)
    scale = values["decoder", "layers", "norm1", "scale"][behind, :, None]
    for path, leaf in target.items():
        if path[:2] != ("cross_attention", "layers"):
            continue
        inner = ("attention", *path[2:]) if path[2] in ("q", "k", "v", "out") else path[2:]
        if (source := ("decoder", "layers", *inner)) in values:
            array = values[source][behind] * (scale if path[2:] in (("k", "kernel"), ("v", "kernel")) else 1)
            copied[path] = jax.device_put(_cast(array, leaf.dtype), leaf.sharding)
    return copied


def _cast(array: Any, dtype: Any) -> Any:
    return array if array.dtype == dtype else array.astype(dtype)


def _fresh(config: RunConfig, wanted: dict[Path, Any]) -> dict[Path, jax.Array]:
    """Freshly drawn parameters, each made on the devices it lies on; what is not wanted is never computed."""
    if not wanted:
        return {}
    paths = tuple(wanted)
    leaves = tuple((wanted[path].dtype, wanted[path].sharding) for path in paths)
    return dict(zip(paths, _drawing(config.model, config.seed, paths, leaves)(), strict=True))


@functools.lru_cache(maxsize=2)
def _drawing(
    model: ModelConfig, seed: int, paths: tuple[Path, ...], leaves: tuple[tuple[Any, Any], ...]
) -> Callable[[], list[jax.Array]]:
    def draw() -> list[jax.Array]:
        arrays = _arrays(build_model(model, seed))
        return [arrays[path].astype(dtype) for path, (dtype, _) in zip(paths, leaves, strict=True)]

    return jax.jit(draw, out_shardings=[sharding for _, sharding in leaves])
