"""Rendered jobs: bash reads them, the manifest's schema admits them, and what they start is `launch.train` as asked."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from nvlm_jax.parallel.watch import REQUEUE

RUN = ["--config=configs/nvlm.py:arch=d,size=72b,stage=sft", "--workdir=/shared/runs/d", "--dry_run"]
CASES = {
    "slurm": [
        *RUN,
        "--config.mesh.tensor=4",
        "--target=slurm",
        "--topology=h100:128",
        "--partition=big",
        "--grace=120",
    ],
    "tpu": [*RUN, "--target=gke", "--topology=v5p:4x4x8", "--slices=2", "--image=registry/nvlm:1"],
    "gpu": [*RUN, "--target=gke", "--topology=h100:16", "--image=registry/nvlm:1"],
    "local": [
        *RUN,
        "--config.train.local.kind=gke",
        "--config.train.local.directory=/local",
        *("--target=gke", "--topology=v5p:4x4x8", "--image=registry/nvlm:1"),
    ],
    "no slice": [*RUN, "--target=gke", "--topology=v5p:3x3x3", "--image=registry/nvlm:1"],
    "no mesh": [*RUN, "--target=slurm", "--topology=h100:128", "--config.mesh.tensor=3"],
    "tpu on slurm": [*RUN, "--target=slurm", "--topology=v5p:4x4x8"],
    "no image": [*RUN, "--target=gke", "--topology=v5p:4x4x8"],
}
# One import of JAX for all cases, then a fork for each: flags are parsed once a process.
SCRIPT = """
import json, os, sys, tempfile
from launch import submit
done = {}
for name, argv in json.loads(sys.argv[1]).items():
    with tempfile.TemporaryFile("w+") as out:
        if not os.fork():
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
            sys.argv = ["launch.submit", *argv]
            try:
                submit.app.run(submit.main)
            except SystemExit as error:
                print(error.code if isinstance(error.code, str) else "", flush=True)
            os._exit(0)
        os.wait()
        out.seek(0)
        done[name] = out.read()
print(json.dumps(done))
"""


@pytest.fixture(scope="module")
def jobs():
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", SCRIPT, json.dumps(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=os.environ | {"PYTHONPATH": "."})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_slurm(jobs, tmp_path):
    job = tmp_path / "job.sbatch"
    job.write_text(jobs["slurm"])
    subprocess.run(["bash", "-n", job], check=True)
    directives = dict(
        line[8:].split("=", 1) for line in jobs["slurm"].splitlines() if line.startswith("#SBATCH --") and "=" in line
    )
    assert directives["--nodes"] == "16" and directives["--ntasks-per-node"] == directives["--gpus-per-node"] == "8"
    assert directives["--signal"] == "TERM@120" and directives["--partition"] == "big" and "--account" not in directives
    assert "#SBATCH --requeue" in jobs["slurm"]
    assert (
        "python -m launch.train --config=configs/nvlm.py:arch=d,size=72b,stage=sft --config.mesh.tensor=4"
        in jobs["slurm"]
    )


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [(0, 0, False), (1, 0, False), (75, 90, True), (137, 3, True), (137, 20, False)],
)
def test_what_slurm_requeues(jobs, tmp_path, code, restarts, requeued):
    """The script itself, with a training that ends with `code` and a scontrol that only notes that it was called."""
    for name, text in {"srun": f"exit {code}", "scontrol": f"echo $@ > {tmp_path}/called"}.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_RESTART_COUNT": str(restarts),
    }
    script = jobs["slurm"].replace("cd /opt/nvlm-jax", f"cd {tmp_path}")
    assert subprocess.run(["bash", "-c", script], env=environment).returncode == code
    assert (tmp_path / "called").exists() is requeued
    if requeued:
        assert (tmp_path / "called").read_text() == "requeue 7\n"


def manifest_of(job: str) -> dict:
    manifest = yaml.safe_load(job)
    jsonschema.validate(manifest, json.loads(Path(__file__).with_name("jobset.schema.json").read_text()))
    return manifest


@pytest.mark.parametrize("kind", ["tpu", "gpu"])
def test_gke(jobs, kind):
    manifest = manifest_of(jobs[kind])
    [workers] = manifest["spec"]["replicatedJobs"]
    job, pod = workers["template"]["spec"], workers["template"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [REQUEUE]
    bash, option, line = container["command"]
    assert (bash, option) == ("bash", "-c")
    assert shlex.split(line)[:5] == ["exec", "python", "-m", "launch.train", RUN[0]]
    if kind == "tpu":
        assert (workers["replicas"], job["parallelism"], job["completions"]) == (2, 32, 32)
        assert container["resources"]["limits"] == {"google.com/tpu": 4}
        assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4x8"
    else:
        assert (workers["replicas"], job["parallelism"]) == (1, 2)
        names = {entry["name"] for entry in container["env"]}
        assert {"JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "XLA_FLAGS"} <= names


def test_gke_brings_the_volume_of_its_checkpoints(jobs):
    [workers] = manifest_of(jobs["local"])["spec"]["replicatedJobs"]
    pod = workers["template"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert {"name": "local", "csi": {"driver": "multitier-checkpoint.csi.storage.gke.io"}} in pod["volumes"]
    assert {"name": "local", "mountPath": "/local"} in container["volumeMounts"]
    assert {"name": "JOBSET_NAME", "value": "nvlm-d-72b-sft"} in container["env"]
    assert "multitier" not in jobs["tpu"]


def test_jobs_that_cannot_start(jobs):
    assert "there is no v5p:3x3x3; v5p slices are 2x2x1, 2x2x2" in jobs["no slice"]
    assert "every axis has to divide 128" in jobs["no mesh"] or "would fit" in jobs["no mesh"]
    assert "v5p is a TPU; --target=gke runs those" in jobs["tpu on slurm"]
    assert "--image: GKE needs a container" in jobs["no image"]
