"""The closed form against the matrix products of the traced step itself, each loop taken as often as it runs."""

import dataclasses
import math

import jax
import pytest

from configs.nvlm import PRETRAIN_PARTS, SFT_PARTS, model_config
from nvlm_jax.models.flops import executed_flops, padded_work, sample_work, scaled, useful_flops
from nvlm_jax.training.checkpoints import abstract_state
from nvlm_jax.training.loss import chunk_size
from nvlm_jax.training.step import make_train_step
from tests.tiny import make_batch, make_run_config


def products(jaxpr, chunks: int) -> float:
    """FLOPs of all matrix products of a jaxpr, at any depth, the loss's loops run over so many chunks."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)
        times = {"scan": equation.params.get("length"), "while": chunks}.get(equation.primitive.name, 1)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                total += times * products(inner, chunks)
    return total


@pytest.mark.parametrize(
    ("arch", "parts", "remat"),
    [(arch, SFT_PARTS[arch], "full") for arch in "dxh"]
    + [
        ("d", ("vision", *SFT_PARTS["d"]), "none"),
        ("x", PRETRAIN_PARTS["x"], "none"),
        ("h", PRETRAIN_PARTS["h"], "full"),
    ],
)
def test_executed_flops_are_those_of_the_step(arch, parts, remat):
    config = make_run_config(arch, trainable=parts)
    model = dataclasses.replace(config.model, remat=remat)
    config = dataclasses.replace(config, model=model)
    split, state = abstract_state(config)
    batch = make_batch(model, rows=8, seed=0)
    traced = jax.jit(make_train_step(split.graphdef, config, 2)).trace(state, split.frozen, batch)
    work = padded_work(model, *batch.tokens.shape, batch.tiles.shape[1])
    places = batch.tokens.shape[1]
    chunks = places // chunk_size(places, model.loss_chunk)
    assert sum(executed_flops(model, parts, work).values()) == products(traced.jaxpr.jaxpr, chunks)


def test_useful_flops_of_the_paper_models():
    """By hand for D-34B, 6 + 1 tiles and 1,024 places of text: 6 FLOPs a weight and token where it trains."""
    model = model_config("d", "34b")
    work = sample_work(model, text=1024, tiles=7, tag_tokens=0)
    assert work.tokens == 2816
    found = useful_flops(model, SFT_PARTS["d"], work)
    weights = 60 * (7168 * (2 * 7168 + 2 * 1024) + 3 * 7168 * 20480)
    attention = 60 * 4 * 7168 * 2816 * 2817 / 2
    assert found["decoder"] == 3 * (2 * weights * 2816 + attention)
    assert found["head"] == 6 * 7168 * 64000 * 2816
    layer = 2 * 1025 * (4 * 3200**2 + 2 * 3200 * 12800) + 4 * 1025**2 * 3200
    assert found["vision"] == 7 * (2 * 1024 * 588 * 3200 + 45 * layer)  # frozen: forward alone
    assert found["projector"] == 7 * 256 * 2 * 3 * (12800 * 20480 + 20480 * 7168)
    assert found["cross_attention"] == 0


def test_useful_flops_grow_with_work_and_are_never_more_than_executed():
    for arch in "dxh":
        model = model_config(arch, "72b")
        one, padded = sample_work(model, 1024, 7, 5), padded_work(model, 1, 2900, 7)
        useful = useful_flops(model, SFT_PARTS[arch], one)
        assert useful_flops(model, SFT_PARTS[arch], scaled(one, 2)) == {k: 2 * v for k, v in useful.items()}
        executed = executed_flops(model, SFT_PARTS[arch], padded)
        assert all(useful[module] <= executed[module] for module in useful)
