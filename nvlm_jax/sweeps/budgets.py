"""Matched budgets: every variant gets as many steps as cost what the base's cost, stage by stage.

none      as the configurations say
steps     the base's steps
samples   as many samples as the base sees
flops     as many floating-point operations as the base computes, padding of full rows included
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from nvlm_jax.config import RunConfig
from nvlm_jax.models.flops import step_flops
from nvlm_jax.sweeps.sweep_file import MATCHES, Sweep, SweepError, Variant

SamplesPerStep = Callable[[RunConfig], float]


def match(sweep: Sweep, how: str, samples_per_step: SamplesPerStep | None = None) -> Sweep:
    """The sweep with each variant's `train.steps` set.

    Args:
        sweep: as loaded.
        how: one of MATCHES.
        samples_per_step: config -> mean samples of a batch, for `samples`; needs the data.

    Raises:
        SweepError: an unknown `how`, or a stage whose steps would be none.
    """
    if how not in MATCHES:
        raise SweepError(f"--match: {how!r} is none of {', '.join(MATCHES)}")
    if how == "none":
        return dataclasses.replace(sweep, match=how)
    cost = {"steps": lambda config: 1.0, "samples": samples_per_step, "flops": flops_of_step}[how]
    budget = {stage: config.train.steps * cost(config) for stage, config in sweep.base.stages.items()}
    variants = tuple(_matched(variant, budget, cost) for variant in sweep.variants)
    return dataclasses.replace(sweep, match=how, variants=variants)


def scaled(sweep: Sweep, scale: float) -> Sweep:
    """The sweep with so many times the steps and warm-up steps in every stage, at least one step."""

    def change(config: RunConfig) -> RunConfig:
        warmup = round(config.optimizer.warmup_steps * scale)
        train = dataclasses.replace(config.train, steps=max(1, round(config.train.steps * scale)))
        optimizer = dataclasses.replace(config.optimizer, warmup_steps=warmup)
        return dataclasses.replace(config, train=train, optimizer=optimizer)

    if scale == 1.0:
        return sweep
    variants = (
        dataclasses.replace(v, stages={stage: change(config) for stage, config in v.stages.items()})
        for v in sweep.variants
    )
    return dataclasses.replace(sweep, variants=tuple(variants), scale=scale)


def flops_of_step(config: RunConfig) -> float:
    """Operations of one step, all modules."""
    return sum(step_flops(config).values())


def planned_flops(variant: Variant) -> float:
    """Operations of all stages of one seed."""
    return sum(config.train.steps * flops_of_step(config) for config in variant.stages.values())


def _matched(variant: Variant, budget: dict[str, float], cost: Callable[[RunConfig], float]) -> Variant:
    stages = {}
    for stage, config in variant.stages.items():
        steps = round(budget[stage] / cost(config))
        if steps < 1:
            raise SweepError(
                f"variant {variant.name}, stage {stage}: one step costs more than all of the base's; "
                "give the base more steps or this variant smaller batches"
            )
        # Warm-up keeps its share of the run, as does all else that a schedule counts in steps.
        optimizer = config.optimizer
        if steps != config.train.steps:
            warmup = round(optimizer.warmup_steps * steps / config.train.steps)
            optimizer = dataclasses.replace(optimizer, warmup_steps=warmup)
        train = dataclasses.replace(config.train, steps=steps)
        stages[stage] = dataclasses.replace(config, train=train, optimizer=optimizer)
    return dataclasses.replace(variant, stages=stages)
