"""Scores of the paper's benchmarks, one item at a time: pure functions of strings, without JAX.

Each follows the benchmark authors' or the most used evaluator's rule to the letter. Where evaluators differ, `rule`
names another one to reproduce; "megatron" is the paper's own.

    >>> vqa_accuracy("Two.", ["2"] * 3 + ["3"] * 7)
    0.9
    >>> vqa_accuracy("Two.", ["2"] * 3 + ["3"] * 7, rule="megatron")
    1.0
"""

from nvlm_jax.evaluation.metrics.anls import anls, edit_distance
from nvlm_jax.evaluation.metrics.chart import relaxed_accuracy
from nvlm_jax.evaluation.metrics.choice import mmmu_choice, mmmu_open, multiple_choice, realworldqa
from nvlm_jax.evaluation.metrics.code import pass_at_k
from nvlm_jax.evaluation.metrics.math import gsm8k, gsm8k_extract, math_equivalent, math_extract
from nvlm_jax.evaluation.metrics.mathvista import mathvista
from nvlm_jax.evaluation.metrics.ocr import ocrbench
from nvlm_jax.evaluation.metrics.vqa import normalize_textvqa, normalize_vqa, textvqa_accuracy, vqa_accuracy

__all__ = [
    "anls",
    "edit_distance",
    "gsm8k",
    "gsm8k_extract",
    "math_equivalent",
    "math_extract",
    "mathvista",
    "mmmu_choice",
    "mmmu_open",
    "multiple_choice",
    "normalize_textvqa",
    "normalize_vqa",
    "ocrbench",
    "pass_at_k",
    "realworldqa",
    "relaxed_accuracy",
    "textvqa_accuracy",
    "vqa_accuracy",
]
