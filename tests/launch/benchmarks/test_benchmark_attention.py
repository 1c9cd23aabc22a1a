"""The benchmark of attention: what is measured is the same attention, and one that fails stops no other."""

import jax
import numpy as np

from launch.benchmarks import attention as benchmark_attention
from launch.benchmarks.attention import CASES, Case, make_mask, measure, report, shorter, visible_pairs

SMALL = Case("small", 1, 512, 512, 2, 1, 8, "causal")


def test_every_implementation_is_measured_and_a_failing_one_says_why(monkeypatch):
    ways = benchmark_attention.implementations

    def broken(q, k, v):
        raise RuntimeError("no such | kernel")

    monkeypatch.setattr(benchmark_attention, "implementations", lambda *given: {"broken": broken} | ways(*given))
    monkeypatch.setattr(benchmark_attention, "REPEATS", 1)
    failed, dense, blockwise = measure((SMALL._replace(queries=2048, keys=2048),))
    assert failed["error"] == "RuntimeError: no such | kernel"
    for found in (dense, blockwise):
        assert found["forward"]["milliseconds"] > 0 and found["forward and backward"]["tflops"] > 0
        assert all(0 < gap < 2e-2 for gap in found["difference"].values())
    lines = report([failed, dense, blockwise]).splitlines()
    assert len({line.count("|") for line in lines[1:]}) == 1 and "no such / kernel" in lines[3]


def test_pairs_of_the_cases():
    for case in CASES:
        case = shorter(case, 16)
        mask = make_mask(case)
        if mask is not None:
            seen = np.asarray(mask.block(0, case.keys))
            assert visible_pairs(case, mask) == seen.sum()
            assert 0 < seen.mean() < 0.51 and seen.any(-1).mean() > 0.9
    tiles = make_mask(CASES[1]).tiles
    tags = np.asarray(tiles.tag_tile)[0]
    assert (np.sort(tags[tags > 0]) == 1 + np.arange(36)).all()
    assert jax.default_backend() == "cpu"
