"""A plan as a table for the terminal and as an HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from nvlm_jax.number_format import flops
from nvlm_jax.webpage import template

TEMPLATE = Path(__file__).with_name("page.html.j2")


def lines(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a person asks first, as (name, value)."""
    mesh = ", ".join(f"{axis}={size}" for axis, size in plan["mesh"].items() if size > 1) or "one device"
    cross = plan.get("hbm_gib_compiled_for_cpu")
    refused = ", nothing sent: the compiler refused it" if plan["refused"] else ""
    useful, executed = sum(plan["flops_by_module"].values()), sum(plan["executed_flops_by_module"].values())
    found = [
        ("run", plan["name"]),
        ("chips", f"{plan['chips']} x {plan['topology']}, {plan['method']}"),
        ("mesh", f"{mesh}; {plan['batch_rows']} rows, accumulation {plan['accumulation']}, remat {plan['remat']}"),
        ("memory", f"{plan['hbm_gib']:.1f} of {plan['hbm_limit_gib']:.1f} GiB, {_fits(plan)}"),
        ("step", f"{plan['step_seconds']:.3f} s one after the other, {plan['step_seconds_overlap']:.3f} s overlapped"
                 f"{refused}"),
        ("MFU", f"{_mfu(plan)} of useful FLOPs; bound by {plan['binding']}"),
        ("FLOPs", f"{flops(useful)} useful, {flops(executed)} executed a step; "
                  f"padding {plan['padding_share_of_flops']:.1%}"),
        ("rate", f"{plan['samples_per_second']:.1f} samples/s, {plan['tokens_per_second']:,.0f} tokens/s, "
                 f"{plan['tiles_per_second']:,.0f} tiles/s"),
        ("loader", f"{plan['loader_mib_per_second_per_host']:.1f} MiB/s a host"),
        ("run takes", f"{plan['days']:.1f} days, {plan['chip_hours']:,.0f} chip hours"),
        *([("cross-check", f"{cross:.1f} GiB as compiled for CPUs")] if cross else []),
        ("compiled in", f"{plan['compile_seconds']:.0f} s, {plan['compile_cpu_seconds']:.0f} s of CPU time"),
    ]  # fmt: skip
    if advice := plan.get("advice"):
        found.append(("advice", advice))
    return found


def _fits(plan: Mapping[str, Any]) -> str:
    return "fits" if plan["fits"] else "DOES NOT FIT"


def _mfu(plan: Mapping[str, Any]) -> str:
    return f"{plan['mfu_no_overlap']:.1%} to {plan['mfu_overlap']:.1%}"


def table(plan: Mapping[str, Any]) -> Table:
    """The plan for `rich`."""
    shown = Table(show_header=False)
    for name, value in lines(plan):
        shown.add_row(name, value)
    for axes, count in plan["collective_bytes_by_axis"].items():
        seconds = plan["seconds_by_resource"][f"network:{axes}"]
        shown.add_row(f"network: {axes}", f"{count / 1e9:.2f} GB a device and step, {seconds:.3f} s")
    return shown


def ranking(plans: list[Mapping[str, Any]]) -> Table:
    """Plans of a search, the best first."""
    shown = Table("mesh", "remat", "accumulation", "GiB", "step, s", "MFU", "bound by")
    for plan in plans:
        mesh = ", ".join(f"{axis}={size}" for axis, size in plan["mesh"].items() if size > 1)
        gib = f"{plan['hbm_gib']:.1f}" + ("" if plan["fits"] else " (does not fit)")
        count, seconds = str(plan["accumulation"]), f"{plan['step_seconds']:.3f}"
        shown.add_row(mesh, plan["remat"], count, gib, seconds, _mfu(plan), plan["binding"])
    return shown


def write_page(path: Path, plan: Mapping[str, Any]) -> None:
    """Memory by kind, time by resource and FLOPs by module as bars; the page makes no request."""
    executed, useful = plan["executed_flops_by_module"], plan["flops_by_module"]
    second = plan["seconds_by_resource"]["compute"] / sum(executed.values())  # of one FLOP
    modules = [
        {"name": name, "executed": count, "useful": useful[name], "seconds": count * second}
        for name, count in executed.items()
        if count
    ]
    template.write(path, TEMPLATE, plan=plan, lines=lines(plan), modules=modules)
