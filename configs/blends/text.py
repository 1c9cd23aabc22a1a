"""The text-only SFT blend, section 5.3 of the paper; weights follow size."""

from __future__ import annotations

from configs.blends.rows import shares

TABLE = {
    "general": ("sharegpt", "slimorca", "evol-instruct", "gpteacher", "alpaca-gpt4", "ultrainteract"),
    "math": ("orcamath", "mathinstruct", "metamath"),
    "code": ("magicoder", "wizardcoder", "glaive-code-assistant"),
}
BLEND = shares(TABLE)
