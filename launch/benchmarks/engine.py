"""How near the engine comes to what the device allows: prompts read and tokens chosen a second, of random weights.

    python -m launch.benchmarks.engine --config=configs/nvlm.py:arch=d,size=1b,stage=sft [--slots=64,16,1]

Prompts of random tokens and pixels are read and answered by one engine, first to their first token (the rate of
reading, tiles included), then with more and more of them at once. Answers are of one length: no token ends them.

Choosing a token for all rows reads every weight of the decoder and what is in the cache of each row once. So many bytes
over the published bandwidth of the memory is the least time that it can take.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx

from launch.benchmarks.output import run
from launch.benchmarks.step import published
from launch.config_flag import define_config
from nvlm_jax.config import ModelConfig, RunConfig, from_mapping
from nvlm_jax.generation.engine import Engine
from nvlm_jax.generation.request import Request
from nvlm_jax.inputs.batch import Example
from nvlm_jax.models.build import abstract_model
from nvlm_jax.models.flops import keys_per_tile, sample_work, scaled, useful_flops
from nvlm_jax.models.nvlm import NVLM
from nvlm_jax.parallel.sharding import path_text
from nvlm_jax.planning.chips import Chip
from nvlm_jax.planning.synthetic import synthetic_example

TILES = 2  # of a prompt
DRAWN = 1 << 20  # random numbers, of which all weights are made
END = 0  # the token that would end an answer; its embedding is zero, so that it never wins


def measure(config: RunConfig, slots: Sequence[int], prompt: int, new: int, seconds: float) -> dict[str, Any]:
    """Rates of reading prompts, and of choosing tokens for so many requests at once.

    Args:
        config: of a run; its model with random weights, in its dtype.
        slots: requests that are answered together; the largest first.
        prompt: tokens of a prompt, those of two tiles among them.
        new: tokens of an answer.
        seconds: no further number of slots is begun after this time.
    """
    begin, most = time.monotonic(), max(slots)
    model = random_model(config.model)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))
    # Room for all prompts of two passes, so that the engine need not grow: each size has its own programs.
    engine = Engine(model, config.model.decoder.vocab_size, [END], most, cache_tokens=3 * most * (prompt + new))
    random, chip = np.random.default_rng(0), published()
    found: dict[str, Any] = {
        "run": config.name,
        "device": jax.devices()[0].device_kind,
        "dtype": config.model.dtype,
        "weight_gb": weights / 1e9,
        "prompt": prompt,
        "tiles": TILES,
        "new": new,
        "choosing": [],
    }
    prompts = [make_prompt(config, prompt, random) for _ in range(2 * most)]
    for part in (prompts[:most], prompts[most:]):  # the first compiles
        reading = time.monotonic()
        engine.generate(Request(example, 1) for example in part)
        reading = time.monotonic() - reading
    one = sample_work(config.model, prompt - _places(config.model), TILES, 1)._replace(trained=1)  # chosen behind it
    work = scaled(one, most)
    flops = sum(useful_flops(config.model, (), work).values())
    found["reading"] = {
        "prompts": most,
        "seconds": reading,
        "tokens_per_second": most * prompt / reading,
        "tiles_per_second": most * TILES / reading,
        "flops": flops,
        "peak_share": flops / reading / chip.flops if chip else None,
    }
    print(_reading(found), flush=True)
    for count in slots:
        if time.monotonic() - begin > seconds:
            print(f"{count} slots: left out after {seconds:.0f} s")
            continue
        engine.slots = count
        for _ in range(2):  # the first compiles what the growing answers need
            # One alone was read before, but for its last tokens: no further programs to compile.
            asked = prompts[-1:] if count == 1 else [make_prompt(config, prompt, random) for _ in range(count)]
            tokens, took = _choose(engine, asked, new)
        size = bytes_of_step(model, count, prompt + new / 2)
        row = {"slots": count, "tokens_per_second": tokens / took, "step_ms": 1000 * took * count / tokens}
        row = with_bound(row | {"step_gb": size / 1e9}, chip)
        found["choosing"].append(row)
        print(f"{count} slots: {row['tokens_per_second']:,.0f} tokens/s, {time.monotonic() - begin:.0f} s", flush=True)
    found["seconds"] = time.monotonic() - begin
    return found


def with_bound(row: dict[str, Any], chip: Chip | None) -> dict[str, Any]:
    """What choosing took, beside the least time that reading so many bytes can take."""
    bound = 1000 * 1e9 * row["step_gb"] / chip.hbm_bandwidth if chip else None
    return row | {"bound_ms": bound, "bandwidth_share": bound and bound / row["step_ms"]}


def random_model(config: ModelConfig) -> NVLM:
    """Weights made on the device, in the dtype of the computation."""
    graphdef, abstract = nnx.split(abstract_model(dataclasses.replace(config, remat="none")))
    leaves, tree = jax.tree_util.tree_flatten_with_path(abstract)

    @jax.jit
    def draw() -> list[jax.Array]:
        made, numbers = [], 0.02 * jax.random.normal(jax.random.key(0), (DRAWN,), config.dtype)
        for path, leaf in leaves:
            repeated = jnp.broadcast_to(numbers, (-(-leaf.size // DRAWN), DRAWN)).reshape(-1)[: leaf.size]
            numbers = jnp.roll(numbers, 7919)
            around = 1 if path_text(path).split("/")[-1].startswith("scale") else 0
            made.append((repeated.reshape(leaf.shape) + around).astype(config.dtype))
        return made

    model = nnx.merge(graphdef, jax.tree.unflatten(tree, draw()))
    if model.decoder.head is not None:
        model.decoder.head.kernel[...] = model.decoder.head.kernel[...].at[:, END].set(0.0)
    else:
        model.decoder.embedding[...] = model.decoder.embedding[...].at[END].set(0.0)
    return model


def make_prompt(config: RunConfig, length: int, random: np.random.Generator) -> Example:
    """Two tiles of random pixels and random text, `length` tokens in all."""
    return synthetic_example(config, length - _places(config.model), TILES, random)


def bytes_of_step(model: NVLM, rows: int, length: float) -> float:
    """What choosing one token for all rows has to read: the decoder's weights, and keys and values of `length` tokens
    and of the tiles that the cross-attention reads, of each row."""
    config = model.config
    decoder, cross, width = config.decoder, config.cross_attention, jnp.dtype(config.dtype).itemsize

    def size(part: Any) -> int:
        return sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(part)))

    head = model.decoder.head
    weights = size(model.decoder.layers) + (model.decoder.embedding[...].nbytes if head is None else size(head))
    head = 2 * decoder.kv_heads * decoder.head_dim * width
    cache = rows * length * decoder.layers * head
    if cross is not None:
        gated = model.cross_attention.layers
        weights += size(gated) - size(gated.k) - size(gated.v)  # those were needed once an image
        crossed = TILES - (config.arch == "h")
        cache += rows * crossed * keys_per_tile(config) * decoder.layers // cross.every * head
    return weights + cache


def report(found: dict[str, Any]) -> str:
    """The measurement in Markdown."""
    lines = [
        f"{found['run']} on {found['device']}, {found['weight_gb']:.2f} GB of random {found['dtype']} weights, "
        f"prompts of {found['prompt']} tokens with {found['tiles']} tiles, answers of {found['new']}",
        _reading(found),
        "",
        "| slots | tokens/s | ms a token of all | GB read | least ms by bandwidth | share reached |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in found["choosing"]:
        bound = row["bound_ms"]
        least, share = ("–", "–") if bound is None else (f"{bound:.2f}", f"{row['bandwidth_share']:.1%}")
        rate = f"| {row['slots']} | {row['tokens_per_second']:,.0f} | {row['step_ms']:.2f} | {row['step_gb']:.2f}"
        lines.append(f"{rate} | {least} | {share} |")
    return "\n".join([*lines, f"\n{found['seconds']:.0f} s in all"])


def _choose(engine: Engine, prompts: Sequence[Example], new: int) -> tuple[int, float]:
    """Tokens, and seconds from when every prompt is read."""
    for example in prompts:
        engine.submit(Request(example, new))
    engine.step()
    begin, tokens = time.monotonic(), 0
    while engine.working:
        tokens += sum(len(update.tokens) for update in engine.step())
    return tokens, time.monotonic() - begin


def _places(model: ModelConfig) -> int:
    """Tokens of two tiles and their tags in the decoder."""
    shown = {"d": TILES, "x": 0, "h": 1}[model.arch]
    return shown * model.tokens_per_tile + (1 if model.arch == "h" else TILES)


def _reading(found: dict[str, Any]) -> str:
    reading = found["reading"]
    share = reading["peak_share"]
    of = "no published figure for this device" if share is None else f"{share:.1%} of the published peak"
    rates = f"{reading['tokens_per_second']:,.0f} tokens/s, {reading['tiles_per_second']:,.0f} tiles/s"
    return f"reading {reading['prompts']} prompts: {rates}, {of}"


if __name__ == "__main__":
    CONFIG = define_config("the run whose model answers")
    SLOTS = flags.DEFINE_list("slots", ["64", "16", "1"], "requests answered together")
    PROMPT = flags.DEFINE_integer("prompt", 1024, "tokens of a prompt", lower_bound=1)
    NEW = flags.DEFINE_integer("new", 128, "tokens of an answer", lower_bound=64)
    SECONDS = flags.DEFINE_float("seconds", 60.0, "after which no further number of slots is begun", lower_bound=1.0)
    flags.mark_flag_as_required("config")

    def of_config(directory: Path) -> dict[str, Any]:
        config = from_mapping(RunConfig, CONFIG.value.to_dict())
        return measure(config, sorted(map(int, SLOTS.value), reverse=True), PROMPT.value, NEW.value, SECONDS.value)

    run("engine", of_config, report)
