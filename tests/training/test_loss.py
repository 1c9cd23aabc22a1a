"""The loss of the wanted places alone: against a softmax over all of them, and how much of it is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvlm_jax.training import loss
from nvlm_jax.training.loss import token_nll

B, S, D, V = 3, 24, 8, 11


def arrays(seed: int = 0):
    hidden, table, targets = jax.random.split(jax.random.key(seed), 3)
    return (
        jax.random.normal(hidden, (B, S, D)),
        jax.random.normal(table, (D, V)),
        jax.random.randint(targets, (B, S), 0, V),
    )


def by_softmax(hidden, table, targets, wanted):
    scores = jax.nn.log_softmax(hidden @ table)
    return jnp.where(wanted, -jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0], 0.0)


PATTERNS = {
    "all": np.ones((B, S), bool),
    "none": np.zeros((B, S), bool),
    "some": np.random.default_rng(0).random((B, S)) < 0.3,
    "a row of none": np.arange(S) % 2 == np.array([[0], [1], [2]]),
    "the last place": np.broadcast_to(np.arange(S) == S - 1, (B, S)),
}


@pytest.mark.parametrize("devices", ["one", "several"])
@pytest.mark.parametrize("chunk", [4, 7, 100])
@pytest.mark.parametrize("wanted", PATTERNS.values(), ids=PATTERNS)
def test_values_and_gradients_are_those_of_a_softmax_over_everything(wanted, chunk, devices, monkeypatch):
    monkeypatch.setattr(loss, "split", lambda: devices == "several")
    hidden, table, targets = arrays()
    weights = jax.random.uniform(jax.random.key(5), (B, S))

    def ours(hidden, table):
        return token_nll(lambda part: part @ table, hidden, targets, jnp.asarray(wanted), chunk)

    def total(of):
        return jax.jit(jax.grad(lambda *arguments: (of(*arguments) * weights).sum(), argnums=(0, 1)))

    def plain(hidden, table):
        return by_softmax(hidden, table, targets, wanted)

    np.testing.assert_allclose(jax.jit(ours)(hidden, table), plain(hidden, table), rtol=1e-5, atol=1e-6)
    for found, want in zip(total(ours)(hidden, table), total(plain)(hidden, table), strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("most", "chunks"), [(0, 0), (1, 1), (4, 1), (5, 2), (24, 6)])
def test_chunks_behind_the_last_wanted_place_are_left_out(most, chunks):
    hidden, table, targets = arrays()
    wanted = jnp.zeros((B, S), bool).at[1, S - most :].set(most > 0)
    computed = []

    def logits(part):
        jax.debug.callback(lambda: computed.append(part.shape))
        return part @ table

    jax.block_until_ready(jax.jit(lambda: token_nll(logits, hidden, targets, wanted, 4))())
    jax.effects_barrier()
    assert computed == [(B, 4, D)] * chunks
