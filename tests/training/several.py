"""A small run as one of several processes: python -m tests.training.several WORKDIR [STEP_TO_PAUSE_AT]."""

import sys
import time
from pathlib import Path

from nvlm_jax.inputs.batch import Batch
from nvlm_jax.parallel import watch
from nvlm_jax.parallel.mesh import make_mesh
from nvlm_jax.parallel.processes import row_share, start_processes
from nvlm_jax.training.loop import train
from tests.tiny import make_batches, make_run_config

CONFIG = make_run_config("d", steps=8, checkpoint_every=3, trainable=("projector",))


def batches(start: int, index: int, count: int, pause: int, workdir: Path):
    """This process's rows of each batch; before step `pause` it says so and waits for a file named go, or its end."""
    rows = CONFIG.train.batch_rows // count
    for step, (batch, info) in enumerate(make_batches(CONFIG, start), start + 1):
        if step == pause:
            (workdir / f"paused-{index}").touch()
            while not (workdir / "go").exists():
                time.sleep(0.05)
        yield Batch(*(field[index * rows : (index + 1) * rows] for field in batch)), info


def main(workdir: Path, pause: int) -> int:
    start_processes()
    watch.DEAD_SECONDS = 4.0
    mesh = make_mesh(CONFIG.mesh)
    index, count = row_share(mesh, CONFIG.train.batch_rows)
    data = lambda start: batches(start, index, count, pause, workdir)  # noqa: E731
    outcome = train(CONFIG, workdir, data, ("number", "word"), mesh)
    return 0 if outcome.finished else watch.REQUEUE


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
