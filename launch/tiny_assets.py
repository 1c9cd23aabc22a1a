"""Remake the pretrained tiny encoder and tiny LLM that ship in nvlm_jax/assets/tiny.

    python -m launch.tiny_assets [--workdir=runs/assets]

Makes the data, trains the stages of LLM_STAGES, vision-1 and vision of configs/nvlm.py (each goes on where it was
stopped; finished ones are left as they are), and writes both parts as one directory in the released layout.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import tempfile

from absl import app, flags
from flax import nnx

from configs.nvlm import LLM_STAGES, TINY_ASSETS, TINY_DATA, get_config
from data_pipelines import embedded
from launch.command import run_command
from nvlm_jax.convert.write import write_hf
from nvlm_jax.training.checkpoints import restore_model

WORKDIR = flags.DEFINE_string("workdir", "runs/assets", "directory of the runs")
STAGES = (*LLM_STAGES, "vision-1", "vision")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; every option is a flag, --name=value")
    root = pathlib.Path(WORKDIR.value)
    root.mkdir(parents=True, exist_ok=True)  # before minutes of making data
    configs = {stage: get_config(f"stage={stage}") for stage in STAGES}
    names = dict.fromkeys(dataset["name"] for config in configs.values() for dataset in config.data.blend)
    embedded.prepare(TINY_DATA, list(names))
    for stage in STAGES:
        command = [f"--config=configs/nvlm.py:stage={stage}", f"--workdir={root / stage}"]
        for key in ("checkpoint", "vision", "llm"):
            if before := configs[stage].init[key]:
                command.append(f"--config.init.{key}={root / pathlib.Path(before).name}")
        if status := subprocess.run([sys.executable, "-m", "launch.train", *command]).returncode:
            sys.exit(f"launch.tiny_assets: exit status {status} from stage {stage}; the same command goes on")
    write(root / "vision", root / "llm", pathlib.Path(TINY_ASSETS))


def write(vision: pathlib.Path, llm: pathlib.Path, out: pathlib.Path) -> None:
    """Write the encoder of one run and the decoder of another to `out`, in the place of what is there."""
    _, reader = restore_model(vision)
    config, model = restore_model(llm)
    parameters = {}
    for source, part in ((reader, "vision"), (model, "decoder")):
        flat = nnx.to_flat_state(nnx.state(source, nnx.Param))
        parameters |= {path: value[...] for path, value in flat if path[0] == part}
    with tempfile.TemporaryDirectory(dir=out.parent) as directory:
        fresh = pathlib.Path(directory) / out.name
        write_hf(fresh, config.model, config.inputs, parameters, parts=("vision", "llm"))
        for file in fresh.iterdir():
            shutil.move(file, out / file.name)


if __name__ == "__main__":
    run_command(main)
