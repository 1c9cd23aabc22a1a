"""HumanEval: pass@k from n samples of which c pass. Running the programs is not done here."""

from __future__ import annotations

import math


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that among k of the n samples, drawn without replacement, at least one passes.

    1 - C(n - c, k) / C(n, k), the unbiased estimate of Chen et al. 2021 (human-eval `evaluation.py`; evalplus).

    Args:
      n: samples drawn.
      c: samples that passed.
      k: samples allowed.

    Raises:
      ValueError: unless 0 <= c <= n and 0 <= k <= n. (human-eval answers 1.0 for k > n, even where none passed.)
    """
    if not (0 <= c <= n and 0 <= k <= n):
        raise ValueError(f"pass_at_k: got n={n}, c={c}, k={k}; needs 0 <= c <= n and 0 <= k <= n")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)
