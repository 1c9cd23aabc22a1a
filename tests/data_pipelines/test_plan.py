import pickle

import numpy as np
import pyarrow as pa
import pytest

from data_pipelines import plan as plan_module
from data_pipelines.blend import Blend, PlanError
from data_pipelines.index import TOO_LONG
from data_pipelines.plan import Budgets, Plan, packed_windows, plan_key, plan_rows, write_plan
from tests.data_pipelines.test_row_packing import mix


def plan(rows, seed=0, tokens_per_row=8192, tiles_per_row=26, lengths=None, directory=None, window=256):
    lengths = lengths or [mix(700, 1), mix(300, 2)]
    blend = Blend(["a", "b"], [len(t) for t, _ in lengths], [0.8, 0.2], seed)
    return plan_rows(blend, lengths, rows, Budgets(tokens_per_row, tiles_per_row, window), ("word",), directory)


def test_a_longer_run_begins_with_the_rows_of_a_shorter_one():
    short, long = plan(100), plan(400)
    assert len(short) == 100 and len(long) == 400
    assert [short.row(i) for i in range(100)] == [long.row(i) for i in range(100)]
    assert [plan(100, seed=1).row(i) for i in range(100)] != [short.row(i) for i in range(100)]


def test_the_rows_of_a_plan_hold_every_draw_once_and_report_their_fill():
    lengths = [mix(700, 1), mix(300, 2)]
    p = plan(400, lengths=lengths)
    order = [pair for i in range(400) for pair in p.row(i)]
    # Windows that lie wholly within the 400 rows hold exactly what the blend drew.
    blend = Blend(["a", "b"], [700, 300], [0.8, 0.2], 0)
    drawn = list(zip(*(x.tolist() for x in blend.take(1024)), strict=True))
    assert sorted(order[:1024]) == sorted(drawn)
    used = sum(int(lengths[d][0][s]) for d, s in p.row(7)), sum(int(lengths[d][1][s]) for d, s in p.row(7))
    assert p.fill(7, 8) == (used[0] / 8192, used[1] / 26)
    assert 0.9 < max(p.fill()) <= 1 and not p.dropped and p.groups == ("word",)
    with pytest.raises(IndexError, match="row 400 of a plan of 400"):
        p.row(400)


def test_samples_over_the_budget_are_named_and_the_rest_goes_on():
    tokens, tiles = np.full(50, 100, np.int32), np.zeros(50, np.int32)
    tokens[[3, 40]] = 600
    p = plan(60, tokens_per_row=512, tiles_per_row=0, lengths=[(tokens, tiles), (tokens[:3], tiles[:3])])
    assert {name: lost.tolist() for name, lost in p.dropped.items()} == {"a": [3, 40]}
    assert all(s not in (3, 40) for i in range(60) for d, s in p.row(i) if d == 0)
    assert p.fill()[1] == 1.0


def test_a_dataset_that_fits_no_row_is_an_error_that_names_it():
    far = (np.full(5, 600, np.int32), np.full(5, 2, np.int32))
    with pytest.raises(PlanError, match=r"'b': no sample fits .*tokens_per_row=512 .*tiles_per_row=26.* 600 tokens"):
        plan(5, tokens_per_row=512, lengths=[(np.full(5, 9, np.int32), np.zeros(5, np.int32)), far])
    cut = (np.full(5, TOO_LONG, np.int32), np.zeros(5, np.int32))  # as they are measured where no turn fits
    with pytest.raises(PlanError, match=r"fits .*; the first turn of each of its 5 samples is longer") as error:
        plan(5, tokens_per_row=512, lengths=[(np.full(5, 9, np.int32), np.zeros(5, np.int32)), cut])
    assert "2147483647" not in str(error.value)
    with pytest.raises(PlanError, match=r"data\.tokens_per_row=0"):
        plan(5, tokens_per_row=0)


@pytest.fixture
def small_batches(monkeypatch):
    """Arrow batches of so few rows that a small plan has several."""
    monkeypatch.setattr(plan_module, "BATCH", 64)


def rows_of(p):
    return [(p.row(i), p.lengths(i)) for i in range(len(p))]


def test_a_kept_plan_is_opened_and_a_longer_one_takes_its_place(tmp_path, small_batches):
    in_memory = plan(300)
    kept = plan(200, directory=tmp_path)
    (file,) = tmp_path.glob("plan-*.arrow")
    before = file.stat().st_mtime_ns
    assert rows_of(kept) == rows_of(in_memory)[:200]
    assert rows_of(plan(90, directory=tmp_path)) == rows_of(in_memory)[:90] and file.stat().st_mtime_ns == before
    assert rows_of(plan(300, directory=tmp_path)) == rows_of(in_memory) and file.stat().st_mtime_ns != before
    assert rows_of(kept) == rows_of(in_memory)[:200]  # opened before, and still read
    assert [f.name for f in tmp_path.iterdir()] == [file.name]


def test_a_plan_is_one_line_a_row_that_others_can_read(tmp_path, small_batches):
    p = plan(130, directory=tmp_path)
    (file,) = tmp_path.glob("plan-*.arrow")
    table = pa.ipc.open_file(file).read_all()
    assert table.num_rows == 130 and table.schema.names == ["row"]
    assert [(s["dataset"], s["sample"]) for s in table["row"][129].as_py()] == p.row(129)
    again = pickle.loads(pickle.dumps(p))
    assert rows_of(again) == rows_of(p) and again.groups == ("word",)


def test_blocks_are_the_rows_and_counts_their_samples(small_batches):
    p = plan(200)
    for first, last in ((0, 200), (30, 150), (64, 128), (5, 6), (7, 7)):
        pairs, segments = [], []
        for (dataset, sample, _, _), lengths in p.blocks(first, last):
            pairs += zip(dataset.tolist(), sample.tolist(), strict=True)
            segments += lengths.tolist()
        expected = [p.row(i) for i in range(first, last)]
        assert pairs == [pair for row in expected for pair in row] and segments == [len(row) for row in expected]
    assert p.counts().tolist() == [sum(d == k for i in range(200) for d, _ in p.row(i)) for k in (0, 1)]
    assert sum(p.fill(i, i + 1)[0] for i in range(200)) / 200 == pytest.approx(p.fill()[0])


def test_the_key_follows_all_that_rows_depend_on():
    lengths = [mix(70, 1), mix(30, 2)]
    budgets = Budgets(8192, 26, 64)

    def key(names=("a", "b"), weights=(1, 3), seed=0, lengths=lengths, budgets=budgets):
        return plan_key(Blend(names, [len(t) for t, _ in lengths], weights, seed), lengths, budgets)

    tokens = lengths[0][0].copy()
    tokens[7] += 1
    others = [
        key(names=("a", "c")),
        key(weights=(1, 2)),
        key(seed=1),
        key(lengths=[(tokens, lengths[0][1]), lengths[1]]),
        *(key(budgets=budgets._replace(**{field: 65})) for field in budgets._fields),
    ]
    assert key() == key(weights=(2, 6)) and len({key(), *others}) == len(others) + 1


def test_one_epoch_is_written_whole(small_batches):
    lengths = mix(1000)
    blend, budgets = Blend(["a"], [1000], [1.0], 0), Budgets(8192, 26, 256)
    out = pa.BufferOutputStream()
    write_plan(out, packed_windows(blend, [lengths], budgets, draws=1000), None, blend.names, budgets)
    p = Plan(out.getvalue())
    assert sorted(s for i in range(len(p)) for _, s in p.row(i)) == list(range(1000))
    with pytest.raises(ValueError, match="has no 10000"):
        Plan(out.getvalue(), 10_000)
