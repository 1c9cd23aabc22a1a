"""Samples that could not be read or built: left out of their row, counted by reason, and never too many.

The counts are a function of the steps given to `add`, not of how far ahead the data has been read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from nvlm_jax.inputs.errors import words

# Below this many samples a single bad one could be a share above any limit.
JUDGED_FROM = 200
LISTED = 20  # ids of each reason in a message


class Fault(NamedTuple):
    """One bad sample: its id as `dataset/id`, a reason of a word or two, and what was found."""

    id: str
    reason: str
    message: str


class TooManyBadSamples(RuntimeError):
    """The share of bad samples exceeds `data.max_bad_share`. The message lists them by reason."""


def fault_of(sample_id: str, error: Exception) -> Fault:
    """The fault that `error`, raised while a sample was read or built, stands for.

    Errors made for bad data say their own reason; of any other the type is the reason, so that a fault of the code
    shows as such in the list, and stops the run by its share.
    """
    reason = getattr(error, "reason", None) or f"unexpected {type(error).__name__}"
    return Fault(sample_id, reason, words(error))


class BadSamples:
    """Counts of one process over the steps so far."""

    def __init__(self, max_share: float, state: dict[str, Any] | None = None):
        """
        Args:
            max_share: of the samples read, `data.max_bad_share`.
            state: what `state()` returned, to go on counting in a resumed run.
        """
        self.max_share = max_share
        self.read = int(state["read"]) if state else 0
        self.faults = [Fault(*fault) for fault in state["faults"]] if state else []

    def add(self, read: int, faults: Iterable[Fault]) -> None:
        """Count one step: samples read, the bad ones among them."""
        self.read += read
        self.faults += faults

    def check(self, end: bool = False) -> None:
        """Raise TooManyBadSamples if the share is too high, judged from 200 samples on or at the end of the data."""
        if (self.read >= JUDGED_FROM or end) and len(self.faults) > self.max_share * self.read:
            raise TooManyBadSamples(
                f"{len(self.faults)} of {self.read} samples are bad, more than data.max_bad_share={self.max_share}; "
                f"repair the data or raise the share:\n{self.summary()}"
            )

    def by_reason(self) -> dict[str, list[Fault]]:
        """The faults of each reason, the most frequent reason first."""
        reasons: dict[str, list[Fault]] = {}
        for fault in self.faults:
            reasons.setdefault(fault.reason, []).append(fault)
        return dict(sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])))

    def summary(self) -> str:
        """A line for each reason: how often, which samples, and the first one's message."""
        lines = []
        for reason, faults in self.by_reason().items():
            ids = list(dict.fromkeys(fault.id for fault in faults))
            more = f" and {len(ids) - LISTED} more" if len(ids) > LISTED else ""
            lines.append(f"  {reason}: {len(faults)} ({', '.join(ids[:LISTED])}{more}); first: {faults[0].message}")
        return "\n".join(lines)

    def state(self) -> dict[str, Any]:
        """JSON values from which counting goes on."""
        return {"read": self.read, "faults": [list(fault) for fault in self.faults]}
