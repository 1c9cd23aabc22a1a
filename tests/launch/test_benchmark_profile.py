"""Device time by module: names reach the operations of a differentiated scan, and times add up."""

import jax
import jax.numpy as jnp
import pytest

from launch.benchmark_profile import module_of, profile, report


@pytest.mark.parametrize(
    ("origin", "module"),
    [
        ("jit(on_mesh)/jvp(decoder)/while/body/closed_call/attention/dot_general", "attention"),
        ("jit(on_mesh)/transpose(jvp(decoder))/while/body/mlp/dot_general", "mlp, backward"),
        ("jit(on_mesh)/transpose(jvp(decoder))/while/body/rematted_computation/mlp/mul", "mlp, again"),
        ("jit(on_mesh)/jvp(decoder)/while/body/cross_attention/mlp/dot_general", "cross_attention"),
        ("jit(on_mesh)/vision/while/body/dot_general", "vision"),
        ("jit(on_mesh)/optimizer/mul", "optimizer"),
        ("jit(on_mesh)/reduce_sum", "other"),
        ("", "other"),
    ],
)
def test_an_operation_belongs_to_its_innermost_scope(origin, module):
    assert module_of(origin) == module


def test_time_is_where_the_work_is():
    def loss(weights, x):
        def layer(x, w):
            with jax.named_scope("mlp"):
                return jnp.tanh(x @ w), None

        with jax.named_scope("decoder"):
            x, _ = jax.lax.scan(layer, x, weights)
        with jax.named_scope("loss"):
            return x.sum()

    arguments = jnp.full((3, 512, 512), 0.01), jnp.ones((512, 512))
    compiled = jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()
    found = profile(lambda: compiled(*arguments), compiled, 2)
    seconds = {module: sum(kinds.values()) for module, kinds in found.items()}
    assert all(s >= 0 for s in seconds.values())
    products = seconds["mlp"] + seconds["mlp, backward"]
    assert products > 0.5 * sum(seconds.values()), seconds
    assert "| mlp, backward |" in report(found)
