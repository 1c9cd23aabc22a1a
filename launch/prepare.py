"""Make datasets: ArrayRecord shards with an index.

    python -m launch.prepare --dataset=embedded --out=runs/data [--only=qa,text] [--seed=0] [--samples=1000]

Datasets that are complete and were made with the same settings are left as they are. Interrupted, it leaves nothing
that looks like a dataset; run again, it goes on with the first that is missing.
"""

from __future__ import annotations

from absl import app, flags
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from data_pipelines import embedded

DATASET = flags.DEFINE_enum("dataset", "embedded", ["embedded"], "which data to prepare")
OUT = flags.DEFINE_string("out", None, "directory that the datasets are written to", required=True)
ONLY = flags.DEFINE_list("only", list(embedded.DATASETS), "names of the datasets to make")
SEED = flags.DEFINE_integer("seed", 0, "seed of the generated data", lower_bound=0)
SAMPLES = flags.DEFINE_integer("samples", 0, "samples of each dataset; 0 = each one's own number", lower_bound=0)
PROCESSES = flags.DEFINE_integer("processes", None, "that generate; default: one for each core", lower_bound=0)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; every option is a flag, --name=value")
    unknown = [name for name in ONLY.value if name not in embedded.DATASETS]
    if unknown:
        raise app.UsageError(f"--only: no dataset {', '.join(unknown)}; there are {', '.join(embedded.DATASETS)}")
    with Progress(
        TextColumn("{task.description:12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    ) as bars:
        tasks = {name: bars.add_task(name, total=None, start=False) for name in ONLY.value}

        def progress(name: str, done: int, size: int) -> None:
            bars.start_task(tasks[name])
            bars.update(tasks[name], completed=done, total=size)

        made = embedded.prepare(OUT.value, ONLY.value, SEED.value, SAMPLES.value, PROCESSES.value, progress)
    kept = [name for name in ONLY.value if name not in made]
    print(f"{OUT.value}: made {', '.join(made) or 'nothing'}" + (f"; ready before: {', '.join(kept)}" if kept else ""))


if __name__ == "__main__":
    app.run(main)
