import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmarks import tile_tags
from tests.commands import command


def test_an_answer_stands_in_the_named_tile_and_row():
    tags = jnp.arange(12, dtype=jnp.int32).reshape(6, 2)
    symbols, questions, answers = tile_tags.draw(jax.random.key(0), tags)
    tile, row = np.asarray(questions[:, 2]) // 2, np.asarray(questions[:, 1]) - tile_tags.ROW
    assert len(set(tile)) == 6 and len(set(row)) == 4
    np.testing.assert_array_equal(answers, tile_tags.SYMBOL + np.asarray(symbols)[np.arange(len(tile)), tile, row])


def test_every_way_is_trained_and_told(tmp_path):
    shares = tile_tags.train("positions", 8, 2)
    assert np.shape(shares) == (2, 8) and np.isfinite(shares).all()
    text = tile_tags.report({"positions": shares, "table": shares})
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["positions", "table"]


def test_a_way_that_there_is_none_of(tmp_path):
    done = command("launch.benchmarks.tile_tags", "--ways=nearby", f"--directory={tmp_path}")
    assert done.returncode and "--ways: nearby; expected some of joined, added" in done.stderr
