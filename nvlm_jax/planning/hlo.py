"""Which collectives a compiled step runs, read from the text of its HLO.

A computation inside a loop runs as often as the loop does; XLA's own cost analysis takes it once, so loops are followed
here. Each collective is put down to the mesh axes that its groups of devices span.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "f16": 16, "c64": 64, "c128": 128}
SHAPE = re.compile(r"\b(pred|bf16|f8\w*|[fsuc]\d+)\[([\d,]*)\]")
HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
CALLED = re.compile(r"(?:calls|body|condition|to_apply)=%?([\w.-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
MESH_GROUPS = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((?:\[([\d,]+)\](?:T\(([\d,]+)\))?|([\d,]+))\))? \{([^}]*)\}"
)
COUNTER = re.compile(r"[su]32\[\]")
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")


class Collective(NamedTuple):
    """One instruction of the compiled program."""

    kind: str
    axes: str  # mesh axes that its groups span, joined by "+"
    bytes: float  # that each device sends, one time, by a ring
    times: float  # that it runs in a step


class Instruction(NamedTuple):
    name: str
    shape: str
    kind: str
    rest: str


def collectives(text: str, axis_names: tuple[str, ...], axis_sizes: tuple[int, ...]) -> list[Collective]:
    """Every collective of the optimised HLO `text` of a program on a mesh of these axes."""
    computations, entry = _computations(text)
    found = []
    for name, times in _runs(computations, entry).items():
        # A reduce-scatter is, on TPU, a fusion around an all-reduce.
        scattered = name.startswith("all-reduce-scatter")
        for instruction in computations[name]:
            kind = instruction.kind.removesuffix("-start")
            if kind in KINDS:
                groups = _groups(instruction.rest, kind, math.prod(axis_sizes))
                axes = _span(groups, axis_names, axis_sizes)
                if axes:
                    kind = "reduce-scatter" if scattered and kind == "all-reduce" else kind
                    sent = _sent(instruction, kind, scattered, len(groups[0]))
                    found.append(Collective(kind, axes, sent, times))
    return found


def bytes_by_axis(found: list[Collective]) -> dict[str, float]:
    """Bytes that each device sends in a step, by the axes of the groups."""
    totals: dict[str, float] = defaultdict(float)
    for collective in found:
        totals[collective.axes] += collective.bytes * collective.times
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


def size_of(shape: str) -> list[int]:
    """Bytes of each array in the text of an HLO shape."""
    sizes = []
    for kind, dimensions in SHAPE.findall(shape):
        bits = BITS.get(kind) or int(re.sub(r"^[a-z]+(\d+).*", r"\1", kind))
        sizes.append(math.prod(int(n) for n in dimensions.split(",") if n) * bits // 8)
    return sizes


def _computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := HEADER.match(line):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and (found := INSTRUCTION.match(line)):
            current.append(Instruction(*found.groups()))
    return computations, entry


def _runs(computations: dict[str, list[Instruction]], entry: str) -> dict[str, float]:
    """How often each computation runs in one run of the entry."""
    runs: dict[str, float] = defaultdict(float)

    def visit(name: str, times: float) -> None:
        runs[name] += times
        for instruction in computations[name]:
            for called, count in _called(instruction, computations):
                if called in computations:
                    visit(called, times * count)

    visit(entry, 1.0)
    return runs


def _called(instruction: Instruction, computations: dict[str, list[Instruction]]) -> Iterator[tuple[str, float]]:
    if instruction.kind == "while":
        condition, body = (re.search(rf"{key}=%?([\w.-]+)", instruction.rest)[1] for key in ("condition", "body"))
        yield body, _trip_count(instruction.rest, computations[condition], computations[body])
        return
    for name in CALLED.findall(instruction.rest):
        yield name, 1.0
    for branches in BRANCHES.findall(instruction.rest):
        for name in branches.split(","):
            yield name.strip().lstrip("%"), 1.0


def _trip_count(rest: str, condition: list[Instruction], body: list[Instruction]) -> float:
    """From the loop's own annotation, or from the constant that its counter, which begins at 0, is compared with.

    The loops in which a matrix product takes the parts of its operand as they come count in twos.
    """
    if known := re.search(r"known_trip_count\W+n\W+(\d+)", rest):
        return float(known[1])
    limits = [int(i.rest.split(")")[0]) for i in condition if i.kind == "constant" and COUNTER.match(i.shape)]
    return float(math.ceil(max(limits, default=1) / _stride(condition, body)))


def _stride(condition: list[Instruction], body: list[Instruction]) -> int:
    """What a loop's body adds to the counter that its condition looks at."""
    places = [int(found[1]) for i in condition if (found := re.search(r"index=(\d+)", i.rest))]
    kept = [i for i in body if i.kind == "tuple"]
    if len(places) != 1 or not kept:
        return 1
    by_name = {i.name: i for i in body}
    operands = re.findall(r"%([\w.-]+)", kept[-1].rest.split(")")[0])
    added = by_name.get(operands[places[0]]) if places[0] < len(operands) else None
    if added is None or added.kind != "add":
        return 1
    terms = (by_name.get(name) for name in re.findall(r"%([\w.-]+)", added.rest.split(")")[0]))
    steps = [int(i.rest.split(")")[0]) for i in terms if i is not None and i.kind == "constant"]
    return max(steps, default=1)


def _groups(rest: str, kind: str, devices: int) -> np.ndarray:
    """Groups of devices that talk to each other, [groups, members]; devices are numbered as in the mesh."""
    if "permute" in kind:
        pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", rest)[1]
        numbers = np.array([int(n) for n in re.findall(r"\d+", pairs)]).reshape(-1, 2)
        moved = numbers[numbers[:, 0] != numbers[:, 1]]
        return moved if len(moved) else numbers[:1, :1]
    if found := MESH_GROUPS.search(rest):
        names = re.findall(r"'(\w+)'=(\d+)", found[1])
        if ":" in found[5]:
            raise ValueError(f"groups of a part of a mesh axis are not known here: {found[0]}")
        chosen = re.findall(r"'(\w+)'", found[5])
        listed = found[4] and np.array([int(n) for n in found[4].split(",")])
        numbers = listed if listed is not None else _iota(found[2] or str(devices), found[3])
        numbers = numbers.reshape([int(size) for _, size in names])
        inside = [i for i, (name, _) in enumerate(names) if name in chosen]
        outside = [i for i in range(len(names)) if i not in inside]
        members = math.prod(numbers.shape[i] for i in inside)
        return numbers.transpose(*outside, *inside).reshape(-1, members)
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        return _iota(found[2], found[3]).reshape([int(n) for n in found[1].split(",")])
    if found := re.search(r"replica_groups=\{\{(.*?)\}\}", rest):
        return np.array([[int(n) for n in group.split(",")] for group in found[1].split("},{")])
    if "replica_groups=" in rest and "replica_groups={}" not in rest:
        raise ValueError(f"groups in a notation that is not known here: {rest[rest.index('replica_groups=') :][:200]}")
    return np.arange(devices)[None]


def _iota(shape: str, order: str | None) -> np.ndarray:
    """0, 1, 2 ... in `shape`, its dimensions then in another order."""
    sizes = [int(n) for n in shape.split(",")]
    numbers = np.arange(math.prod(sizes)).reshape(sizes)
    return numbers.transpose([int(n) for n in order.split(",")]) if order else numbers


def _span(groups: np.ndarray, names: tuple[str, ...], sizes: tuple[int, ...]) -> str:
    """The mesh axes along which the members of a group differ."""
    places = np.stack(np.unravel_index(groups, sizes), axis=-1)
    differ = (places != places[:, :1]).any(axis=(0, 1))
    return "+".join(name for name, differs in zip(names, differ, strict=True) if differs)


def _sent(instruction: Instruction, kind: str, scattered: bool, members: int) -> float:
    """Bytes each device sends. Every member of a group of n passes on n - 1 of n parts of the whole."""
    sizes = size_of(instruction.shape)
    started = instruction.kind.endswith("-start")  # its shape is (operand, result, ...): the larger one is the whole
    whole = max(sizes, default=0) if started else sum(sizes)
    if kind == "collective-permute":
        return float(whole)
    if kind == "reduce-scatter" and not scattered and not started:
        whole *= members  # the result is one part
    share = whole * (members - 1) / members
    return 2 * share if kind == "all-reduce" else share
