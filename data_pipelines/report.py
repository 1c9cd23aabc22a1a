"""What came of preparing a dataset: counts, sizes, tiles, and every rejected or noted sample by reason.

Each worker keeps a `Tally` of its shard; their sum is the report.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

from data_pipelines.faults import Fault
from data_pipelines.index import MAX_TILES, TILE_SIZE
from nvlm_jax.inputs.batch import Sample
from nvlm_jax.inputs.tiling import choose_grid, tile_count

REPORT = "report.json"
FAULTS = "faults.jsonl"
EXAMPLES = 20
SIDES = (224, 448, 896, 1792, 3584)  # pixels; steps of the histogram of longer sides
AS_ASKED = ("not_trained",)  # left out because the data says so
UNREAD = 50  # keys in a report
CONTAMINATED = ("contaminated_text", "contaminated_image")


@dataclasses.dataclass
class Tally:
    """Counts of one shard, or of several together."""

    samples: int = 0
    text_only: int = 0
    images: int = 0
    bytes: int = 0  # of the records
    prompt_chars: int = 0
    answer_chars: int = 0
    tiles: Counter[int] = dataclasses.field(default_factory=Counter)  # tiles of an image, thumbnail included -> images
    sides: Counter[int] = dataclasses.field(default_factory=Counter)  # at most so many pixels, or 0 for more -> images
    rejected: list[Fault] = dataclasses.field(default_factory=list)
    noted: list[Fault] = dataclasses.field(default_factory=list)  # odd, and kept
    unread: Counter[str] = dataclasses.field(default_factory=Counter)  # key that no field reads -> samples that have it

    def add(self, sample: Sample, sizes: Iterable[tuple[int, int]], record_bytes: int) -> None:
        """Count a sample that is kept.

        Args:
            sample: the sample.
            sizes: width and height of each image, upright.
            record_bytes: of its record.
        """
        self.samples += 1
        self.text_only += not sample.images
        self.images += len(sample.images)
        self.bytes += record_bytes
        for message in sample.messages:
            if message.role == "assistant":
                self.answer_chars += len(message.content)
            else:
                self.prompt_chars += len(message.content)
        for width, height in sizes:
            self.tiles[tile_count(choose_grid(width, height, MAX_TILES, TILE_SIZE))] += 1
            self.sides[next((side for side in SIDES if max(width, height) <= side), 0)] += 1

    def merge(self, other: Tally) -> None:
        """Add another's counts to these."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        held = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return held | {name: [list(fault) for fault in held[name]] for name in ("rejected", "noted")}

    @classmethod
    def from_json(cls, held: dict[str, Any]) -> Tally:
        """The inverse of `to_json`."""
        counters = {name: Counter({int(k): v for k, v in held[name].items()}) for name in ("tiles", "sides")}
        faults = {name: [Fault(*fault) for fault in held[name]] for name in ("rejected", "noted")}
        return cls(**{**held, **counters, **faults, "unread": Counter(held["unread"])})

    def bad_share(self) -> float:
        """Rejected samples as a share of all; what is rejected for being in a benchmark is no fault of the data."""
        bad = sum(fault.reason not in (*CONTAMINATED, *AS_ASKED) for fault in self.rejected)
        return bad / max(self.samples + bad, 1)


def make_report(name: str, tally: Tally) -> dict[str, Any]:
    """The report as JSON values: counts, and of each reason how many and EXAMPLES of them."""
    mean = {"samples": max(tally.samples, 1), "images": max(tally.images, 1)}
    return {
        "dataset": name,
        "samples": tally.samples,
        "text_only": tally.text_only,
        "images": tally.images,
        "bytes": tally.bytes,
        "prompt_chars_per_sample": round(tally.prompt_chars / mean["samples"], 1),
        "answer_chars_per_sample": round(tally.answer_chars / mean["samples"], 1),
        "tiles_per_image": {str(n): tally.tiles[n] for n in sorted(tally.tiles)},
        "longer_side_up_to": {str(side) if side else "more": tally.sides[side] for side in (*SIDES, 0)},
        "rejected": _by_reason(tally.rejected),
        "noted": _by_reason(tally.noted),
        "unread_keys": dict(sorted(tally.unread.items(), key=lambda item: (-item[1], item[0]))[:UNREAD]),
    }


def write(folder: pathlib.Path, report: dict[str, Any], tally: Tally) -> None:
    """Write the report, and all of the rejected and noted samples, one a line."""
    (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n")
    with open(folder / FAULTS, "w") as lines:
        for kept, faults in ((False, tally.rejected), (True, tally.noted)):
            for fault in faults:
                lines.write(json.dumps(fault._asdict() | {"kept": kept}) + "\n")


def summary(report: dict[str, Any]) -> str:
    """The report as text to print."""
    tiles = ", ".join(f"{n}: {count:,}" for n, count in report["tiles_per_image"].items())
    lines = [
        f"{report['dataset']}: {report['samples']:,} samples ({report['text_only']:,} of text only), "
        f"{report['images']:,} images, {report['bytes'] / 2**20:,.1f} MiB",
        f"  images by tiles, with thumbnail: {tiles or 'none'}",
    ]
    for title in ("rejected", "noted"):
        total = sum(held["count"] for held in report[title].values())
        lines.append(f"  {title}: {total:,}")
        for reason, held in report[title].items():
            shown = ", ".join(example["id"] for example in held["examples"][:3])
            lines.append(f"    {reason}: {held['count']:,} ({shown}{', ...' if held['count'] > 3 else ''})")
            lines.append(f"      the first: {held['examples'][0]['message']}")
    if unread := report.get("unread_keys"):
        lines.append("  keys of the records that nothing reads: " + ", ".join(f"{k}: {n:,}" for k, n in unread.items()))
    for kind, held in report.get("repeated", {}).items():
        lines.append(f"  {kind}: {held['count']:,} samples repeat one of {held['groups']:,} others")
    return plain("\n".join(lines))


def plain(text: str) -> str:
    """The text, with what is no valid Unicode of it (a file name, a broken id) written as an escape."""
    return text.encode(errors="backslashreplace").decode()


def _by_reason(faults: list[Fault]) -> dict[str, Any]:
    counts = Counter(fault.reason for fault in faults)
    examples: dict[str, list[dict[str, str]]] = {reason: [] for reason in counts}
    for fault in faults:
        if len(examples[fault.reason]) < EXAMPLES:
            examples[fault.reason].append({"id": fault.id, "message": fault.message})
    ordered = sorted(counts, key=lambda reason: (-counts[reason], reason))
    return {reason: {"count": counts[reason], "examples": examples[reason]} for reason in ordered}
