"""What a conversion costs: memory, time against `cp`, and the restore of its result onto meshes.

    python -m launch.benchmarks.convert [--gigabytes=4] [--repeats=3]

The checkpoint is a slice of nvidia/NVLM-D-72B: the released widths, dtypes and dummy heads, few layers and a short
vocabulary, so that single tensors are as large as the real ones. Every step runs in a process of its own, so that its
peak is its own.
"""

from __future__ import annotations

import filecmp
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from absl import flags

from launch.benchmarks.output import run
from nvlm_jax.config import DecoderConfig, InputConfig, ModelConfig, VisionConfig
from nvlm_jax.convert import names
from nvlm_jax.convert.write import write_hf

DUMMY_HEADS = 7
# float32 in the released shards, by their sizes: the vision attention, and q, k and v of the decoder.
FLOAT32 = (("vision", "layers", "attention"), *(("decoder", "layers", "attention", name) for name in "qkv"))
MB = 1 << 20
# Prints, last, the peak resident memory of a process in kB. /proc has what exec reset; getrusage has the parent's too.
PEAK = (
    "import atexit, sys; atexit.register(lambda: print('\\nVmHWM', next(line.split()[1] for line in "
    "open('/proc/self/status') if line.startswith('VmHWM')), file=sys.stderr)); "
)


class Random:
    """An array of repeated random values that exist only where they are read."""

    pool = np.random.default_rng(0).normal(0, 0.02, 8 << 20).astype(np.float32)

    def __init__(self, shape: tuple[int, ...], dtype: Any):
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._values = self.pool.astype(self.dtype)
        self._places = np.broadcast_to(np.int8(0), shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.resize(self._values, self._places[index].shape)


class Run(NamedTuple):
    """One process that ended well."""

    seconds: float
    cpu: float  # seconds of all its threads, in the kernel too: says more than the clock where others compute
    peak: int  # bytes resident at most
    output: str


def slice_of_72b(gigabytes: float) -> ModelConfig:
    """About so many gigabytes in the released dtypes: one decoder layer, two vision layers, the rest vocabulary."""
    model = ModelConfig(vision=VisionConfig(layers=2), decoder=DecoderConfig(vocab_size=8, layers=1))
    rows = (gigabytes * 1e9 - _nbytes(model)) / (2 * 2 * model.decoder.width)
    decoder = DecoderConfig(vocab_size=max(8, int(rows)), layers=1)
    return ModelConfig(vision=model.vision, decoder=decoder)


def parameters(model: ModelConfig) -> dict[names.Path, Random]:
    """Every parameter of `model`, in the released dtypes."""
    tensors = [t for part in names.parts_of(model) for t in names.tensors(model, part)]
    return {t.ours: Random(t.stacked_shape, _dtype(t.ours)) for t in tensors}


def measure(directory: Path, gigabytes: float, repeats: int) -> dict[str, Any]:
    """Make a checkpoint under `directory`, convert it there and back `repeats` times beside `cp`, restore it.

    Returns:
        what was measured, bytes and seconds; `directory` needs room for four copies.
    """
    source, out, back, copy = (directory / name for name in ("source", "imported", "exported", "copied"))
    for path in (source, out, back, copy):
        shutil.rmtree(path, ignore_errors=True)
    model = slice_of_72b(gigabytes)
    shard = int(gigabytes * 1e9 / 4)
    write_hf(source, model, InputConfig(), parameters(model), dummy_heads=DUMMY_HEADS, shard_bytes=shard)
    imports = ("convert", f"--from_hf={source}", f"--out={out}")
    exports = ("convert", f"--to_hf={back}", f"--checkpoint={out}", f"--dummy_heads={DUMMY_HEADS}")
    found: dict[str, Any] = {
        "bytes": sum(file.stat().st_size for file in source.iterdir()),
        "interpreter": _python("pass").peak,
        "imports": _python("import launch.convert").peak,
        "import": [],
        "export": [],
    }
    for _ in range(repeats):
        for name, command, read, made in (("import", imports, source, out), ("export", exports, out, back)):
            copied = _copy(read, copy)
            # Both begin where their own last result was removed: a virtual machine soon gives free memory back to its
            # host, and pages that it must ask for again cost several times the copy into them.
            shutil.rmtree(made, ignore_errors=True)
            run = _launch(*command)
            converting = float(run.output.split(" in ")[-1].split()[0])
            seconds = {"cp": copied.seconds, "process": run.seconds, "converting": converting}
            found[name].append(seconds | {"cp_cpu": copied.cpu, "process_cpu": run.cpu, "peak": run.peak})
    shards = [file.name for file in source.glob("*.safetensors")]
    found["identical"] = filecmp.cmpfiles(source, back, shards, shallow=False)[0] == shards
    shutil.rmtree(copy)
    shutil.rmtree(back)
    found["restore"] = [_restore(out, devices, 1) for devices in (1, 2, 8)] + [_restore(out, 8, 2)]
    return found


def report(found: Mapping[str, Any]) -> str:
    """The measurements as text, a line each."""
    own = found["interpreter"]
    lines = [
        f"checkpoint {found['bytes'] / 1e9:.2f} GB; interpreter alone {own / MB:.0f} MB, "
        f"with what launch.convert imports {found['imports'] / MB:.0f} MB"
    ]
    for name in ("import", "export"):
        runs = found[name]
        peak = max(run["peak"] for run in runs)
        lines.append(
            f"{name}: {_median(runs, 'converting'):.1f} s converting, {_median(runs, 'process'):.1f} s the process, "
            f"{_median(runs, 'cp'):.1f} s cp; ratio to cp {_ratios(runs, 'converting')} converting, "
            f"{_ratios(runs, 'process')} the process; CPU {_median(runs, 'process_cpu'):.1f} s the process, "
            f"{_median(runs, 'cp_cpu'):.1f} s cp; peak {(peak - own) / 1e9:.2f} GB over the interpreter"
        )
    lines.append(f"exported shards identical to the source: {found['identical']}")
    for restored in found["restore"]:
        lines.append(
            f"restore onto {restored['devices']} devices of {restored['hosts']} process(es): "
            f"{restored['held'] / 1e9:.2f} GB on the devices of a process, "
            f"{restored['device'] / 1e9:.2f} GB at most on one; peak of a process "
            f"{restored['peak'] / 1e9:.2f} GB above what it had before; {restored['seconds']:.1f} s"
        )
    return "\n".join(lines)


def restore(path: str, devices: int, host: int, hosts: int, port: int) -> None:
    """Restore an imported checkpoint onto a mesh of all devices, and print what this process came to hold."""
    import jax

    if hosts > 1:
        jax.distributed.initialize(f"localhost:{port}", hosts, host)
    from flax import nnx

    import nvlm_jax.training.imported as imported
    from nvlm_jax.config import MeshConfig
    from nvlm_jax.models.build import abstract_model
    from nvlm_jax.parallel.mesh import make_mesh
    from nvlm_jax.training.checkpoints import place

    run, arrays = imported.open_checkpoint(path)
    mesh = make_mesh(MeshConfig(fsdp=-1, tensor=min(devices, 2)))
    assert mesh.size == devices, (mesh.size, devices)
    abstract = dict(nnx.to_flat_state(place(nnx.state(abstract_model(run.model)), mesh)))
    sharded = {p: leaf.get_value() for p, leaf in abstract.items()}
    target = {p: jax.ShapeDtypeStruct(s.shape, arrays[p].dtype, sharding=s.sharding) for p, s in sharded.items()}
    before, start = _resident(), time.perf_counter()
    found = jax.block_until_ready(imported.restore_parameters(path, target))
    seconds = time.perf_counter() - start
    held: dict[Any, int] = {}
    for array in found.values():
        for part in array.addressable_shards:
            held[part.device] = held.get(part.device, 0) + part.data.nbytes
    counts = {"held": sum(held.values()), "device": max(held.values()), "peak": _resident("VmHWM") - before}
    print(json.dumps({"devices": devices, "hosts": hosts, "seconds": seconds} | counts))


def _restore(path: Path, devices: int, hosts: int) -> dict[str, Any]:
    """The worst of the processes of one restore."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={devices // hosts}"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    code = "from launch.benchmarks.convert import restore; restore({!r}, {}, {}, {}, {})"
    commands = [[sys.executable, "-c", code.format(str(path), devices, host, hosts, port)] for host in range(hosts)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) for command in commands]
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"restoring onto {devices} devices of {hosts} processes failed")
    return max((json.loads(output.splitlines()[-1]) for output in outputs), key=lambda found: found["peak"])


def _launch(module: str, *arguments: str) -> Run:
    argv = [module, *arguments]
    return _python(f"import runpy; sys.argv = {argv!r}; runpy.run_module('launch.{module}', run_name='__main__')")


def _python(code: str) -> Run:
    done, seconds, cpu = _timed([sys.executable, "-c", PEAK + code])
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return Run(seconds, cpu, int(done.stderr.split()[-1]) * 1024, done.stdout)


def _copy(source: Path, target: Path) -> Run:
    """`cp`; what earlier steps left to be written is written before, what it leaves afterwards."""
    shutil.rmtree(target, ignore_errors=True)
    os.sync()
    done, seconds, cpu = _timed(["cp", "-r", str(source), str(target)])
    done.check_returncode()
    os.sync()
    return Run(seconds, cpu, 0, "")


def _timed(command: Sequence[str]) -> tuple[subprocess.CompletedProcess, float, float]:
    """The finished process, the seconds it took, and those of CPU."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, seconds, after.ru_utime - used.ru_utime + after.ru_stime - used.ru_stime


def _resident(key: str = "VmRSS") -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


def _median(runs: Sequence[Mapping[str, float]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def _ratios(runs: Sequence[Mapping[str, float]], key: str) -> str:
    ratios = sorted(run[key] / run["cp"] for run in runs)
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def _nbytes(model: ModelConfig) -> int:
    return sum(array._places.size * array.dtype.itemsize for array in parameters(model).values())


def _dtype(path: names.Path) -> Any:
    return np.float32 if any(path[: len(start)] == start for start in FLOAT32) else ml_dtypes.bfloat16


if __name__ == "__main__":
    GIGABYTES = flags.DEFINE_float("gigabytes", 4.0, "size of the checkpoint", lower_bound=3.8)
    REPEATS = flags.DEFINE_integer("repeats", 3, "times each step is taken", lower_bound=1)
    run("convert", lambda directory: measure(directory, GIGABYTES.value, REPEATS.value), report)
