"""The paper's blends: every row is declared once, and can be prepared."""

import subprocess
import sys

import pytest

from configs.blends import pretrain, sft, text
from configs.blends.catalog import ROWS
from configs.blends.rows import Share, blend, shares
from data_pipelines.raw.entry import ask
from data_pipelines.raw.layouts import LAYOUTS, Annotated
from data_pipelines.records import write_dataset
from nvlm_jax.inputs.batch import Message, Sample

BLENDS = (pretrain.BLEND, sft.BLEND, text.BLEND)
PUBLIC = {"sharegpt", "orcamath", "magicoder"} | {
    r.name for r in ROWS.values() if isinstance(LAYOUTS[r.layout], Annotated)
}


def test_every_row_is_declared_and_every_declaration_is_a_row():
    assert {share.name for chosen in BLENDS for share in chosen} == set(ROWS)
    assert [len(chosen) for chosen in BLENDS] == [18, 85, 12]
    assert len(PUBLIC) == 16


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)
def test_a_row_can_be_prepared(row):
    assert row.layout in LAYOUTS and row.licence and row.source and row.title and row.task
    assert row.name == row.name.lower() and "/" not in row.name
    filled = dict.fromkeys(("question", "context", "choices"), "x")
    assert "{" not in ask(row.prompt, 1, **filled).content


def test_groups_follow_the_tables_and_weights_those_that_are_known():
    assert {share.group for share in sft.BLEND} == set(sft.TABLE)
    assert {s.name: s.weight for s in pretrain.BLEND if s.weight} == {
        "laion-115m": 0.579,
        "coco-captions": 0.02,
        "vqav2": 0.01,
    }
    assert (*sft.BLEND, *text.BLEND) == sft.WITH_TEXT


def test_a_blend_is_of_what_is_prepared_and_weights_add_up_to_one():
    made = blend(pretrain.BLEND, {"laion-115m": 10, "dvqa": 30, "ocrvqa": 10}, "runs/data")
    assert [d["name"] for d in made] == ["laion-115m", "dvqa", "ocrvqa"] and made[0]["path"] == "runs/data/laion-115m"
    assert [d["weight"] for d in made] == pytest.approx([0.579, 0.421 * 0.75, 0.421 * 0.25])
    with pytest.raises(ValueError, match="no dataset of the blend is prepared in runs/data"):
        blend(pretrain.BLEND, {}, "runs/data")
    with pytest.raises(ValueError, match=r"weights of \['b'\]"):
        shares({"g": ("a",)}, {"b": 1.0})
    assert shares({"g": ("a",)}) == (Share("a", "g"),)


def test_the_list_prints_every_row_and_its_state(tmp_path):
    write_dataset(tmp_path / "docvqa", [Sample("1", (Message("user", "a"), Message("assistant", "b")))])
    command = [sys.executable, "-m", "launch.prepare", "--list", f"--out={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(done) == 3 + 18 + 85 + 12
    assert "Table 6, SFT: 85 rows, 1 ready" in done
    (line,) = [line for line in done if " docvqa " in line]
    assert line.split()[:2] == ["document", "docvqa"] and line.endswith("ready, 1 samples")
    assert sum(line.endswith("absent") for line in done) == 114
