"""Convert checkpoints between Hugging Face's layout and this project's.

    python -m launch.convert --from_hf=DIR --out=CKPT             whole NVLM models; InternViT, Qwen2, Llama/Yi alone
    python -m launch.convert --to_hf=DIR --checkpoint=CKPT        CKPT: a workdir or one step of it

Nothing is written before everything has been checked, and the result appears under its name when it is complete.
"""

from __future__ import annotations

import sys
import time

from absl import app, flags, logging

from launch.command import run_command
from nvlm_jax.config import ConfigError
from nvlm_jax.convert import CheckpointError
from nvlm_jax.training.imported import export_hf, import_hf

FROM_HF = flags.DEFINE_string("from_hf", None, "Hugging Face directory to import")
OUT = flags.DEFINE_string("out", None, "with --from_hf: the workdir to make")
TO_HF = flags.DEFINE_string("to_hf", None, "Hugging Face directory to make")
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "with --to_hf: a run's workdir, or one step of it")
STEP = flags.DEFINE_integer("step", None, "with --to_hf: which step of the workdir; default: the newest")
PART = flags.DEFINE_enum("part", "", ["", "vision", "llm"], "with --to_hf: export this backbone alone")
DTYPE = flags.DEFINE_enum("dtype", None, ["float32", "bfloat16", "float16"], "with --to_hf: default: as stored")
DUMMY_HEADS = flags.DEFINE_integer(
    "dummy_heads", 0, "with --to_hf: heads of zeros added to each vision layer; nvidia/NVLM-D-72B has 7", lower_bound=0
)
LIKE = flags.DEFINE_string("like", None, "with --to_hf: a directory whose shards are cut in the same places")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; every option is a flag, --name=value")
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every step it takes
    importing, exporting = (FROM_HF.value, OUT.value), (TO_HF.value, CHECKPOINT.value)
    if (all(importing), any(exporting)) != (True, False) and (all(exporting), any(importing)) != (True, False):
        raise app.UsageError("give either --from_hf and --out, or --to_hf and --checkpoint")
    only_export = ("step", "part", "dtype", "dummy_heads", "like")
    if FROM_HF.value and (given := [f"--{name}" for name in only_export if flags.FLAGS[name].present]):
        raise app.UsageError(f"{', '.join(given)}: of an export, --to_hf; an import keeps what the source has")
    start = time.perf_counter()
    try:
        if FROM_HF.value:
            run = import_hf(FROM_HF.value, OUT.value)
        else:
            run = export_hf(
                CHECKPOINT.value,
                TO_HF.value,
                step=STEP.value,
                part=PART.value,
                dtype=DTYPE.value,
                dummy_heads=DUMMY_HEADS.value,
                like=LIKE.value,
            )
    except (CheckpointError, ConfigError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(f"{run.name} -> {OUT.value or TO_HF.value} in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    run_command(main)
