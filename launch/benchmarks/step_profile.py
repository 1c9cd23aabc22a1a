"""Where a training step's time goes, by module: device time of every operation, from XLA's own trace.

The model names its modules (`jax.named_scope`); XLA carries those names to each operation of the compiled program, also
through differentiation. A fused operation counts for the module of its last part.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

# Names of the model's scopes; the innermost one of an operation counts.
SCOPES = ("vision", "projector", "cross_attention", "attention", "mlp", "decoder", "loss", "optimizer")
CONTAINERS = ("while", "call", "conditional")  # on CPU their time is that of what they hold, once more
INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*?op_name="([^"]*)"', re.MULTILINE)


def profile(run: Callable[[], Any], compiled: Any, steps: int) -> dict[str, dict[str, float]]:
    """Device seconds of one call of `run`, by module and direction, and by kind of operation within each.

    Args:
        run: calls `compiled`, once; what it returns is waited for.
        compiled: the program, whose text names each operation's origin.
        steps: calls to take the mean of.

    Returns:
        module -> {operation's name without its number -> seconds}, for example {"attention, backward": {"dot": 0.1}}.
    """
    jax.block_until_ready(run())
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            for _ in range(steps):
                jax.block_until_ready(run())
        [path] = Path(directory).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
    origins, found = dict(INSTRUCTION.findall(compiled.as_text())), {}
    for name, seconds in _operations(data).items():
        kind = re.sub(r"[.\d]+$", "", name)
        found.setdefault(module_of(origins.get(name, "")), Counter())[kind] += seconds / steps
    return found


def module_of(origin: str) -> str:
    """The innermost scope that an operation's `op_name` names, and whether it belongs to the backward pass."""
    inner = [name for name in re.findall(r"\w+", origin) if name in SCOPES]
    if not inner:
        return "other"
    for owner in ("vision", "cross_attention"):  # attention and feed-forward in them are theirs, not the decoder's
        inner = [owner] if owner in inner else inner
    recomputed = "rematted_computation" in origin and inner[-1] != "optimizer"
    return inner[-1] + (", again" if recomputed else ", backward" if "transpose(" in origin else "")


def report(found: dict[str, dict[str, float]]) -> str:
    """A Markdown table: modules by their time, with the three operations that take most of it."""
    total = sum(sum(kinds.values()) for kinds in found.values())
    lines = [f"| module | ms of {1000 * total:,.1f} | share | most of it |", "| --- | --- | --- | --- |"]
    for module, kinds in sorted(found.items(), key=lambda item: -sum(item[1].values())):
        seconds = sum(kinds.values())
        most = ", ".join(f"{kind} {1000 * s:,.1f}" for kind, s in Counter(kinds).most_common(3))
        lines.append(f"| {module} | {1000 * seconds:,.1f} | {seconds / total:.1%} | {most} |")
    return "\n".join(lines)


def _operations(data: Any) -> dict[str, float]:
    """Name in the program -> seconds on the device, over all calls in the trace."""
    seconds: Counter[str] = Counter()
    planes = list(data.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    for plane in devices or planes:
        for line in plane.lines:
            if line.name in ("XLA Modules", "Steps", "Framework Ops", "Source code"):  # sums of others
                continue
            for event in line.events:
                name = dict(event.stats).get("hlo_op") or (event.name if line.name == "XLA Ops" else None)
                if name and re.sub(r"[.\d]+$", "", str(name)) not in CONTAINERS:
                    seconds[str(name)] += event.duration_ns / 1e9
    return dict(seconds)
