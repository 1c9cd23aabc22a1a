"""The closed form against XLA's own count of the compiled forward pass."""

import dataclasses

import jax
import pytest
from flax import nnx

from configs.nvlm import get_config
from nvlm_jax.config import RunConfig, from_mapping
from nvlm_jax.models.build import abstract_model
from nvlm_jax.models.flops import forward_flops, step_flops
from tests.tiny import make_batch, make_model_config, make_run_config

ROWS, TOKENS, TILES = 2, 32, 4


@pytest.mark.parametrize("arch", ["x", "h"])
def test_forward_as_xla_counts_it(arch):
    config = make_model_config(arch, unroll=2)  # XLA counts the body of a loop once
    # Wide enough that matrix products are nearly all; what is left out is then within the tolerance.
    wide = {"width": 256, "heads": 8, "head_dim": 32, "ff": 512}
    vision = dataclasses.replace(config.vision, **wide)
    config = dataclasses.replace(config, vision=vision, decoder=dataclasses.replace(config.decoder, kv_heads=4, **wide))
    graphdef, state = nnx.split(abstract_model(config))
    batch = make_batch(config, ROWS, 0, TOKENS, TILES)

    def forward(state, batch):
        model = nnx.merge(graphdef, state)
        return model.logits(model.hidden(batch))

    analysis = jax.jit(forward).lower(state, batch).compile().cost_analysis()
    keys = TILES * (config.tokens_per_tile + (arch == "h"))
    # A short row's causal attention is computed whole, in one block.
    counts = forward_flops(config, TOKENS, TILES, TOKENS**2, TOKENS * keys)
    counted = ROWS * sum(counts.values())
    assert counted == pytest.approx(analysis["flops"], rel=0.04)
    assert counts["cross_attention"] > 0


def test_frozen_parts_cost_less():
    frozen = step_flops(make_run_config("x", trainable=("projector", "cross_attention")))
    whole = step_flops(make_run_config("x"))
    assert whole["decoder"] == pytest.approx(1.5 * frozen["decoder"])
    assert whole["vision"] == frozen["vision"] and whole["projector"] == frozen["projector"]


def test_the_papers_order_of_cost_at_34b():
    """A sample of 6 + 1 tiles costs D most and X least (Table 3)."""
    cost = {}
    for arch, tokens in (("d", 2816), ("x", 1024), ("h", 1280)):
        config = from_mapping(RunConfig, get_config(f"arch={arch},size=34b,stage=sft").to_dict())
        data = dataclasses.replace(config.data, tokens_per_row=tokens, tiles_per_row=7)
        train = dataclasses.replace(config.train, batch_rows=1)
        cost[arch] = sum(step_flops(dataclasses.replace(config, data=data, train=train)).values())
    assert cost["x"] < cost["h"] < cost["d"]
