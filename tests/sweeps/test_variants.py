"""A sweep file becomes variants: names, differences, and every fault before anything runs."""

import json
import pathlib
import re

import pytest

from configs import resolved
from nvlm_jax.config import ConfigError, RunConfig, from_mapping, to_mapping
from nvlm_jax.sweeps import sweep_file, variants
from nvlm_jax.sweeps.sweep_file import SweepError
from nvlm_jax.sweeps.variants import load
from tests.sweeps.files import write_sweep

ROOT = pathlib.Path(__file__).parents[2]


def fault(path) -> str:
    with pytest.raises(SweepError) as error:
        load(path)
    return str(error.value)


def test_variants_are_named_by_what_differs_and_the_first_is_the_base(tmp_path):
    sweep = load(
        write_sweep(
            tmp_path / "tags.py",
            """
            def sweep(add):
                add("arch=d")
                add("arch=d", {"inputs.tile_tags": "none"}, seeds=(3,))
                if True:
                    add("arch=x", {"sft.train.steps": 9})
            """,
        )
    )
    assert [v.name for v in sweep.variants] == [
        "arch=d,tile_tags=1d,steps=4",
        "arch=d,tile_tags=none,steps=4",
        "arch=x,tile_tags=1d,steps=9",
    ]
    base, none, x = sweep.variants
    assert sweep.base is base and base.seeds == (0, 1) and none.seeds == (3,)
    assert none.stages["pretrain"].inputs.tile_tags == "none" == none.stages["sft"].inputs.tile_tags
    assert (x.stages["pretrain"].train.steps, x.stages["sft"].train.steps) == (4, 9)
    assert variants.differences(base, none) == {"inputs.tile_tags": ("1d", "none")}
    changed = variants.differences(base, x)
    assert changed["model.arch"] == ("d", "x") and changed["sft.train.steps"] == (4, 9)
    assert "train.steps" not in changed and "model.cross_attention" not in changed


def test_lists_of_datasets_make_a_readable_name(tmp_path):
    body = """
    def blend(share):
        return [{"name": n, "path": n, "weight": w} for n, w in (("qa", 1 - share), ("text", share))]

    def sweep(add):
        for share in (0.0, 0.25):
            add("", {"sft.data.blend": blend(share)})
    """
    names = [v.name for v in load(write_sweep(tmp_path / "blend.py", body)).variants]
    assert names == ["blend=qa-1+text-0", "blend=qa-0.75+text-0.25"]


def test_all_invalid_variants_are_named_at_once(tmp_path):
    text = fault(
        write_sweep(
            tmp_path / "bad.py",
            """
            def sweep(add):
                add("arch=d")
                add("arch=q")
                add("arch=d", {"inputs.tile_tgas": "none"})
                add("arch=d", {"inputs.tile_tags": "2d"})
                add("arch=d", {"model.cross_attention.every": 2})
                add("arch=d", {"sft.train.trainable": ("decoder", "cross_attention")})
                add("arch=d", {"sft.inputs.tile_tags": "none"})
                add("arch=d", seeds=(1, 1))
                add("arch=x", seeds=())
            """,
        )
    )
    assert "no variant was started" in text
    assert "variant arch=q, stage pretrain: configs/nvlm.py: 'arch=q' is none of" in text
    assert "inputs.tile_tgas: no such key; did you mean inputs.tile_tags?" in text
    assert "inputs.tile_tags: '2d' is none of none, 1d, grid, box" in text
    assert "model.cross_attention.every: cannot be set, for model.cross_attention: is None" in text
    assert "['cross_attention'] are no parts of this model" in text
    assert "inputs.tile_tags: '1d' there, 'none' now" in text  # another format in the second stage
    assert "seeds [1] are named twice" in text and "no seed; leave out seeds=" in text


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def sweep(add):\n    pass", "sweep(add) added no variant"),
        ("x = 1", "has no function sweep(add)"),
        ("1 / 0", "does not run: ZeroDivisionError"),
        ("STAGES = ()\ndef sweep(add):\n    add()", "STAGES: names no stage"),
        ("MATCH = 'time'\ndef sweep(add):\n    add()", "MATCH: 'time' is none of none, steps, samples, flops"),
        ("EVALUATIONS = {'e': {'stage': 'x'}}\ndef sweep(add):\n    add()", "EVALUATIONS['e']: stage 'x' is none of"),
        ("EVALUATIONS = {'e': {'limt': 1}}\ndef sweep(add):\n    add()", "EVALUATIONS['e']: no flag limt; there are"),
        ("def sweep(add):\n    add()\n    add()", "are the same configuration; use seeds= to repeat one"),
        ("def sweep(add):\n    add(label='a')\n    add('arch=x', label='a')", "two variants are called a"),
        ("def sweep(add):\n    add(base=True)\n    add('arch=x', base=True)", "one variant is the base"),
        ("def sweep(add):\n    add()\nSTAGES = 'sft'", "STAGES: 'sft'; a list such as ('pretrain', 'sft')"),
        ("def sweep(add):\n    add()\nSTAGES = ('a/b',)", "STAGES: ['a/b'] name folders"),
        ("def sweep(add):\n    add()\nSEEDS = 3", "bad.py:\n  SEEDS: 3; a list such as (0, 1, 2) would be right"),
        ("def sweep(add):\n    add()\nMETRIC = 3", "METRIC: 3; a name in results.json"),
        ("def sweep(add):\n    add()\nEVALUATIONS = ['a']", "EVALUATIONS: ['a']; such as {'evaluation': "),
        ("def sweep(add):\n    add()\nEVALUATIONS = {'a': 3}", "EVALUATIONS['a']: 3; flags of launch.evaluate"),
        ("def sweep(add):\n    add()\nEVALUATIONS = {'../a': {}}", "EVALUATIONS['../a']: names a folder: lower-case"),
        ("def sweep(add):\n    add()\nEVALUATIONS = {'sft': {}}", "EVALUATIONS['sft']: names a folder: lower-case"),
        ("def sweep(add):\n    add(seeds=3)", "bad.py, line 12: sweep(add): seeds: 3; a list such as (0, 1, 2)"),
        ("def sweep(add):\n    add({'a': 1})", "sweep(add): argument: {'a': 1}; a text such as 'arch=x'"),
        ("def sweep(add):\n    add('', ['a'])", "sweep(add): changes: ['a']; keys and values such as {"),
        ("def sweep(add):\n    add('', {'a': {1}})", "sweep(add): changes: {'a': {1}}; plain values would be right"),
        ("def sweep(add):\n    add(archh=1)", "line 12: sweep(add): TypeError: "),
        (
            "def get_config(argument):\n    return {}['x']\ndef sweep(add):\n    add()",
            "stage pretrain: {file}, line 12: get_config('stage=pretrain'): KeyError: 'x'",
        ),
        (
            "def get_config(argument):\n    return 3\ndef sweep(add):\n    add()",
            "get_config('stage=pretrain'): a ConfigDict of plain values would be right",
        ),
        ("def sweep(add):\n    add('', {'sft.optimizer.warmup_steps': 5})", "stage sft: optimizer.warmup_steps: 5 are"),
    ],
)
def test_what_is_no_sweep(tmp_path, body, message):
    path = write_sweep(tmp_path / "bad.py", body)
    assert message.replace("{file}", str(path)) in fault(path)


def test_duplicates_are_named_with_what_was_asked(tmp_path):
    text = fault(
        write_sweep(
            tmp_path / "twice.py",
            """
            def sweep(add):
                add("arch=x")
                add("arch=d")
                add("arch=x", {"inputs.tile_tags": "1d"})
            """,
        )
    )
    assert "(arch=x) and" in text and "(arch=x inputs.tile_tags='1d')" in text


def test_the_flags_that_evaluations_may_set_exist():
    source = (ROOT / "launch/evaluate.py").read_text()
    assert set(sweep_file.EVALUATE_FLAGS) < set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source))


def test_a_resolved_file_as_a_config(tmp_path):
    config = load(write_sweep(tmp_path / "one.py", "def sweep(add):\n    add()")).base.stages["sft"]
    (tmp_path / "sft.json").write_text(json.dumps(to_mapping(config)))
    assert resolved.get_config(str(tmp_path / "sft.json")).to_dict() == to_mapping(config)
    (tmp_path / "sft.json").write_text("[]")
    with pytest.raises(ConfigError, match="is no JSON file with a configuration"):
        resolved.get_config(str(tmp_path / "sft.json"))


def test_no_file():
    assert "no such file" in fault("configs/sweeps/nothing.py")


def test_the_smoke_sweep_is_architectures_by_tile_tags():
    sweep = load(ROOT / "configs/sweeps/smoke.py")
    names = [f"arch={arch},tile_tags={tags}" for arch in "dx" for tags in ("1d", "none")]
    assert [variant.name for variant in sweep.variants] == names and sweep.base.name == names[0]
    assert [list(v.stages) for v in sweep.variants] == [["pretrain"]] * 4


def test_anything_in_a_config_can_be_swept(tmp_path):
    body = """
    def sweep(add):
        add("arch=x")
        for every in (2, 4):
            add("arch=x", {"model.cross_attention.every": every})
        add("arch=x", {"model.cross_attention.gate_init": 0.5})
        add("arch=x", {"model.cross_attention.resampler_latents": 4})
        add("arch=d", {"model.projector_width": 64})
        add("arch=d", {"model.vision.patch_size": 8, "model.pixel_shuffle": 2})
        add("arch=d", {"model.vision.image_size": 96})
        add("arch=d", {"sft.inputs.max_tiles": 3, "sft.inputs.thumbnail": True})
        add("arch=h", {"sft.train.trainable": ("projector",), "sft.optimizer.gate_learning_rate_scale": 10.0})
        add("arch=h", {"sft.data.blend": [{"name": "qa", "path": "runs/data/qa"}]})
        add("arch=d", {"model.decoder.layers": 2, "model.unroll": 2})
    """
    assert len({v.name for v in load(write_sweep(tmp_path / "all.py", body)).variants}) == 12


def test_the_defaults_that_are_made_when_a_config_is_built_change_no_digest():
    """Directories of earlier sweeps bear these digests."""
    said = from_mapping(RunConfig, to_mapping(RunConfig()))
    assert variants.digest({"sft": RunConfig()}) == variants.digest({"sft": said}) == "6161cd6b5a6697f4"
    assert type(said.inputs.system) is str


@pytest.mark.parametrize(
    ("text", "metric"),
    [
        ("", "accuracy.vision"),
        ("EVALUATIONS = {}", "-loss"),
        ("EVALUATIONS = {'a': {'benchmarks': 'docvqa'}}", "-loss"),
        ("EVALUATIONS = {'a': {'benchmarks': ('docvqa',)}}\nMETRIC = 'evaluations.a.scores.docvqa'", None),
        ("METRIC = 'accuracy.by_type.word - accuracy.blind_by_type.word'", None),
        ("METRIC = '-train_seconds.sft'", None),
    ],
)
def test_metrics_that_results_can_have(tmp_path, text, metric):
    sweep = load(write_sweep(tmp_path / "it.py", f"def sweep(add):\n    add()\n{text}"))
    assert sweep.metric == (metric or text.rsplit("= ")[-1].strip("'"))


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("METRIC = 'accuracy.vison'", "accuracy.vision?"),
        ("METRIC = 'los'", "loss?"),
        ("METRIC = 'loss - accuracy.txt'", "accuracy.text?"),
        ("METRIC = 'evaluations.evaluaton.accuracy.text'", "evaluations.evaluation.accuracy.text?"),
        ("EVALUATIONS = {'a': {'benchmarks': 'docvqa'}}\nMETRIC = 'evaluations.a.scores.docvq'", "scores.docvqa?"),
        ("METRIC = 'train_seconds.stf'", "train_seconds.sft?"),
    ],
)
def test_metrics_that_results_cannot_have_are_refused_before_training(tmp_path, text, near):
    found = fault(write_sweep(tmp_path / "it.py", f"def sweep(add):\n    add()\n{text}"))
    assert "METRIC: results.json will have no " in found and near in found
