"""Conversion streams: what it holds does not grow with the checkpoint. launch/benchmarks/convert.py measures 4 GB."""

import os
import subprocess
import sys

import pytest

from nvlm_jax.convert.write import write_hf
from tests.convert.support import INPUTS, random_parameters, small

MB = 1 << 20
CHILD = """
import pathlib, sys
import jax
from nvlm_jax.training.imported import export_hf, import_hf

def resident(key):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) >> 10

jax.devices()  # the libraries of an accelerator are large, and no part of the conversion
before = resident("VmRSS")
import_hf(sys.argv[1] + "/hf", sys.argv[1] + "/ckpt")
export_hf(sys.argv[1] + "/ckpt", sys.argv[1] + "/again", dummy_heads=2)
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="resident memory is read from /proc")
def test_peak_memory_is_far_below_the_checkpoint(tmp_path):
    config = small(vocab_size=40_000, width=800)
    parameters = random_parameters(config, scale=0.02)
    size = sum(array.nbytes for array in parameters.values()) / MB
    write_hf(tmp_path / "hf", config, INPUTS, parameters, dummy_heads=2)
    del parameters
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Beside libraries: a few blocks at every stage. The two large tensors alone are 122 MB each.
    assert size > 240 and int(done.stdout.split()[-1]) < 240, (size, done.stdout)
