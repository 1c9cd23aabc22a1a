"""The planner against hand counts, and what it says of plans that cannot be."""

import dataclasses
from types import SimpleNamespace

import jax
import pytest
from jax.sharding import Mesh

from configs.nvlm import get_config
from nvlm_jax.config import ConfigError, MeshConfig, RunConfig, from_mapping
from nvlm_jax.models.flops import executed_flops, keys_per_tile, padded_work, useful_flops
from nvlm_jax.parallel.mesh import make_mesh, parse_mesh
from nvlm_jax.planning import page
from nvlm_jax.planning.chips import CHIPS, GIB, parse_topology
from nvlm_jax.planning.compile import Compiled, _exceeded, _held, compile_for, tpu_devices
from nvlm_jax.planning.estimate import held_by_hand
from nvlm_jax.planning.hlo import Collective
from nvlm_jax.planning.plan import (
    Workload,
    added_up,
    adds_up,
    axis_bandwidth,
    make_plan,
    met_work,
    useful_work,
)
from nvlm_jax.planning.search import candidates, chip_hours
from tests.tiny import make_run_config

KEYS = {
    "chips", "hbm_gib", "hbm_limit_gib", "fits", "step_seconds", "mfu_overlap", "mfu_no_overlap", "binding",
    "compile_seconds", "flops_by_module", "collective_bytes_by_axis", "tokens_per_second", "tiles_per_second",
    "loader_mib_per_second_per_host", "days", "chip_hours",
}  # fmt: skip
LOAD = Workload(text=16, tiles=2, tag_tokens=1)


def run(arch: str, layers: int = 2, rows: int = 8, **mesh: int) -> RunConfig:
    """Few small layers, quick to compile, between large embeddings, so that memory is mostly parameters'."""
    config = make_run_config(arch, batch_rows=rows)
    decoder = dataclasses.replace(config.model.decoder, layers=layers, width=256, vocab_size=16384)
    model = dataclasses.replace(config.model, decoder=decoder, remat="full", dtype="bfloat16", frozen_dtype="bfloat16")
    data = dataclasses.replace(config.data, tokens_per_row=64, tiles_per_row=4)
    return dataclasses.replace(config, model=model, data=data, mesh=MeshConfig(**({"fsdp": 4} | mesh)))


@pytest.fixture(scope="module")
def slice_of_four() -> list:
    pytest.importorskip("libtpu")
    return tpu_devices(CHIPS["v5p"], "2x2x1")


@pytest.fixture(scope="module")
def compiled(slice_of_four) -> tuple[RunConfig, Mesh, Compiled]:
    config = run("d")
    mesh = make_mesh(config.mesh, slice_of_four)
    return config, mesh, compile_for(config, mesh)


@pytest.mark.slow
def test_the_compiled_memory_is_that_of_a_hand_count(compiled):
    config, mesh, found = compiled
    by_hand = held_by_hand(config, mesh)
    assert found.memory["parameters"] == by_hand.parameters and found.memory["optimizer"] >= 2 * by_hand.parameters
    assert found.used == pytest.approx(by_hand.total, rel=0.15)


@pytest.mark.slow
def test_the_compiled_memory_of_activations_is_that_of_a_hand_count(slice_of_four):
    """Many rows, of whose gated and decoder layers the products are kept: half of the memory is activations'."""
    config = run("x", rows=512)
    model = dataclasses.replace(config.model, remat="dots", decoder=dataclasses.replace(config.model.decoder, ff=1024))
    config = dataclasses.replace(config, model=model)
    mesh = make_mesh(config.mesh, slice_of_four)
    by_hand = held_by_hand(config, mesh)
    assert by_hand.kept > by_hand.total / 2
    assert compile_for(config, mesh).used == pytest.approx(by_hand.total, rel=0.15)


def test_what_is_kept_for_the_backward_pass():
    """Of each layer of 2 rows of 64 places a device, in bfloat16."""
    devices = jax.devices()[:4]

    def kept(remat: str) -> float:
        config = run("d")
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, remat=remat))
        return held_by_hand(config, make_mesh(config.mesh, devices)).kept

    d, places = run("d").model.decoder, 2 * 64
    products = (d.heads + 2 * d.kv_heads) * d.head_dim + 2 * d.ff + 2 * d.width
    assert kept("dots") - kept("full") == d.layers * places * products * 2
    assert kept("none") > kept("dots")


def test_the_peak_of_what_is_held():
    """TPUs' sum of temporary buffers counts some of them twice, CPUs' peak leaves them out."""
    sizes = {"argument": 10, "output": 5, "alias": 4, "temp": 30, "generated_code": 1}
    found = SimpleNamespace(peak_memory_in_bytes=20, **{f"{name}_size_in_bytes": n for name, n in sizes.items()})
    assert _held(found, "tpu") == 21 and _held(found, "cpu") == 42


@pytest.mark.slow
def test_a_plan_says_all_it_should(compiled, tmp_path):
    config, mesh, found = compiled
    plan = make_plan(config, CHIPS["v5p"], mesh, found, LOAD)
    assert set(plan) >= KEYS and plan["fits"] and plan["chips"] == 4
    assert 0 < plan["mfu_no_overlap"] <= plan["mfu_overlap"] < 1
    # The head's weights are gathered in bfloat16, and their gradient is scattered.
    weights = config.model.decoder.width * config.model.decoder.vocab_size * 2
    assert plan["collective_bytes_by_axis"]["fsdp"] > 2 * weights * 3 / 4
    page.write_page(tmp_path / "plan.html", plan)
    text = (tmp_path / "plan.html").read_text()
    assert config.name in text and "temporary" in text and "http" not in text


@pytest.mark.parametrize("arch", ["d", "x", "h"])
def test_planned_flops_are_the_closed_form(arch):
    config = run(arch)
    plan = by_hand(config)
    work, samples = useful_work(config, LOAD)
    assert plan["flops_by_module"] == useful_flops(config.model, config.train.trainable, work)
    assert samples == pytest.approx(8 * 0.98 * min(64 / (work.tokens / samples), 4 / 2))
    padded = padded_work(config.model, 8, 64, 4)
    assert plan["executed_flops_by_module"] == executed_flops(config.model, config.train.trainable, padded)


def test_kernels_compute_the_blocks_that_meet():
    """Rows of 2,048 places in blocks of 512, by hand: samples of 1,024 places take 1 + 2 blocks, twice a row."""
    config = run("x")
    data = dataclasses.replace(config.data, tokens_per_row=2048, tiles_per_row=64)
    config = dataclasses.replace(config, data=data)
    work = padded_work(config.model, 8, 2048, 64)
    load = Workload(text=1024 - 32, tiles=32, tag_tokens=1)
    found = met_work(config, work, load)
    assert found.self_pairs == 8 * (2 * 3) * 512**2
    # Four keys a tile: the 128 keys of either sample lie in the one block of 256 keys.
    assert keys_per_tile(config.model) == 4 and found.cross_pairs == 8 * 4 * 512**2
    assert found.tiles == work.tiles and found.self_pairs < work.self_pairs
    plan = by_hand(dataclasses.replace(config, model=dataclasses.replace(config.model, remat="none")))
    assert sum(plan["flops_by_module"].values()) < sum(plan["executed_flops_by_module"].values())


def test_more_work_takes_more(monkeypatch):
    """Memory, time and FLOPs grow with the batch and with depth."""
    for smaller, larger in ((run("h"), run("h", rows=16)), (run("h"), run("h", layers=8))):
        one, two = by_hand(smaller), by_hand(larger)
        for key in ("hbm_gib", "step_seconds"):
            assert one[key] < two[key]
        assert sum(one["flops_by_module"].values()) < sum(two["flops_by_module"].values())


def test_a_step_that_does_not_fit_says_what_would_help():
    config = run("d", data=2, fsdp=2)
    of_temporaries = "total memory required for HLO temporaries (20.50G) exceeds available HBM (15.75G)."
    assert _exceeded(f"... Ran out of memory on HBM, the {of_temporaries}", 2 * GIB) == (22.5 * GIB, 15.75 * GIB)
    assert _exceeded("Used 1.50T of 31.25G hbm", 0)[0] == 1536 * GIB
    used = _exceeded("... Ran out of memory in memory space hbm. Used 120.50G of 95.74G hbm.", 2 * GIB)
    assert used == (120.5 * GIB, 95.74 * GIB)
    memory = {"parameters": 30e9, "optimizer": 0.0, "frozen": 0.0, "batch": 0.0, "temporary": 90e9}
    plan = on_tpu(config, Compiled(memory, *used, False, [], 1.0))
    assert not plan["fits"] and "120.5 GiB of 95.7: 24.8 too much" in plan["advice"]
    assert "--config.train.accumulation=2 (2 rows a device now)" in plan["advice"] and "data=1" in plan["advice"]
    memory |= {"optimizer": 90e9}
    assert "about 8 such chips would hold them" in on_tpu(config, Compiled(memory, *used, False, [], 1.0))["advice"]


def test_a_refused_step_sends_nothing():
    """There is no program to count it in."""
    memory = {"parameters": 30e9, "optimizer": 0.0, "frozen": 0.0, "batch": 0.0, "temporary": 90e9}
    plan = on_tpu(run("d"), Compiled(memory, 120e9, 100e9, False, [], 1.0))
    assert dict(page.lines(plan))["step"].endswith("nothing sent: the compiler refused it")
    too_large = on_tpu(run("d"), Compiled(memory, 120e9, None, True, [], 1.0))
    assert not too_large["fits"] and "refused" not in dict(page.lines(too_large))["step"]


def test_gathers_that_add_up_are_named():
    """As XLA has them for one group of all of 64 chips or more; data=2 has two groups."""
    chip, parts = CHIPS["v5p"], [Collective("all-reduce", "fsdp", 4e9, 2.0), Collective("all-gather", "fsdp", 1e9, 1.0)]
    one, two = ({"fsdp": 128}, 128), ({"data": 2, "fsdp": 64}, 128)
    one, two = (SimpleNamespace(shape=shape, size=size) for shape, size in (one, two))

    def advice(mesh, found):
        return added_up(mesh, chip, Compiled({}, 0.0, None, True, found, 0.0))

    assert "8.0 of the 9.0 GB along fsdp are all-reduces" in advice(one, parts)
    assert "--mesh=data=2,fsdp=64 does not" in advice(one, parts)
    few = SimpleNamespace(shape={"fsdp": 32}, size=32)
    assert advice(one, parts[1:]) == advice(two, parts) == advice(few, parts) == ""
    assert adds_up(one, chip) and not adds_up(one, CHIPS["h100"]) and not adds_up(two, chip)
    assert not adds_up(few, chip)


def test_search_ranks_what_fits_and_divides():
    devices = jax.devices()
    found = candidates(run("d"), CHIPS["h100"], devices)
    assert all(c.held <= CHIPS["h100"].hbm_bytes for c in found)
    assert [c.seconds for c in found] == sorted(c.seconds for c in found)
    assert {c.config.mesh.tensor for c in found} == {1, 2}  # two key/value heads
    hours = chip_hours(run("d"), CHIPS["h100"], devices)
    assert hours == pytest.approx(8 * run("d").train.steps * found[0].seconds / 3600)
    with pytest.raises(ConfigError, match="no mesh of 8 v5e chips holds nvlm-d-72b-sft"):
        candidates(from_mapping(RunConfig, get_config("arch=d,size=72b,stage=sft").to_dict()), CHIPS["v5e"], devices)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v5p:3x3x3", r"there is no v5p:3x3x3; v5p slices are 2x2x1, 2x2x2"),
        ("v6e:4x4x4", r"there is no v6e:4x4x4; v6e slices are 2x2, 2x4"),
        ("v5p", "names no size"),
        ("h100:12", r"h100:8, h100:128"),
        ("a100:8", "chips are v4, v5e, v5p, v6e, tpu7x, h100, h200, b200"),
    ],
)
def test_topologies_that_do_not_exist(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_topology(text)


def test_topologies():
    assert parse_topology("v5p:4x4x8") == (CHIPS["v5p"], "4x4x8", 128)
    assert parse_topology("v5p:8x12x16")[2] == 1536
    assert parse_topology("h100:128") == (CHIPS["h100"], "", 128)


def test_without_libtpu(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install libtpu==0\.0\.42\.1"):
        tpu_devices(CHIPS["v5p"], "2x2x1")


def test_bandwidth_follows_the_torus(slice_of_four):
    mesh = make_mesh(parse_mesh("fsdp=2,tensor=2"), slice_of_four)
    one = axis_bandwidth(mesh, "fsdp", CHIPS["v5p"])
    assert one == 2 * 90e9 and axis_bandwidth(mesh, "fsdp+tensor", CHIPS["v5p"]) == 2 * one


def test_an_axis_may_be_part_of_a_torus_dimension():
    pytest.importorskip("libtpu")
    mesh = make_mesh(parse_mesh("fsdp=64,tensor=4"), tpu_devices(CHIPS["v6e"], "16x16"))
    for group in mesh.devices.reshape(64, 4):  # neighbours, on one line
        (x, y, _), (u, v, _) = group[0].coords, group[-1].coords
        assert (u - x, v - y) in [(3, 0), (0, 3)]


def test_several_slices_are_crossed_by_data_alone():
    pytest.importorskip("libtpu")
    devices = tpu_devices(CHIPS["v5e"], "2x2", slices=2)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), devices)
    slices = [[device.slice_index for device in part.flat] for part in mesh.devices]
    assert slices == [[0] * 4, [1] * 4]
    assert axis_bandwidth(mesh, "data", CHIPS["v5e"]) == CHIPS["v5e"].network_bandwidth
    with pytest.raises(ConfigError, match=r"data 1 does not divide by the 2 slices .* data=2 would fit"):
        make_mesh(MeshConfig(fsdp=8), devices)


def by_hand(config: RunConfig):
    """A plan for GPUs, whose memory is counted by hand, without a compilation."""
    mesh = make_mesh(config.mesh, jax.devices()[:4])
    return make_plan(config, CHIPS["h100"], mesh, Compiled({}, 0.0, None, True, [], 0.0), LOAD)


def on_tpu(config: RunConfig, compiled: Compiled):
    """A plan for TPUs with this in place of what their compiler says."""
    return make_plan(config, CHIPS["v5p"], make_mesh(config.mesh, jax.devices()[:4]), compiled, LOAD)
