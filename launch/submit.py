"""Render a run as a job for SLURM or GKE, and submit it.

    python -m launch.submit --config=configs/nvlm.py:arch=d,size=72b,stage=sft --config.mesh.tensor=4 \\
        --workdir=/shared/runs/d72 --target=slurm --topology=h100:128 --dry_run
    python -m launch.submit --config=configs/nvlm.py:arch=h,size=34b,stage=sft --workdir=/shared/runs/h34 \\
        --target=gke --topology=v5p:4x4x8 --image=REGISTRY/nvlm-jax:1 --dry_run > job.yaml

The job runs `launch.train` with the same flags, so what runs on a laptop runs there. It is started again by itself when
training exits with code 75: preempted and saved, or a process of it died. `--dry_run` prints the job and stops there;
otherwise `sbatch` or `kubectl apply` gets it. docs/scaling.md says what a cluster has to have.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
from absl import app, flags

from launch.blends import blend_flags, with_blend
from launch.command import run_command
from launch.config_flag import define_config
from launch.platform_flags import environment
from nvlm_jax.config import ConfigError, RunConfig, from_mapping
from nvlm_jax.parallel.mesh import fill_axes
from nvlm_jax.parallel.watch import REQUEUE
from nvlm_jax.planning.chips import Chip, parse_topology

HERE = Path(__file__).parent
# docs.cloud.google.com/kubernetes-engine/docs: labels of node pools.
ACCELERATORS = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
    "tpu7x": "tpu7x",
    "h100": "nvidia-h100-mega-80gb",
    "b200": "nvidia-b200",
}
CONFIG = define_config("configs/nvlm.py:arch=d,size=72b,stage=sft")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "directory of the run, on storage that every process sees", required=True
)
TARGET = flags.DEFINE_enum("target", None, ["slurm", "gke"], "what runs the job", required=True)
TOPOLOGY = flags.DEFINE_string("topology", None, "h100:128, v5p:4x4x8 ...", required=True)
SLICES = flags.DEFINE_integer("slices", 1, "such TPU slices; the mesh's `data` goes across them", lower_bound=1)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "print the job, submit nothing")
NAME = flags.DEFINE_string("name", "", "of the job; default: the run's")
DIRECTORY = flags.DEFINE_string("directory", "/opt/nvlm-jax", "where this project lies there")
RESTARTS = flags.DEFINE_integer("restarts", 20, "after faults of machines, at most", lower_bound=0)
GRACE = flags.DEFINE_integer(
    "grace", 300, "seconds from SIGTERM to the end: one step and one checkpoint", lower_bound=10
)
PYTHON = flags.DEFINE_string("python", "python", "interpreter there")
PARTITION = flags.DEFINE_string("partition", "", "SLURM")
ACCOUNT = flags.DEFINE_string("account", "", "SLURM")
TIME = flags.DEFINE_string(
    "time", "24:00:00", "SLURM: limit of one start; the job is requeued until the run is finished"
)
CPUS = flags.DEFINE_integer("cpus", 12, "SLURM: of one process", lower_bound=1)
IMAGE = flags.DEFINE_string("image", "", "GKE: container with this project and its requirements")
CLAIM = flags.DEFINE_string("claim", "shared", "GKE: PersistentVolumeClaim with data and --workdir, on every node")
MOUNT = flags.DEFINE_string("mount", "/shared", "GKE: where the claim is mounted")


ACCEPT = flags.DEFINE_bool("accept_data", False, "as launch.train's")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; every option is a flag, --name=value")
    try:
        job = render()
    except ConfigError as error:
        sys.exit(f"ConfigError: {error}")
    if DRY_RUN.value:
        print(job, end="")
        return
    command = {"slurm": ["sbatch"], "gke": ["kubectl", "apply", "-f", "-"]}[TARGET.value]
    try:
        sys.exit(subprocess.run(command, input=job, text=True).returncode)
    except FileNotFoundError:
        sys.exit(f"{command[0]} is not on this machine; submit there, or take --dry_run and carry the job over")


def render() -> str:
    """The job as text. Raises ConfigError for a run that cannot start there."""
    config = from_mapping(RunConfig, with_blend(CONFIG.value, here=False))
    chip, shape, count = parse_topology(TOPOLOGY.value)
    devices = count * SLICES.value * (2 if chip.name == "tpu7x" else 1)
    fill_axes(config.mesh, devices)
    values = common(config, chip, devices) | {"shape": shape}
    if TARGET.value == "slurm":
        if chip.tpu:
            raise ConfigError(f"--target=slurm: {chip.name} is a TPU; --target=gke runs those")
        nodes = max(devices // chip.devices_per_host, 1)
        values |= {"nodes": nodes, "log": f"{WORKDIR.value}/slurm-%j.log", "time": TIME.value, "cpus": CPUS.value}
        values |= {"partition": PARTITION.value, "account": ACCOUNT.value}
        return fill(HERE / "slurm/train.sbatch.j2", values)
    if not IMAGE.value:
        raise ConfigError("--image: GKE needs a container with this project and its requirements")
    hosts = max(count * (2 if chip.name == "tpu7x" else 1) // chip.devices_per_host, 1)
    on_host = {"tpu7x": 4}.get(chip.name, min(count, chip.devices_per_host))
    values |= {"hosts": hosts, "slices": SLICES.value, "chips_per_host": on_host, "image": IMAGE.value}
    values |= {"claim": CLAIM.value, "mount": MOUNT.value}
    values["local"] = config.train.local.directory if config.train.local.kind == "gke" else ""
    kind = "gke-tpu-accelerator" if chip.tpu else "gke-accelerator"
    values["selector"] = {f"cloud.google.com/{kind}": ACCELERATORS[chip.name]}
    if chip.tpu:
        values["selector"]["cloud.google.com/gke-tpu-topology"] = shape
    values["resource"] = "google.com/tpu" if chip.tpu else "nvidia.com/gpu"
    return fill(HERE / "gke/train.yaml.j2", values)


def common(config: RunConfig, chip: Chip, devices: int) -> dict[str, Any]:
    """What both kinds of job say."""
    name = NAME.value or config.name
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", name):
        raise ConfigError(f"--name: {name!r}; at most 40 lower-case letters, digits and dashes inside")
    overrides = [item for item in sys.argv[1:] if item.startswith(("--config=", "--config.", "-config"))]
    overrides += [*blend_flags(), *(["--accept_data"] if ACCEPT.value else [])]
    command = [PYTHON.value, "-m", "launch.train", *overrides, f"--workdir={WORKDIR.value}"]
    quoted = {key: shlex.quote(value) if TARGET.value == "slurm" else value for key, value in environment(chip).items()}
    return {
        "name": name,
        "chip": chip,
        "devices": devices,
        "command": shlex.join(command),
        "environment": quoted,
        "directory": shlex.quote(DIRECTORY.value),
        "requeue": REQUEUE,
        "restarts": RESTARTS.value,
        "grace": GRACE.value,
    }


def fill(template: Path, values: dict[str, Any]) -> str:
    """A template with every name that it asks for."""
    settings = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "keep_trailing_newline": True}
    return jinja2.Environment(**settings).from_string(template.read_text()).render(values)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    run_command(main)
