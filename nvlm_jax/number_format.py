"""How numbers are written, on pages and in terminals alike."""

from __future__ import annotations

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")  # each a thousand of the one before
MISSING = "–"


def si(value: float | None, unit: str = "") -> str:
    """Three significant digits with an SI prefix; a dash for None.

    >>> si(1.34e11, "FLOP"), si(1_878_784), si(12)
    ('134 GFLOP', '1.88 M', '12')
    """
    if value is None:
        return MISSING
    scale, prefix = prefix_of(value)
    return f"{value / scale:.3g} {prefix}{unit}".rstrip()


def flops(value: float | None) -> str:
    """Floating-point operations: 1.34e11 -> 134 GFLOP."""
    return si(value, "FLOP")


def prefix_of(value: float) -> tuple[float, str]:
    """What a value is divided by and the prefix that then stands before its unit; 0 to 999 have none.

    >>> prefix_of(2.5e12), prefix_of(999_999)
    ((1000000000000.0, 'T'), (1000000.0, 'M'))
    """
    rounded = abs(float(f"{value:.3g}"))  # 999,999 is written 1 M, not 1e+03 k
    power = 0
    while power < len(PREFIXES) - 1 and rounded >= 1000.0 ** (power + 1):
        power += 1
    return 1000.0**power, PREFIXES[power]


def percent(share: float | None, sign: bool = False) -> str:
    """0.853 -> 85.3; with `sign`, +85.3; a dash for None."""
    return MISSING if share is None else f"{100 * share:{'+' if sign else ''}.1f}"


def thousands(count: float | None) -> str:
    """1234567 -> 1,234,567; a dash for None."""
    return MISSING if count is None else f"{count:,}"


def digits(value: float | None) -> str:
    """Four significant digits: 0.123456 -> 0.1235; a dash for None."""
    return MISSING if value is None else f"{value:.4g}"
