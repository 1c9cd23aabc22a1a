"""A sweep as a SLURM array or a JobSet: valid text that starts each run once."""

import os
import shutil
import subprocess

import pytest
import yaml

from nvlm_jax.sweeps import cluster

OPTIONS = {
    "python": "python3",
    "root": "/code",
    "workdir": "runs/a",
    "parallel": 4,
    "sbatch": ["--gres=gpu:8", "--time=4:00:00"],
    "image": "registry/nvlm:1",
    "accelerators": {"google.com/tpu": 4},
    "selector": {"cloud.google.com/gke-tpu-topology": "2x2"},
    "mount": "/runs",
    "claim": "runs",
}
ARGUMENTS = ["--config=a b.py", "--workdir=runs/a"]


def test_slurm_array(tmp_path):
    text = cluster.render("slurm", "My_Sweep", ARGUMENTS, 10, OPTIONS | {"root": str(tmp_path), "python": "./py"})
    lines = text.splitlines()
    assert "#SBATCH --array=0-9%4" in lines and "#SBATCH --gres=gpu:8" in lines
    assert "#SBATCH --job-name=my-sweep" in lines
    # As a shell reads it: one task, with a stand-in for Python.
    (tmp_path / "py").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > asked\n')
    (tmp_path / "py").chmod(0o755)
    job = tmp_path / "job.sh"
    job.write_text(text)
    subprocess.run(["bash", str(job)], check=True, env=os.environ | {"SLURM_ARRAY_TASK_ID": "7"})
    assert (tmp_path / "asked").read_text().split("\n")[:5] == ["-m", "launch.sweep", *ARGUMENTS, "--only=7"]


def test_jobset():
    job = yaml.safe_load(cluster.render("gke", "smoke", ARGUMENTS, 3, OPTIONS))
    assert (job["kind"], job["metadata"]["name"]) == ("JobSet", "smoke")
    spec = job["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (3, 3, "Indexed")
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    assert container["args"] == [
        "exec python3 -m launch.sweep '--config=a b.py' --workdir=runs/a --only=\"$JOB_COMPLETION_INDEX\""
    ]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["nodeSelector"] == {"cloud.google.com/gke-tpu-topology": "2x2"}


def test_submit_says_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(cluster.SubmitError, match="sbatch: not found; on a machine that has it: sbatch job"):
        cluster.submit("slurm", tmp_path.relative_to(tmp_path) / "job")
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho no such partition >&2\nexit 3\n")
    (tmp_path / "sbatch").chmod(0o755)
    with pytest.raises(cluster.SubmitError, match="exit status 3: no such partition"):
        cluster.submit("slurm", tmp_path / "job")
    shutil.copy(tmp_path / "sbatch", tmp_path / "kubectl")
    (tmp_path / "kubectl").write_text("#!/bin/sh\necho jobset created: $*\n")
    assert cluster.submit("gke", tmp_path / "job").startswith("jobset created: apply -f")
