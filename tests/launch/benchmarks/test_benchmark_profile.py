"""Device time by module: names reach the operations of a differentiated scan, and times add up."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from launch.benchmarks.step_profile import module_of, profile, report


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


def test_the_time_of_products_belongs_to_the_scope_that_they_are_in():
    # In a process of its own: libtpu, once another test has loaded it, takes the trace of the CPU's operations over.
    code = "from tests.launch.benchmarks import test_benchmark_profile as own; own.check_products()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def check_products():
    def loss(weights, x):
        def layer(x, w):
            with jax.named_scope("mlp"):
                return jnp.tanh(x @ w), None

        with jax.named_scope("decoder"):
            x, _ = jax.lax.scan(layer, x, weights)
        with jax.named_scope("loss"):
            return x.sum()

    arguments = jnp.full((3, 256, 256), 0.01), jnp.ones((256, 256))
    compiled = jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()
    found = profile(lambda: compiled(*arguments), compiled, 2)
    # XLA gives some products to YNNPACK, and which of them depends on its version; small sums go there too.
    named = ("dot", "ynn_fusion")
    products = {m: sum(s for kind, s in kinds.items() if kind.startswith(named)) for m, kinds in found.items()}
    assert sorted(products, key=products.get)[-2:] in (["mlp", "mlp, backward"], ["mlp, backward", "mlp"])
    assert min(products["mlp"], products["mlp, backward"]) > 0
    assert found["decoder"] and all(s >= 0 for kinds in found.values() for s in kinds.values())
    assert "| mlp, backward |" in report(found)
