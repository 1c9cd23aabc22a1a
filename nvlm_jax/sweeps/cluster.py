"""A sweep as one SLURM job array or one Kubernetes JobSet: task i is `launch.sweep --only=i`, one run on one machine.

The directory of the sweep must be a file system that all machines share.
"""

from __future__ import annotations

import math
import pathlib
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from nvlm_jax.sweeps.texts import text_environment

TEMPLATES = {"slurm": "array.sbatch.j2", "gke": "jobset.yaml.j2"}
SUBMIT = {"slurm": ["sbatch"], "gke": ["kubectl", "apply", "-f"]}


class SubmitError(Exception):
    """The cluster's command is not here or refused the job."""


def render(backend: str, name: str, arguments: Sequence[str], tasks: int, options: Mapping[str, Any]) -> str:
    """The job's text.

    Args:
        backend: "slurm" or "gke".
        name: of the sweep.
        arguments: of launch.sweep, without backend and --only.
        tasks: how many runs.
        options: `parallel` (tasks at a time), `root` (directory of the code), `python`, and for SLURM `sbatch` (lines
            of #SBATCH options), for GKE `image`, `accelerators` and `selector` (labels of the nodes).

    Raises:
        KeyError: another backend.
    """
    environment = text_environment()
    label = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:50]
    command = shlex.join([options["python"], "-m", "launch.sweep", *arguments])
    values = dict(options, name=label, command=command, tasks=tasks, last=tasks - 1)
    values["parallel"] = min(options["parallel"] or tasks, tasks)
    values["digits"] = math.ceil(math.log10(max(tasks, 2)))
    return environment.get_template(TEMPLATES[backend]).render(values)


def submit(backend: str, path: pathlib.Path) -> str:
    """Hand the file to the cluster; what its command printed.

    Raises:
        SubmitError: the command is absent or failed.
    """
    command = [*SUBMIT[backend], str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise SubmitError(f"{command[0]}: not found; on a machine that has it: {shlex.join(command)}") from None
    except subprocess.CalledProcessError as error:
        raise SubmitError(f"{shlex.join(command)}: exit status {error.returncode}: {error.stderr.strip()}") from None
    return done.stdout.strip()
