"""What `launch.benchmarks.pytorch` measures: this project beside PyTorch and `transformers`, in one process.

The same NVLM-D: the weights of one checkpoint, the same parts trained by the same AdamW, the same samples, float32, the
same threads. Both take their steps in turn, so that a busy machine slows both, and their losses are compared.

    dense_step      one batch of full rows, one sample each: forward, backward, AdamW. Seconds of theirs / of ours.
    stream_samples  samples as different as the paper's (`streams.mixed_rows`), the same ones a step: ours
                    packed, theirs padded to the longest of the batch, as their users' collators do; packing and padding
                    are timed, reading and tiling are not. Samples a second of ours / of theirs.
    blend_samples   the same of the run's own blend, which may be of samples much alike.
    decode_items    greedy decoding, 64 tokens an answer (`decode.py`, long answers). Items a second of the
                    engine / of their best batch size.
    mixed_items     the same of answers of 8 to 256 tokens: a batch of theirs waits for its longest, the engine doesn't.
    short_items     the same of answers of a few tokens, where the time is that of reading prompts.

PyTorch has its fused AdamW and scaled-dot-product attention, which are the defaults of `transformers`' trainer.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import nvlm_jax
from launch.benchmarks import decode, streams
from launch.benchmarks.streams import Rows
from launch.benchmarks.torch_reference import Reference
from nvlm_jax.config import ConfigError, RunConfig
from nvlm_jax.inputs.batch import Example
from nvlm_jax.inputs.packing import pack_batch
from nvlm_jax.inputs.tags import tag_room_of
from nvlm_jax.parallel.mesh import make_mesh
from nvlm_jax.parallel.sharding import batch_shardings, global_batch, state_shardings
from nvlm_jax.training.checkpoints import restore_model
from nvlm_jax.training.initial import check_same_model
from nvlm_jax.training.loop import compile_step
from nvlm_jax.training.optimizer import learning_rate
from nvlm_jax.training.step import init_state, make_train_step, split_model

WARM = 2  # steps before the clock starts
STREAM = 12  # steps of a stream
NOT_TRAINED = -100  # label of a place without loss
PARTS = ("vision", "projector", "decoder")
DECODE = {  # the loads of benchmark_decode
    "decode_items": "long answers",
    "mixed_items": "long answers of mixed lengths",
    "short_items": "one question a page",
}


class Timings(NamedTuple):
    """Seconds of each step, [rounds][steps], and what the losses differ by at most."""

    ours: list[list[float]]
    theirs: list[list[float]]
    ours_cpu: list[list[float]]
    theirs_cpu: list[list[float]]
    loss: float

    def ratios(self, cpu: bool = False) -> list[float]:
        """Theirs / ours of each round, smallest first."""
        pairs = (self.theirs_cpu, self.ours_cpu) if cpu else (self.theirs, self.ours)
        return sorted(sum(theirs) / sum(ours) for theirs, ours in zip(*pairs, strict=True))


class Ours:
    """This project's training step, from the weights of a checkpoint."""

    def __init__(self, config: RunConfig, checkpoint: str):
        """
        Args:
            config: of the run.
            checkpoint: a workdir, or one step of it, of the same model.

        Raises:
            ConfigError: the checkpoint is of another model.
        """
        mesh = make_mesh(config.mesh)
        found, model = restore_model(checkpoint, mesh=mesh)
        check_same_model(found, config, checkpoint, "--checkpoint")
        split = split_model(model, config.train.trainable, config.model.frozen_dtype)
        abstract = jax.eval_shape(lambda: init_state(split, config))
        make = jax.jit(
            lambda trainable: init_state(split._replace(trainable=trainable), config),
            out_shardings=state_shardings(abstract, mesh),
        )
        self._state, self._frozen = make(split.trainable), split.frozen
        self._step = compile_step(make_train_step(split.graphdef, config, 0), self._state, self._frozen, mesh)
        self._shardings, model = batch_shardings(mesh), config.model
        data = config.data
        room = tag_room_of(config.inputs, model)
        self._sizes = (data.tokens_per_row, data.tiles_per_row, model.vision.image_size, model.tokens_per_tile, room)

    def step(self, rows: Rows) -> float:
        """Pack the rows and train on them; the loss before."""
        batch = pack_batch(rows, *self._sizes)
        self._state, metrics = self._step(self._state, self._frozen, global_batch(batch, self._shardings))
        jax.block_until_ready(self._state)
        return float(metrics["loss"])


class Theirs(Reference):
    """The same model, loss and optimizer in PyTorch."""

    def __init__(self, config: RunConfig, checkpoint: str):
        """Arguments as of `Ours`."""
        super().__init__(nvlm_jax.load(checkpoint), checkpoint)
        optimizer, torch = config.optimizer, self._torch
        matrices, vectors = [], []
        for name, part in zip(PARTS, (self._vision, self._projector, self._llm), strict=True):
            part.requires_grad_(name in config.train.trainable)
            for value in part.parameters() if name in config.train.trainable else ():
                (vectors if value.ndim == 1 else matrices).append(value)
        self._trained, self._clip, self._steps = matrices + vectors, optimizer.clip_norm, 0
        self._rate = learning_rate(optimizer, config.train.steps)
        groups = [
            {"params": matrices, "weight_decay": optimizer.weight_decay},
            {"params": vectors, "weight_decay": optimizer.weight_decay if optimizer.decay_vectors else 0.0},
        ]
        betas = (optimizer.beta1, optimizer.beta2)
        self._optimizer = torch.optim.AdamW(groups, betas=betas, eps=optimizer.eps, fused=True)

    def step(self, rows: Rows) -> float:
        """Pad the samples to the longest and train on them; the loss before."""
        torch = self._torch
        examples = [example for row in rows for example in row]
        tokens, labels, mask, shown = (torch.as_tensor(array) for array in padded(examples))
        for group in self._optimizer.param_groups:
            group["lr"] = float(self._rate(self._steps))
        self._steps += 1
        with torch.enable_grad():
            x = self._llm.get_input_embeddings()(tokens)
            if shown.any():
                images = self._see(np.concatenate([example.tiles for example in examples]))
                x = x.masked_scatter(shown[..., None].expand_as(x), images)
            # Where nothing is padding, no mask: then their attention is the quickest it can be.
            mask = None if mask.all() else mask
            out = self._llm(inputs_embeds=x, attention_mask=mask, labels=labels, shift_labels=labels, use_cache=False)
            out.loss.backward()
        torch.nn.utils.clip_grad_norm_(self._trained, self._clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return out.loss.item()


def measure(config: RunConfig, checkpoint: str, data: Path, steps: int, repeats: int) -> dict[str, Any]:
    """All comparisons.

    Args:
        config: of the run: its model, blend, budgets and optimizer.
        checkpoint: a workdir of NVLM-D with the weights that both start from, in float32.
        data: directory with the embedded dataset `qa-test`, for the answers.
        steps: rounds of the dense batch.
        repeats: rounds of the stream and of the answers.

    Raises:
        ConfigError: not NVLM-D, or the checkpoint is of another model.
    """
    if config.model.arch != "d":
        raise ConfigError("--compare=torch: transformers has NVLM-D's parts alone; arch=d would be right")
    set_threads()
    parts = {
        "dense_step": (config, [streams.dense_rows(config)], steps),
        "stream_samples": (*streams.mixed_rows(config, STREAM), repeats),
        "blend_samples": (config, streams.blend_rows(config, STREAM), repeats),
    }
    found: dict[str, Any] = {key: {} for key in ("samples", "padding", "timings", "ratios", "cpu_ratios")}
    found["device"] = jax.devices()[0].device_kind
    for name, (run, batches, rounds) in parts.items():
        ours, theirs = Ours(run, checkpoint), Theirs(run, checkpoint)
        timing = interleaved(ours.step, theirs.step, batches, rounds)
        found["samples"][name] = sum(len(row) for rows in batches for row in rows)
        found["padding"][name] = streams.padding(run, batches)
        found["timings"][name] = timing._asdict()
        found["ratios"][name], found["cpu_ratios"][name] = timing.ratios(), timing.ratios(cpu=True)
    found["decode"] = decode.measure(checkpoint, data, repeats, reference=True, loads=list(DECODE.values()))
    for name, load in DECODE.items():
        for key, kind in (("ratios", "seconds"), ("cpu_ratios", "cpu_seconds")):
            found[key][name] = decode_ratios(found["decode"]["workloads"][load][kind])
    return found


def report(found: dict[str, Any]) -> str:
    """A table for a person, and as its last line the ratios as JSON."""
    lines = ["| | times as fast, by the clock | in CPU time | ours | theirs |", "| --- | --- | --- | --- | --- |"]
    for name, ratios in found["ratios"].items():
        rates = ("", "")
        if name in found["timings"]:
            count, timing = found["samples"][name], found["timings"][name]
            rates = tuple(
                f"{count / statistics.median(map(sum, timing[who])):.1f} samples/s" for who in ("ours", "theirs")
            )
        shown = (f"{statistics.median(r):.2f} ({r[0]:.2f} to {r[-1]:.2f})" for r in (ratios, found["cpu_ratios"][name]))
        lines.append(f"| {name} | {' | '.join(shown)} | {' | '.join(rates)} |")
    for name, share in found["padding"].items():
        lines.append(
            f"{name}: {share['samples_a_step']:.1f} samples a step; padding {share['ours_tokens']:.1%} of places and "
            f"{share['ours_tiles']:.1%} of tiles packed, {share['theirs_tokens']:.1%} of places padded "
            f"({share['grouped_tokens']:.1%} if all were sorted by length first)"
        )
    worst = max(timing["loss"] for timing in found["timings"].values())
    lines.append(f"losses of the two agree to {worst:.1e}")
    return "\n".join(lines)


def summary(found: dict[str, Any]) -> dict[str, float]:
    """Medians of how many times as fast ours is."""
    return {name: round(statistics.median(ratios), 3) for name, ratios in found["ratios"].items()}


def interleaved(
    ours: Callable[[Rows], float], theirs: Callable[[Rows], float], batches: Sequence[Rows], rounds: int
) -> Timings:
    """Both on each batch in turn, `rounds` times; the one that begins changes every time."""
    differences = []
    for _ in range(max(1, WARM // len(batches))):  # compiles, and lets allocators settle
        for rows in batches:
            a, b = ours(rows), theirs(rows)
            differences.append(abs(a - b) / max(abs(b), 1e-6))
    wall: dict[Any, list[list[float]]] = {ours: [], theirs: []}
    cpu: dict[Any, list[list[float]]] = {ours: [], theirs: []}
    order = [ours, theirs]
    for _ in range(rounds):
        for seconds in (wall, cpu):
            seconds[ours].append([])
            seconds[theirs].append([])
        for rows in batches:
            for step in order:
                begin, used = time.perf_counter(), time.process_time()
                step(rows)
                wall[step][-1].append(time.perf_counter() - begin)
                cpu[step][-1].append(time.process_time() - used)
            order.reverse()
    return Timings(wall[ours], wall[theirs], cpu[ours], cpu[theirs], max(differences))


def padded(examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Token ids, labels, attention mask and which places hold an image token, all [samples, the longest's length]."""
    shape = (len(examples), max(len(example.tokens) for example in examples))
    tokens, labels = np.zeros(shape, np.int64), np.full(shape, NOT_TRAINED, np.int64)
    mask, shown = np.zeros(shape, np.int64), np.zeros(shape, bool)
    for row, example in enumerate(examples):
        own = slice(0, len(example.tokens))
        tokens[row, own], mask[row, own], shown[row, own] = example.tokens, 1, example.image_slots >= 0
        labels[row, own] = np.where(example.loss_weights > 0, example.targets, NOT_TRAINED)
    return tokens, labels, mask, shown


def decode_ratios(seconds: dict[str, list[float]]) -> list[float]:
    """Their quickest way / the engine in each round, smallest first."""
    ours, *theirs = (seconds[way] for way in sorted(seconds, key="engine".__ne__))
    best = min(theirs, key=statistics.median)
    return sorted(b / a for a, b in zip(ours, best, strict=True))


def set_threads() -> None:
    """PyTorch on as many threads as XLA has here: one a core that this process may use."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
