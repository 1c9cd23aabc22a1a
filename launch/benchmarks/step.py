"""A training step on this machine, measured.

    python -m launch.benchmarks.step --config=configs/nvlm.py:arch=d,size=tiny,stage=sft [--steps=10 --modules]

Weights are fresh, nothing is saved. Batches come from the run's data where that is on this machine; otherwise rows are
filled with synthetic samples, and the data wait says nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx

from data_pipelines.loader import batches, make_plan
from launch.benchmarks import step_profile
from launch.benchmarks.output import run
from launch.config_flag import define_config
from nvlm_jax.config import RunConfig, from_mapping
from nvlm_jax.inputs.batch import THUMBNAIL, Batch
from nvlm_jax.models.axes import laid_out
from nvlm_jax.models.flops import Work, keys_per_tile, padded_work, useful_flops
from nvlm_jax.models.vision import spread_tiles
from nvlm_jax.parallel.mesh import make_mesh
from nvlm_jax.parallel.sharding import batch_shardings, global_batch, mesh_layout, state_shardings
from nvlm_jax.planning.chips import CHIPS, GIB, Chip
from nvlm_jax.planning.synthetic import synthetic_batch
from nvlm_jax.training.initial import initial_model
from nvlm_jax.training.loop import compile_step
from nvlm_jax.training.step import init_state, make_train_step, split_model

WARM = 2  # steps before the clock starts
# What `Device.device_kind` says of devices that `CHIPS` knows.
KINDS = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e", "TPU7x": "tpu7x"}
KINDS |= {"NVIDIA H100": "h100", "NVIDIA H200": "h200", "NVIDIA B200": "b200"}


def measure(config: RunConfig, steps: int, text: int, tiles: int, modules: bool = False) -> dict[str, Any]:
    """Medians over `steps` steps of the run on all devices here.

    Args:
        config: of the run; its initial weights are not read.
        steps: to time.
        text: of a synthetic sample, tokens.
        tiles: of a synthetic sample.
        modules: also where the device's time goes (`step_profile`), from a few more steps.
    """
    config = dataclasses.replace(config, init=dataclasses.replace(config.init, **_no_init()))
    mesh = make_mesh(config.mesh)
    source, kind = _batches(config, WARM + steps, text, tiles)
    split = split_model(initial_model(config, mesh), config.train.trainable, config.model.frozen_dtype)
    abstract = jax.eval_shape(lambda: init_state(split, config))
    make = jax.jit(
        lambda trainable: init_state(split._replace(trainable=trainable), config),
        out_shardings=state_shardings(abstract, mesh),
    )
    state = make(split.trainable)
    shardings = batch_shardings(mesh)
    first = next(source)
    placed = global_batch(first, shardings)
    begin = time.monotonic()
    step = compile_step(make_train_step(split.graphdef, config, 64), state, split.frozen, mesh)
    compiled = step.lower(state, split.frozen, placed).compile()
    found: dict[str, Any] = {"run": config.name, "device": _device(), "devices": mesh.size, "batches": kind}
    found["compile_seconds"] = time.monotonic() - begin
    seconds, waits, works = [], [], []
    for batch in itertools.chain([first], source):
        begin = time.monotonic()
        state, metrics = compiled(state, split.frozen, global_batch(batch, shardings))
        jax.block_until_ready(metrics)
        seconds.append(time.monotonic() - begin)
        works.append(batch_work(config, batch))
        waits.append(time.monotonic())
    waits = [b - a - s for a, b, s in zip(waits, waits[1:], seconds[1:], strict=False)]
    memory = _memory(compiled)
    if modules:

        def again() -> dict[str, jax.Array]:
            nonlocal state
            state, metrics = compiled(state, split.frozen, placed)
            return metrics

        found["modules"] = step_profile.profile(again, compiled, min(3, steps))
    second = float(np.median(seconds[WARM:]))
    vision = _vision_seconds(config, split, state.params, placed, mesh, steps)
    work = Work(*np.mean(works[WARM:], axis=0))
    return found | _rates(config, mesh, work, second, vision) | {
        "data_wait_share": float(np.median(waits[WARM - 1 :]) / second) if kind != "synthetic" else None,
        "memory_gib_of_a_device": memory,
        "loss": float(metrics["loss"]),
    }  # fmt: skip


def batch_work(config: RunConfig, batch: Batch) -> Work:
    """What the real tokens and tiles of a batch (NumPy) ask for: the masks' own pairs, counted."""
    model, segments = config.model, np.asarray(batch.segment_ids)
    tokens, tiles = int((segments > 0).sum()), int((np.asarray(batch.tile_segment_ids) > 0).sum())
    lengths = np.concatenate([np.bincount(row)[1:] for row in segments])
    pairs, trained = float((lengths * (lengths + 1) / 2).sum()), int((np.asarray(batch.loss_weights) > 0).sum())
    if model.cross_attention is None or not tiles:
        return Work(tokens, tiles, pairs, trained)
    memory = np.asarray(batch.tile_segment_ids)
    if model.arch == "h":
        memory = np.where(np.asarray(batch.tile_index) == THUMBNAIL, 0, memory)
    index = np.arange(segments.shape[1])
    sees = (segments[:, :, None] == memory[:, None]) & (memory[:, None] > 0)
    sees &= np.asarray(batch.tile_start)[:, None] <= index[None, :, None]
    tag = np.asarray(batch.tag_tile)[:, :, None]
    sees &= (tag == 0) | (tag == 1 + np.arange(memory.shape[1]))
    seen = float(sees.sum()) * keys_per_tile(model)
    return Work(tokens, tiles, pairs, trained, float((memory > 0).sum()), float(sees.any(axis=2).sum()), seen)


def report(found: dict[str, Any]) -> str:
    """The measurement as lines for a person."""
    lines = [f"{found['run']} on {found['devices']} x {found['device']}, {found['batches']} batches"]
    lines.append(f"step          {found['step_seconds'] * 1000:,.1f} ms (compiled in {found['compile_seconds']:.0f} s)")
    lines.append(f"useful        {found['tokens_per_second']:,.0f} tokens/s, {found['tiles_per_second']:,.1f} tiles/s")
    padding = f"{found['token_padding']:.1%} of places, {found['tile_padding']:.1%} of tiles"
    lines.append(f"padding       {padding}, {found['flops_padding']:.1%} of FLOPs")
    for module, mfu in found["mfu"].items():
        lines.append(f"MFU {module:10}{mfu:.1%} of {found['peak_source']}, {found['seconds'][module] * 1000:,.1f} ms")
    lines.append(f"memory        {found['memory_gib_of_a_device']:.2f} GiB a device")
    wait = found["data_wait_share"]
    lines.append("data wait     " + ("not measured: synthetic" if wait is None else f"{wait:.1%} of the step"))
    if "modules" in found:
        lines.append("device time of a step:\n" + step_profile.report(found["modules"]))
    return "\n".join(lines)


def _rates(config: RunConfig, mesh: Any, work: Work, second: float, vision: float) -> dict[str, Any]:
    data, rows, model = config.data, config.train.batch_rows, config.model
    useful = useful_flops(model, config.train.trainable, work)
    full = padded_work(model, rows, data.tokens_per_row, data.tiles_per_row)
    full = full._replace(self_pairs=full.self_pairs / 2, trained=work.trained)
    padded = sum(useful_flops(model, config.train.trainable, full).values())
    peak, source = _peak()
    peak *= mesh.size
    frozen_encoder = "vision" not in config.train.trainable
    parts = {"step": (sum(useful.values()), second)}
    if vision and frozen_encoder:
        parts |= {
            "vision": (useful["vision"], vision),
            "rest": (sum(useful.values()) - useful["vision"], second - vision),
        }
    return {
        "step_seconds": second,
        "tokens_per_second": work.tokens / second,
        "tiles_per_second": work.tiles / second,
        "token_padding": 1 - work.tokens / (rows * data.tokens_per_row),
        "tile_padding": 1 - work.tiles / (rows * data.tiles_per_row) if data.tiles_per_row else 0.0,
        "flops_padding": 1 - sum(useful.values()) / padded,
        "flops_by_module": useful,
        "mfu": {name: flops / seconds / peak for name, (flops, seconds) in parts.items() if seconds > 0},
        "seconds": {name: seconds for name, (_, seconds) in parts.items() if seconds > 0},
        "peak_source": source,
    }


def _batches(config: RunConfig, count: int, text: int, tiles: int) -> tuple[Iterator[Batch], str]:
    if config.data.blend and all(Path(dataset.path).is_dir() for dataset in config.data.blend):
        plan = make_plan(config, count)
        return (batch for batch, _ in batches(config, plan)), "the run's own"
    made = (synthetic_batch(config, text, tiles, seed)[0] for seed in range(count))
    return made, "synthetic"


def _vision_seconds(config: RunConfig, split: Any, params: Any, batch: Batch, mesh: Any, steps: int) -> float:
    """Seconds of the encoder's forward pass alone; 0 where there is nothing to encode."""
    if not batch.tiles.shape[1] or config.model.dense_labels:
        return 0.0

    @jax.jit
    def encode(trainable: nnx.State, frozen: nnx.State, tiles: jax.Array) -> jax.Array:
        with laid_out(mesh_layout(mesh)):
            model = nnx.merge(split.graphdef, trainable, frozen)
            return model.vision(spread_tiles(tiles)).sum()

    arguments = (params, split.frozen, batch.tiles)
    return _median_seconds(lambda: encode(*arguments), steps)


def _median_seconds(run: Callable[[], Any], times: int) -> float:
    for _ in range(WARM):
        jax.block_until_ready(run())
    seconds = []
    for _ in range(times):
        begin = time.monotonic()
        jax.block_until_ready(run())
        seconds.append(time.monotonic() - begin)
    return float(np.median(seconds))


def published() -> Chip | None:
    """What its maker publishes of this device; None where `CHIPS` does not have it."""
    kind = jax.devices()[0].device_kind
    names = (name for known, name in sorted(KINDS.items(), key=lambda item: -len(item[0])) if kind.startswith(known))
    return next((CHIPS[name] for name in names), None)


def _peak() -> tuple[float, str]:
    """FLOPs a second of one device: published, or what a large matrix product reaches here."""
    if chip := published():
        return chip.flops, f"{chip.name}'s published bf16 peak"
    size = 2048
    x = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda x: x @ x)
    seconds = _median_seconds(lambda: product(x), 5) * jax.local_device_count()
    return 2 * size**3 / seconds, "a float32 matrix product's rate here"


def _device() -> str:
    return jax.devices()[0].device_kind


def _memory(compiled: Any) -> float:
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / GIB
    found = compiled.memory_analysis()
    held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return (held + found.temp_size_in_bytes) / GIB


def _no_init() -> dict[str, str]:
    return dict.fromkeys(("vision", "llm", "projector", "cross_attention", "checkpoint"), "")


if __name__ == "__main__":
    CONFIG = define_config("the run whose training step is measured")
    STEPS = flags.DEFINE_integer("steps", 10, "to time", lower_bound=1)
    MODULES = flags.DEFINE_bool("modules", False, "where the device's time goes, by module")
    TEXT = flags.DEFINE_integer("sample_text", 128, "text tokens of a synthetic sample", lower_bound=2)
    TILES = flags.DEFINE_integer("sample_tiles", 7, "tiles of a synthetic sample", lower_bound=0)
    flags.mark_flag_as_required("config")

    def of_config(directory: Path) -> dict[str, Any]:
        if MODULES.value:  # operations that a GPU starts as one recorded graph have no names of their own
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_command_buffer="
        config = from_mapping(RunConfig, CONFIG.value.to_dict())
        return measure(config, STEPS.value, TEXT.value, TILES.value, MODULES.value)

    run("step", of_config, report)
