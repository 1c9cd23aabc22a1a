"""One way to write a number, whatever page or table it stands in."""

import pytest

from nvlm_jax import number_format


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 FLOP"),
        (999, "999 FLOP"),
        (1000, "1 kFLOP"),
        (1.34e11, "134 GFLOP"),
        (1.4e11, "140 GFLOP"),
        (999.4e9, "999 GFLOP"),
        (999.9e9, "1 TFLOP"),  # and not 1e+03 GFLOP
        (1.21e17, "121 PFLOP"),
        (3.456e24, "3.46 YFLOP"),
        (-2.5e9, "-2.5 GFLOP"),
        (None, "–"),
    ],
)
def test_flops(value, text):
    assert number_format.flops(value) == text


def test_counts_shares_and_digits():
    assert number_format.si(1_878_784) == "1.88 M" and number_format.si(12) == "12"
    assert number_format.thousands(1234567) == "1,234,567" and number_format.thousands(None) == "–"
    assert number_format.percent(0.8526) == "85.3" and number_format.percent(0.02, sign=True) == "+2.0"
    assert number_format.digits(0.123456) == "0.1235" and number_format.digits(None) == "–"
