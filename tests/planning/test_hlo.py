"""Collectives read from HLO text: kinds, groups in every notation, loops taken as often as they run."""

import pytest

from nvlm_jax.planning.hlo import bytes_by_axis, collectives, size_of

AXES, SIZES = ("data", "fsdp", "tensor", "context"), (1, 2, 2, 2)

PROGRAM = """HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%all-reduce-scatter.1 (input.1: bf16[32,32]) -> bf16[16,32] {
  %input.1 = bf16[32,32]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.7 = bf16[32,32]{1,0} all-reduce(%input.1), channel_id=9, replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add
  ROOT %slice = bf16[16,32]{1,0} dynamic-slice(%all-reduce.7), dynamic_slice_sizes={16,32}
}

%inner_condition (p.1: (s32[], bf16[8,8])) -> pred[] {
  %limit.1 = s32[]{:T(128)} constant(3)
  %p.1 = (s32[], bf16[8,8]) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  ROOT %lt.1 = pred[] compare(%i.1, %limit.1), direction=LT
}

%inner_body (p.2: (s32[], bf16[8,8])) -> (s32[], bf16[8,8]) {
  %p.2 = (s32[], bf16[8,8]) parameter(0)
  %g.1 = bf16[16,8]{1,0} all-gather(%p.2), channel_id=1, replica_groups=mesh['a'=2,'b'=4] {'a'}, dimensions={0}
  ROOT %t.2 = (s32[], bf16[8,8]) tuple(%p.2)
}

%outer_body (p.3: (s32[], bf16[8,8])) -> (s32[], bf16[8,8]) {
  %p.3 = (s32[], bf16[8,8]) parameter(0)
  %w.1 = (s32[], bf16[8,8]) while(%p.3), condition=%inner_condition, body=%inner_body
  %r.1 = f32[4,4]{1,0} all-reduce(%p.3), channel_id=2, replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  %c.1 = (bf16[4]{0}, bf16[4]{0}, u32[], u32[]) collective-permute-start(%p.3), source_target_pairs={{0,0},{0,2},{2,0}}
  ROOT %t.3 = (s32[], bf16[8,8]) tuple(%w.1)
}

%windowed_condition (p.5: (bf16[8,8], u32[])) -> pred[] {
  %limit.2 = u32[]{:T(128)} constant(16), metadata={op_name="dot_general"}
  %p.5 = (bf16[8,8], u32[]) parameter(0)
  %i.2 = u32[]{:T(128)} get-tuple-element(%p.5), index=1
  ROOT %lt.2 = pred[]{:T(512)} compare(%i.2, %limit.2), direction=LT
}

%windowed_body (p.6: (bf16[8,8], u32[])) -> (bf16[8,8], u32[]) {
  %p.6 = (bf16[8,8], u32[]) parameter(0)
  %one.1 = u32[]{:T(128)} constant(1)
  %two.1 = u32[]{:T(128)} constant(2)
  %i.3 = u32[]{:T(128)} get-tuple-element(%p.6), index=1
  %next.1 = u32[]{:T(128)} add(%i.3, %one.1)
  %c.2 = bf16[2,2]{1,0} collective-permute(%p.6), channel_id=11, source_target_pairs={{0,4},{4,0}}
  %i.4 = u32[]{:T(128)} add(%i.3, %two.1)
  ROOT %t.4 = (bf16[8,8], u32[]) tuple(%c.2, %i.4)
}

%outer_condition (p.4: (s32[], bf16[8,8])) -> pred[] {
  %p.4 = (s32[], bf16[8,8]) parameter(0)
  ROOT %true.1 = pred[] constant(true)
}

ENTRY %main.1 (a: bf16[8,8], b: bf16[32,32]) -> bf16[8,8] {
  %a = bf16[8,8]{1,0} parameter(0)
  %b = bf16[32,32]{1,0} parameter(1)
  %w.2 = (s32[], bf16[8,8]) while(%a), condition=%outer_condition, body=%outer_body, backend_config={"known_trip_count":{"n":"5"}}
  %w.3 = (bf16[8,8], u32[]) while(%a), condition=%windowed_condition, body=%windowed_body
  %f.1 = bf16[16,32]{1,0} fusion(%b), kind=kCustom, calls=%all-reduce-scatter.1
  %g.2 = bf16[16,8]{1,0} all-gather(%b), channel_id=6, replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}, dimensions={0}
  %e.1 = bf16[8,8]{1,0} all-to-all(%a), channel_id=5, replica_groups=[1,8]<=[8], dimensions={0}
  ROOT %out = bf16[8,8] get-tuple-element(%w.2), index=1
}
"""  # noqa: E501


def test_every_collective_with_its_axes_bytes_and_times():
    found = {(c.kind, c.axes): (c.bytes, c.times) for c in collectives(PROGRAM, AXES, SIZES)}
    assert found == {
        ("all-gather", "fsdp"): (16 * 8 * 2 / 2, 15.0),  # 3 inside 5
        ("all-reduce", "context"): (2 * 4 * 4 * 4 / 2, 5.0),
        ("collective-permute", "tensor"): (8.0, 5.0),
        ("collective-permute", "fsdp"): (8.0, 8.0),  # up to 16 by twos
        ("reduce-scatter", "fsdp"): (32 * 32 * 2 / 2, 1.0),
        ("all-gather", "tensor+context"): (192.0, 1.0),  # of 0 to 3, and of 4 to 7: device_ids renumbers the groups
        ("all-to-all", "fsdp+tensor+context"): (8 * 8 * 2 * 7 / 8, 1.0),
    }
    totals = bytes_by_axis(collectives(PROGRAM, AXES, SIZES))
    assert totals.pop("tensor+context") == 192.0
    assert totals == {"fsdp": 15 * 128 + 1024 + 8 * 8, "context": 320.0, "fsdp+tensor+context": 112.0, "tensor": 40.0}
    assert next(iter(totals)) == "fsdp"  # the most first


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", "tensor+context"),
        ("mesh['a'=4,'b'=2], device_ids=(0,4,1,5,2,6,3,7) {'a'}", "tensor+context"),
        ("mesh['a'=4,'b'=2], device_ids=([8]) {'b'}", "context"),
        ("{{0,4},{1,5},{2,6},{3,7}}", "fsdp"),
        ("{}", "fsdp+tensor+context"),
    ],
)
def test_groups_in_every_notation(groups, axes):
    line = f"  %g = bf16[16,8]{{1,0}} all-gather(%b), channel_id=6, replica_groups={groups}, dimensions={{0}}"
    [found] = collectives(f"ENTRY %main (b: bf16[8,8]) -> bf16[16,8] {{\n{line}\n}}\n", AXES, SIZES)
    assert found.axes == axes


@pytest.mark.parametrize("groups", ["mesh['a'=8] {'a':(1)2}", "anew[8]"])
def test_groups_in_an_unknown_notation_are_an_error(groups):
    line = f"  %g = bf16[16,8]{{1,0}} all-gather(%b), channel_id=6, replica_groups={groups}, dimensions={{0}}"
    with pytest.raises(ValueError, match=r"not known here: replica_groups="):
        collectives(f"ENTRY %main (b: bf16[8,8]) -> bf16[16,8] {{\n{line}\n}}\n", AXES, SIZES)


@pytest.mark.parametrize(("shape", "sizes"), [("bf16[2,3]{1,0}", [12]), ("(f32[], s8[5], f8e4m3fn[4])", [4, 5, 4])])
def test_sizes(shape, sizes):
    assert size_of(shape) == sizes
