import collections
import subprocess
import sys

import pytest

from nvlm_jax.evaluation import metrics
from tests.evaluation.metrics import scoring_vectors

COUNTS = {
    "vqa_accuracy": 28 + 7, "textvqa_accuracy": 32 + 7, "anls": 37 + 13, "relaxed_accuracy": 26 + 25,
    "ocrbench": 30 + 5, "mmmu_mc": 27 + 11, "mmmu_open": 30, "mc_letter": 29, "mathvista": 36, "math_equiv": 30,
    "math_extract": 32 + 2, "gsm8k": 25, "pass_at_k": 23, "realworldqa": 25 + 18,
}  # fmt: skip


def test_every_recorded_vector_is_a_parameter():
    assert {metric: len(scoring_vectors.primary(metric)) for metric in COUNTS} == COUNTS


def test_the_public_names_are_unique_and_documented():
    assert max(collections.Counter(metrics.__all__).values()) == 1
    assert [name for name in metrics.__all__ if not getattr(metrics, name).__doc__] == []


def test_imports_without_jax():
    code = "import sys; sys.modules['jax'] = None; import nvlm_jax.evaluation.metrics"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_docstring_example():
    references = ["2"] * 3 + ["3"] * 7
    assert metrics.vqa_accuracy("Two.", references) == pytest.approx(0.9)
    assert metrics.vqa_accuracy("Two.", references, rule="megatron") == 1.0
