"""The paper's own numbers, to stand beside ours: Tables 1, 7 and 8 of arXiv 2409.11402v2.

Percent; OCRBench of 1,000. VQAv2 is test-dev and DocVQA test there, MATH all 5,000.
"""

from __future__ import annotations

import math

VISION = (
    "mmmu", "mathvista", "vqav2", "ai2d", "ai2d_no_mask", "textvqa", "chartqa", "docvqa", "realworldqa", "ocrbench"
)  # fmt: skip
TEXT = ("mmlu", "gsm8k", "math", "humaneval")

_VISION_ROWS = {
    "NVLM-D-72B": (59.7, 65.2, 85.4, 85.2, 94.2, 82.1, 86.0, 92.6, 69.7, 853),
    "NVLM-X-72B": (57.4, 64.6, 85.2, 84.2, 93.6, 80.2, 82.9, 82.9, 66.1, 828),
    "NVLM-H-72B": (60.2, 66.6, 85.2, 83.8, 93.3, 80.3, 83.3, 83.1, 66.0, 831),
    "NVLM-D-34B": (52.1, 59.9, 84.3, 82.6, 93.0, 80.0, 84.0, 89.1, 67.3, 819),
    "NVLM-X-34B": (54.0, 59.2, 84.5, 79.6, 91.2, 78.2, 79.4, 79.2, 64.8, 802),
    "NVLM-H-34B": (53.0, 59.4, 84.8, 81.5, 93.0, 79.0, 82.0, 80.5, 66.3, 821),
}
_TEXT_ROWS = {
    "Qwen2-72B-Instruct": (82.3, 91.1, 59.7, 86.0),
    "NVLM-D-72B": (82.0, 92.9, 73.1, 88.4),
    "NVLM-X-72B": (81.4, 91.8, 70.6, 85.2),
    "NVLM-H-72B": (80.4, 91.5, 71.4, 86.6),
}

# Model -> column -> number.
NUMBERS: dict[str, dict[str, float]] = {
    model: dict(zip(VISION, _VISION_ROWS.get(model, ()), strict=False))
    | dict(zip(TEXT, _TEXT_ROWS.get(model, ()), strict=False))
    for model in {**_VISION_ROWS, **_TEXT_ROWS}
}


def models_of(arch: str) -> tuple[str, ...]:
    """The paper's models of an architecture ("d", "x" or "h"), the larger first."""
    return tuple(model for model in NUMBERS if model.startswith(f"NVLM-{arch.upper()}-"))


def text_average(numbers: dict[str, float]) -> float | None:
    """The paper's "Avg. 4": the mean of the four text benchmarks; None unless all are there.

    >>> round(text_average(NUMBERS["NVLM-D-72B"]) - text_average(NUMBERS["Qwen2-72B-Instruct"]), 1)
    4.3
    """
    return math.fsum(numbers[name] for name in TEXT) / len(TEXT) if all(name in numbers for name in TEXT) else None
