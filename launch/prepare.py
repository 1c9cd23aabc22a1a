"""Make datasets: ArrayRecord shards with an index and a report.

    python -m launch.prepare --dataset=embedded --out=runs/data [--only=qa,text] [--seed=0] [--samples=1000]
    python -m launch.prepare --dataset=docvqa --raw=raw/docvqa --out=runs/data
    python -m launch.prepare --dataset=mine --layout=json_conversations --raw=raw/mine --out=runs/data \
                             [--files=train.jsonl] [--fields=image:picture,answer:label] [--prompt="{question}"]
    python -m launch.prepare --dataset=vqav2 --raw=raw/vqav2 --out=runs/data --against=runs/data/docvqa-test
    python -m launch.prepare --dataset=vqav2 --raw=/mnt/raw/vqav2 --out=/mnt/data --runner=FlinkRunner \
                             --beam_options=--flink_master=localhost:8081
    python -m launch.prepare --meta=raw/meta.json --raw=raw --out=runs/data
    python -m launch.prepare --list [--out=runs/data]
    python -m launch.prepare --suggest_budgets --config=configs/nvlm.py:arch=d,size=tiny,stage=sft

The first makes the generated datasets, the second any row of the paper's tables (`configs/blends`), the third a dataset
of your own in one of the layouts of `data_pipelines/raw/layouts.py`, the fourth leaves out what a benchmark has, the
fifth makes the shards on a cluster of Apache Beam, the sixth all datasets of an InternVL `meta.json`, the seventh
prints every row and its state, the last tries budgets of a packed row on a run's blend. Datasets that are complete and
were made with the same settings are left as they are. Interrupted, it leaves nothing that looks like a dataset; run
again, it goes on with the first shard that is missing, and all shards have the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import pathlib
import sys
from collections.abc import Iterator

from absl import app, flags
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from configs.blends import pretrain, sft, text
from configs.blends.catalog import ROWS
from data_pipelines import budgets, embedded, report
from data_pipelines.beam import BeamError
from data_pipelines.blend import PlanError
from data_pipelines.loader import open_blend, open_sources
from data_pipelines.plan import Budgets
from data_pipelines.prepare import SHARD, PrepareError, made_shards, prepare
from data_pipelines.raw.entry import LayoutError, Spec
from data_pipelines.raw.internvl import meta_specs
from data_pipelines.records import DatasetError, read_manifest
from launch.blends import with_blend
from launch.command import run_command
from launch.config_flag import define_config, run_config
from nvlm_jax.config import ConfigError

DATASET = flags.DEFINE_string("dataset", "embedded", "`embedded`, a row of the paper's tables, or a name with --layout")
OUT = flags.DEFINE_string("out", None, "directory that the datasets are written to")
ONLY = flags.DEFINE_list("only", list(embedded.DATASETS), "embedded: names of the datasets to make")
SEED = flags.DEFINE_integer("seed", 0, "embedded: seed of the generated data", lower_bound=0)
SAMPLES = flags.DEFINE_integer("samples", 0, "embedded: of each dataset; 0 = each one's own number", lower_bound=0)
PROCESSES = flags.DEFINE_integer("processes", None, "that work; default: one for each core", lower_bound=0)
RAW = flags.DEFINE_string("raw", None, "directory of the raw dataset")
META = flags.DEFINE_string("meta", None, "an InternVL meta.json, whose paths are below --raw")
LAYOUT = flags.DEFINE_string("layout", None, "how the raw dataset is laid out; default: as its row says")
FILES = flags.DEFINE_string("files", None, "glob of the raw files to read; default: the layout's or the row's own")
SPLIT = flags.DEFINE_string("split", None, "of the raw dataset; default: train")
FIELDS = flags.DEFINE_list("fields", [], "what the layout reads and the raw field it is in: image:picture,answer:label")
PROMPT = flags.DEFINE_string("prompt", None, "the user's text, with {question}, {choices}, {context} filled in")
SHARD_RECORDS = flags.DEFINE_integer("shard_records", SHARD, "raw records of a shard", lower_bound=1)
TOKENIZER = flags.DEFINE_string("tokenizer", "", "directory with tokenizer.json: adds token counts to the index")
AGAINST = flags.DEFINE_list("against", [], "prepared benchmarks; what holds their prompts or images is left out")
MAX_BAD_SHARE = flags.DEFINE_float("max_bad_share", 0.05, "above this share of bad samples no dataset is made", 0, 1)
RUNNER = flags.DEFINE_string("runner", "", "of Apache Beam: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner")
BEAM_OPTIONS = flags.DEFINE_list("beam_options", [], "Beam's own options: --project=mine,--region=us-central1")
SUGGEST_BUDGETS = flags.DEFINE_bool("suggest_budgets", False, "print what rows of other budgets would waste")
CONFIG = define_config("with --suggest_budgets: the run")
LIST = flags.DEFINE_bool("list", False, "print every row of the paper's tables and its state")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; every option is a flag, --name=value")
    if LIST.value:
        return list_rows()
    if SUGGEST_BUDGETS.value:
        return suggest_budgets()
    if not OUT.value:
        raise app.UsageError("--out is missing: the directory that the datasets are written to")
    try:
        if DATASET.value == "embedded" and not META.value:
            _prepare_embedded()
        else:
            for spec in _specs():
                _prepare_raw(spec)
    except (BeamError, DatasetError, LayoutError, PrepareError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


def _specs() -> list[Spec]:
    if not RAW.value:
        raise app.UsageError("--raw is missing: the directory of the raw dataset")
    if META.value:
        return meta_specs(RAW.value, META.value)
    if DATASET.value in ROWS:
        return [_with_flags(Spec.of(ROWS[DATASET.value]))]
    if not LAYOUT.value:
        near = ", ".join(difflib.get_close_matches(DATASET.value, ROWS)) or "none is near"
        raise app.UsageError(
            f"--dataset: {DATASET.value!r} is no row of the paper's tables ({near}); give its --layout"
        )
    return [_with_flags(Spec(DATASET.value, LAYOUT.value, task=DATASET.value))]


def list_rows() -> None:
    """Print every row of the tables: its group, layout, task, licence, weight, and what there is of it in --out."""
    blends = (("Table 4, pretraining", pretrain), ("Table 6, SFT", sft), ("text-only SFT", text))
    for title, module in blends:
        states = {share.name: _state(share.name) for share in module.BLEND}
        ready = sum(state.startswith("ready") for state in states.values())
        print(f"{title}: {len(module.BLEND)} rows, {ready} ready")
        for share in module.BLEND:
            row = ROWS[share.name]
            weight = "by size" if share.weight is None else f"{share.weight:g}"
            columns = ((share.group, 12), (row.name, 22), (row.layout, 20), (row.licence, 16), (weight, 8))
            print("  " + "".join(f"{value:{width}}" for value, width in columns) + states[share.name])


def suggest_budgets() -> None:
    """Print, for the run of --config and for rows of half to twice as many tokens, the budgets that waste least."""
    if CONFIG.value is None:
        raise app.UsageError("--suggest_budgets needs the run: --config=configs/nvlm.py:arch=d,size=72b,stage=sft")
    try:
        config = run_config(with_blend(CONFIG.value))
        blend, lengths = open_blend(config, open_sources(config), limited=False)
        draws = budgets.draw(blend, lengths)
        now = config.data
        found = [budgets.padding(draws, Budgets(now.tokens_per_row, now.tiles_per_row, now.pack_window))]
        for scale in (0.5, 1, 2):
            with contextlib.suppress(PlanError):  # none fits half a row
                found.append(budgets.suggest(draws, round(now.tokens_per_row * scale), now.pack_window))
    except (ConfigError, DatasetError, PlanError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(f"{len(draws[0]):,} draws: {draws[0].mean():.0f} tokens and {draws[1].mean():.2f} tiles a sample")
    print("tokens a row, tiles a row: token padding, tile padding, samples longer than a row")
    for place, each in enumerate(found):
        note = "  (now)" if place == 0 else ""
        losses = f"{each.tokens:6.1%} {each.tiles:6.1%} {each.left_out:6.2%}"
        print(f"{each.budgets.tokens_per_row:7,} {each.budgets.tiles_per_row:4}: {losses}{note}")
    best = min(found, key=budgets.cost).budgets
    print(f"--config.data.tokens_per_row={best.tokens_per_row} --config.data.tiles_per_row={best.tiles_per_row}")


def _state(name: str) -> str:
    if not OUT.value:
        return "-"
    path = pathlib.Path(OUT.value) / name
    try:
        return f"ready, {read_manifest(path).samples:,} samples"
    except DatasetError:
        shards = made_shards(path)
    return "absent" if shards is None else f"preparing, {shards[0]} of {shards[1]} shards"


def _with_flags(spec: Spec) -> Spec:
    """The spec, changed by the flags that were given."""
    unpaired = [pair for pair in FIELDS.value if ":" not in pair]
    if unpaired:
        raise app.UsageError(f"--fields: {unpaired[0]!r} is no pair; image:picture,answer:label would be right")
    fields = dict(spec.fields) | dict(pair.split(":", 1) for pair in FIELDS.value)
    given = {"layout": LAYOUT.value, "files": FILES.value, "split": SPLIT.value, "prompt": PROMPT.value}
    changed = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(spec, fields=fields, split_chosen=SPLIT.value is not None, **changed)


def _prepare_raw(spec: Spec) -> None:
    with _bars() as bars:
        task = bars.add_task(spec.name, total=None)
        made = prepare(
            spec,
            RAW.value,
            OUT.value,
            shard_records=SHARD_RECORDS.value,
            processes=PROCESSES.value,
            tokenizer=TOKENIZER.value,
            against=AGAINST.value,
            max_bad_share=MAX_BAD_SHARE.value,
            runner=RUNNER.value,
            beam_options=BEAM_OPTIONS.value,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
            say=lambda text: bars.print(text, soft_wrap=True, markup=False, highlight=False),
        )
    print(report.summary(made))
    print(f"{pathlib.Path(OUT.value) / spec.name}: {report.REPORT} has examples, {report.FAULTS} every id")


def _prepare_embedded() -> None:
    unknown = [name for name in ONLY.value if name not in embedded.ALL]
    if unknown:
        raise app.UsageError(f"--only: no dataset {', '.join(unknown)}; there are {', '.join(embedded.ALL)}")
    with _bars() as bars:
        tasks = {name: bars.add_task(name, total=None, start=False) for name in ONLY.value}

        def progress(name: str, done: int, size: int) -> None:
            bars.start_task(tasks[name])
            bars.update(tasks[name], completed=done, total=size)

        made = embedded.prepare(OUT.value, ONLY.value, SEED.value, SAMPLES.value, PROCESSES.value, progress)
    kept = [name for name in ONLY.value if name not in made]
    print(f"{OUT.value}: made {', '.join(made) or 'nothing'}" + (f"; ready before: {', '.join(kept)}" if kept else ""))


@contextlib.contextmanager
def _bars() -> Iterator[Progress]:
    with Progress(
        TextColumn("{task.description:12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    ) as bars:
        yield bars


if __name__ == "__main__":
    run_command(main)
