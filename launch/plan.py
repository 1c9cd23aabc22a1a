"""What a run will need and how long it will take, without any accelerator.

    python -m launch.plan --config=configs/nvlm.py:arch=d,size=72b,stage=sft --topology=v5p:4x4x8 \\
                          [--mesh=fsdp=32,tensor=4] [--search] [--out=plan.json --out=plan.html]

The step that training runs is compiled for that TPU slice by its own compiler (`pip install libtpu==0.0.42.1`; no TPU
is needed). `--topology=h100:128` and `b200:N` are planned analytically: the step is compiled for as many fake CPU
devices, and its memory is a cross-check only. `--search` tries meshes, rematerialisation and accumulation by hand
counts, compiles the best few and ranks them. docs/scaling.md says how the time is estimated and where that is weak.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

from launch.command import run_command
from launch.config_flag import define_config
from nvlm_jax.config import ConfigError, RunConfig, from_mapping
from nvlm_jax.parallel.mesh import make_mesh, parse_mesh
from nvlm_jax.planning import page, search
from nvlm_jax.planning.compile import compile_for, planned_devices
from nvlm_jax.planning.plan import Workload, make_plan
from nvlm_jax.terminal import print_tables

CONFIG = define_config("configs/nvlm.py:arch=d,size=72b,stage=sft")
TOPOLOGY = flags.DEFINE_string("topology", None, "chip and slice, as v5p:4x4x8, or GPUs, as h100:128", required=True)
SLICES = flags.DEFINE_integer("slices", 1, "such slices, joined by the data-centre network", lower_bound=1)
MESH = flags.DEFINE_string("mesh", None, "axes, as fsdp=32,tensor=4, or a preset; default: the config's")
SEARCH = flags.DEFINE_bool("search", False, "try meshes, remat policies and accumulations")
COMPILED = flags.DEFINE_integer("compiled", 3, "with --search: how many of the best are compiled", lower_bound=1)
OUT = flags.DEFINE_multi_string("out", [], "write the plan to this .json or .html file; may be given twice")
TEXT = flags.DEFINE_integer("sample_text", 1024, "of a sample: places of text", lower_bound=0)
TILES = flags.DEFINE_integer("sample_tiles", 7, "of a sample: tiles with the thumbnail", lower_bound=0)
FILL = flags.DEFINE_float("fill", 0.98, "share of a row's scarcer budget that packing fills", 0.0, 1.0)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; every option is a flag, --name=value")
    if wrong := [name for name in OUT.value if Path(name).suffix not in (".json", ".html")]:
        raise app.UsageError(f"--out={wrong[0]}: writes .json or .html")
    try:
        plans = make_plans()
    except ConfigError as error:
        sys.exit(f"ConfigError: {error}")
    print_tables(*([page.ranking(plans)] if len(plans) > 1 else []), page.table(plans[0]))
    for name in OUT.value:
        if name.endswith(".html"):
            page.write_page(Path(name), plans[0])
        else:
            Path(name).write_text(json.dumps(plans[0] | ({"search": plans} if SEARCH.value else {}), indent=1) + "\n")
    sys.exit(0 if plans[0]["fits"] else 1)


def make_plans() -> list[dict[str, Any]]:
    """The plan that was asked for; with --search the best ones, the fastest that fits first."""
    config = from_mapping(RunConfig, CONFIG.value.to_dict())
    chip, devices = planned_devices(TOPOLOGY.value, SLICES.value)
    load = Workload(TEXT.value, TILES.value, fill=FILL.value)
    if MESH.value:
        config = dataclasses.replace(config, mesh=parse_mesh(MESH.value))
    if not SEARCH.value:
        mesh = make_mesh(config.mesh, devices)
        return [make_plan(config, chip, mesh, compile_for(config, mesh), load)]
    plans = []
    for candidate in search.candidates(config, chip, devices, SLICES.value)[: COMPILED.value]:
        shown = {axis: size for axis, size in candidate.mesh.shape.items() if size > 1}
        train = candidate.config.train
        print(f"compiling {shown}, remat {candidate.config.model.remat}, accumulation {train.accumulation}", flush=True)
        compiled = compile_for(candidate.config, candidate.mesh)
        plans.append(make_plan(candidate.config, chip, candidate.mesh, compiled, load))
    return sorted(plans, key=lambda plan: (not plan["fits"], plan["step_seconds"]))


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    run_command(main)
