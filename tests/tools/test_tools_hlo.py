"""Reading compiled programs: loops, collectives and traffic, against counts by hand."""

import jax
import numpy as np
import pytest

from swm_jax.tools.analysis import out_of_memory
from swm_jax.tools.collectives import Collective, collectives
from swm_jax.tools.hlo import array_bytes, parse_hlo
from swm_jax.tools.roofline import HOP_SECONDS, collective_seconds
from swm_jax.tools.topology import (
    CHIPS,
    Slice,
    TopologyError,
    find_libtpu,
    get_slice,
    parse_slice,
)
from swm_jax.tools.traffic import memory_traffic

# A scan over 5 layers of f32[5, 64, 8] weights, gathered over 4 devices in two kernels
# of one channel; then a sum over 2 x 2 devices, and pairs that swap.
PROGRAM = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%slice_of_layer (w.2: f32[5,64,8], i.3: s32[]) -> f32[64,8] {
  %w.2 = f32[5,64,8]{2,1,0:T(8,128)} parameter(0)
  %i.3 = s32[]{:T(128)} parameter(1)
  ROOT %inner = f32[64,8]{1,0:T(8,128)} fusion(%w.2, %i.3), kind=kLoop, \
calls=%slice_inside
}

%slice_inside (w: f32[5,64,8], i: s32[]) -> f32[64,8] {
  %w = f32[5,64,8]{2,1,0:T(8,128)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %cut = f32[1,64,8]{2,1,0:T(8,128)} dynamic-slice(%w, %i, %zero, %zero), \
dynamic_slice_sizes={1,64,8}
  ROOT %layer = f32[64,8]{1,0:T(8,128)} bitcast(%cut)
}

%gather_start (x: f32[64,8]) -> f32[256,8] {
  %x = f32[64,8]{1,0:T(8,128)} parameter(0)
  ROOT %all-gather.1 = f32[256,8]{1,0:T(8,128)} all-gather(%x), channel_id=7, \
replica_groups=mesh['axis_0'=4] {'axis_0'}, dimensions={0}, \
metadata={op_name="jit(step)/while/body/gather"}
}

%gather_more (x.1: f32[64,8]) -> f32[256,8] {
  %x.1 = f32[64,8]{1,0:T(8,128)} parameter(0)
  ROOT %all-gather.2 = f32[256,8]{1,0:T(8,128)} all-gather(%x.1), channel_id=7, \
replica_groups=mesh['axis_0'=4] {'axis_0'}, dimensions={0}
}

%body (state: (s32[], f32[5,64,8])) -> (s32[], f32[5,64,8]) {
  %state = (s32[]{:T(128)}, f32[5,64,8]{2,1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%state), index=0
  %w.1 = f32[5,64,8]{2,1,0:T(8,128)} get-tuple-element(%state), index=1
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)S(1)} add(%i.1, %one)
  %fusion.1 = f32[64,8]{1,0:T(8,128)} fusion(%w.1, %i.1), kind=kLoop, \
calls=%slice_of_layer
  %fusion.2 = f32[256,8]{1,0:T(8,128)S(1)} fusion(%fusion.1), kind=kCustom, \
calls=%gather_start
  %fusion.3 = f32[256,8]{1,0:T(8,128)S(1)} fusion(%fusion.1), kind=kCustom, \
calls=%gather_more
  ROOT %out = (s32[]{:T(128)}, f32[5,64,8]{2,1,0:T(8,128)}) tuple(%next, %w.1)
}

%condition (state.1: (s32[], f32[5,64,8])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, f32[5,64,8]{2,1,0:T(8,128)}) parameter(0)
  %limit = s32[]{:T(128)} constant(5)
  %i.2 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.2, %limit), direction=LT
}

ENTRY %main (p: f32[5,64,8], g: bf16[10,128]) -> f32[5,64,8] {
  %p = f32[5,64,8]{2,1,0:T(8,128)} parameter(0)
  %g = bf16[10,128]{1,0:T(8,128)(2,1)} parameter(1)
  %start = s32[]{:T(128)} constant(0)
  %tuple = (s32[]{:T(128)}, f32[5,64,8]{2,1,0:T(8,128)}) tuple(%start, %p)
  %while.1 = (s32[]{:T(128)}, f32[5,64,8]{2,1,0:T(8,128)}) while(%tuple), \
condition=%condition, body=%body
  %all-reduce.1 = bf16[10,128]{1,0:T(8,128)(2,1)} all-reduce(%g), channel_id=8, \
replica_groups=[2,2]<=[2,2]T(1,0), to_apply=%add
  %swap = bf16[10,128]{1,0:T(8,128)(2,1)} collective-permute(%all-reduce.1), \
channel_id=9, source_target_pairs={{0,1},{1,0},{2,3},{3,2}}
  ROOT %result = f32[5,64,8]{2,1,0:T(8,128)} get-tuple-element(%while.1), index=1
}
"""
LAYER, GATHERED, SUMMED = 64 * 8 * 4, 256 * 8 * 4, 10 * 128 * 2


def test_a_loop_s_body_runs_as_often_as_its_condition_says():
    program = parse_hlo(PROGRAM)
    assert program.runs["main"] == 1 and program.runs["body"] == 5
    assert program.unknown_loops == ()
    unknown = PROGRAM.replace("constant(5)", "parameter(1)")
    assert parse_hlo(unknown).unknown_loops == ("while.1",)
    later = PROGRAM.replace("%start = s32[]{:T(128)} constant(0)",
                            "%start = s32[]{:T(128)} constant(2)")  # fmt: skip
    assert parse_hlo(later).runs["body"] == 3


def test_collectives_have_their_bytes_counts_and_mesh_axes():
    found = collectives(parse_hlo(PROGRAM), {"data": 2, "fsdp": 2})
    by_kind = {each.kind: each for each in found}
    gather = by_kind["all-gather"]
    assert (gather.count, gather.bytes) == (5, GATHERED)  # two kernels, one channel
    assert gather.axes == ("data", "fsdp") and gather.received == GATHERED * 3 / 4
    assert gather.op == "jit(step)/while/body/gather"
    reduce = by_kind["all-reduce"]
    assert (reduce.count, reduce.bytes) == (1, SUMMED)
    assert reduce.axes == ("data",) and reduce.group == (0, 2)
    assert reduce.received == SUMMED  # there and back, half of it each
    swap = by_kind["collective-permute"]
    assert swap.axes == ("fsdp",) and swap.received == SUMMED


@pytest.mark.parametrize(
    ("written", "group"),
    [
        ("{{0,1},{2,3}}", (0, 1)),
        ("[2,2]<=[4]", (0, 1)),
        ("[2,2]<=[2,2]T(1,0)", (0, 2)),
        ("mesh['x'=2,'y'=2] {'y'}", (0, 1)),
        ("mesh['x'=2,'y'=2] {'x'}", (0, 2)),
        ("mesh['x'=2,'y'=1,'z'=2] {'x','z'}", (0, 1, 2, 3)),
        ("mesh['x'=2,'y'=2], device_ids=([2,2]T(1,0)) {'y'}", (0, 2)),
        ("mesh['x'=2,'y'=2], device_ids=([2,2]T(1,0)) {'x'}", (0, 1)),
        ("mesh['x'=2,'y'=2], device_ids=([2,2]0,3,1,2) {'y'}", (0, 3)),
    ],
)
def test_device_groups_are_read_in_every_notation(written, group):
    text = PROGRAM.replace("[2,2]<=[2,2]T(1,0)", written)
    found = collectives(parse_hlo(text), {"data": 2, "fsdp": 2})
    assert next(c for c in found if c.kind == "all-reduce").group == group


def test_traffic_counts_slices_and_leaves_out_what_stays_on_the_chip():
    per_layer = (
        LAYER + 4 + LAYER  # a slice and the index are read, the layer is written
        + LAYER  # the gather reads it once, in two kernels; its result stays
        + 4 + 4  # the counter and 1 are read; the sum stays
        + 4 + 4 + 1  # the condition
    )  # fmt: skip
    expected = 5 * per_layer + 2 * SUMMED + 2 * SUMMED
    assert memory_traffic(parse_hlo(PROGRAM)) == expected


# A gather of f32[1024] that goes on beside a kernel which halves f32[512], as TPU
# programs have it; then a quarter of f32[16, 128] is fetched.
ASYNC = """\
HloModule jit_step, is_scheduled=true

%begin (p0: f32[256]) -> (f32[256], f32[1024], u32[]) {
  %p0 = f32[256]{0:T(256)} parameter(0)
  %all-gather.0 = f32[1024]{0:T(1024)} all-gather(%p0), channel_id=3, \
replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %begun = (f32[256]{0:T(256)}, f32[1024]{0:T(1024)}, u32[]{:S(2)}) \
custom-call(%all-gather.0), custom_call_target="AsyncCollectiveStart"
}

%beside (p1: f32[256], p2: f32[1024], p3: u32[], p4: f32[512]) -> (f32[512], \
f32[256], f32[1024], f32[1024], u32[]) {
  %p4 = f32[512]{0:T(512)} parameter(3)
  %half = f32[] constant(0.5)
  %halves = f32[512]{0:T(512)} broadcast(%half), dimensions={}
  %product = f32[512]{0:T(512)} multiply(%p4, %halves)
  %p1 = f32[256]{0:T(256)} parameter(0)
  %p2 = f32[1024]{0:T(1024)} parameter(1)
  %all-gather.1 = f32[1024]{0:T(1024)} all-gather(%p1), channel_id=3, \
replica_groups={{0,1,2,3}}, dimensions={0}
  %p3 = u32[]{:S(2)} parameter(2)
  ROOT %all = (f32[512]{0:T(512)}, f32[256]{0:T(256)}, f32[1024]{0:T(1024)}, \
f32[1024]{0:T(1024)}, u32[]{:S(2)}) tuple(%product, %p1, %all-gather.1, %p2, %p3)
}

%end (p5: f32[256], p6: f32[1024], p7: u32[]) -> f32[1024] {
  %p5 = f32[256]{0:T(256)} parameter(0)
  %p6 = f32[1024]{0:T(1024)} parameter(1)
  %all-gather.2 = f32[1024]{0:T(1024)} all-gather(%p5), channel_id=3, \
replica_groups={{0,1,2,3}}, dimensions={0}
  %p7 = u32[]{:S(2)} parameter(2)
  ROOT %done = f32[1024]{0:T(1024)} custom-call(%p5, %p6, %all-gather.2, %p7), \
custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (x: f32[256], y: f32[512], z: f32[16,128]) -> f32[1024] {
  %x = f32[256]{0:T(256)} parameter(0)
  %y = f32[512]{0:T(512)} parameter(1)
  %z = f32[16,128]{1,0:T(8,128)} parameter(2)
  %start = (f32[256]{0:T(256)}, f32[1024]{0:T(1024)}, u32[]{:S(2)}) fusion(%x), \
kind=kCustom, calls=%begin
  %s0 = f32[256]{0:T(256)} get-tuple-element(%start), index=0
  %s1 = f32[1024]{0:T(1024)} get-tuple-element(%start), index=1
  %s2 = u32[]{:S(2)} get-tuple-element(%start), index=2
  %more = (f32[512]{0:T(512)}, f32[256]{0:T(256)}, f32[1024]{0:T(1024)}, \
f32[1024]{0:T(1024)}, u32[]{:S(2)}) fusion(%s0, %s1, %s2, %y), kind=kOutput, \
calls=%beside
  %m1 = f32[256]{0:T(256)} get-tuple-element(%more), index=1
  %m2 = f32[1024]{0:T(1024)} get-tuple-element(%more), index=2
  %m4 = u32[]{:S(2)} get-tuple-element(%more), index=4
  %fetch = ((f32[16,128]{1,0:T(8,128)}), f32[4,128]{1,0:T(8,128)S(1)}, \
s32[]{:S(2)}) slice-start(%z), slice={[0:4], [0:128]}
  %fetched = f32[4,128]{1,0:T(8,128)S(1)} slice-done(%fetch)
  ROOT %gathered = f32[1024]{0:T(1024)} fusion(%m1, %m2, %m4), kind=kCustom, \
calls=%end
}
"""


def test_a_collective_beside_other_kernels_moves_its_bytes_once():
    gathered = 4 * (256 + 1024)  # read and written, not once per kernel
    halved, fetched = 2 * 4 * 512, 4 * 4 * 128
    assert abs(memory_traffic(parse_hlo(ASYNC)) - (gathered + halved + fetched)) <= 4
    found = collectives(parse_hlo(ASYNC), {"data": 4})
    assert [(each.count, each.bytes) for each in found] == [(1, 4096)]


# A gradient of f32[64, 128] summed over 4 devices, of which each keeps its 16 rows.
SCATTER = """\
HloModule jit_step, is_scheduled=true

%all-reduce-scatter (g: f32[64,128]) -> f32[16,128] {
  %g = f32[64,128]{1,0:T(8,128)} parameter(0)
  %sum = f32[64,128]{1,0:T(8,128)} all-reduce(%g), channel_id=5, \
replica_groups={{0,1,2,3}}, to_apply=%add
  %row = u32[] constant(16)
  %column = u32[] constant(0)
  ROOT %mine = f32[16,128]{1,0:T(8,128)} dynamic-slice(%sum, %row, %column), \
dynamic_slice_sizes={16,128}
}

ENTRY %main (x: f32[64,128]) -> f32[16,128] {
  %x = f32[64,128]{1,0:T(8,128)} parameter(0)
  ROOT %kept = f32[16,128]{1,0:T(8,128)} fusion(%x), kind=kCustom, \
calls=%all-reduce-scatter
}
"""


def test_a_sum_of_which_a_slice_is_kept_is_a_reduce_scatter():
    program = parse_hlo(SCATTER)
    (found,) = collectives(program, {"fsdp": 4})
    assert (found.kind, found.bytes) == ("reduce-scatter", 4 * 64 * 128)
    assert found.received == 4 * 64 * 128 * 3 / 4  # half of what an all-reduce moves
    assert memory_traffic(program) == 4 * (64 + 16) * 128
    whole = SCATTER.replace("ROOT %mine", "%mine").replace("%sum = ", "ROOT %sum = ")
    (found,) = collectives(parse_hlo(whole), {"fsdp": 4})
    assert found.kind == "all-reduce"


def test_a_program_of_this_machine_is_counted_like_its_closed_form():
    def step(weights, x):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, weights)[0]

    shapes = (jax.ShapeDtypeStruct(s, np.float32) for s in ((7, 64, 64), (8, 64)))
    program = parse_hlo(jax.jit(step).lower(*shapes).compile().as_text())
    assert 7 in program.runs.values() and program.unknown_loops == ()
    weights = 7 * 64 * 64 * 4
    assert weights <= memory_traffic(program) <= 4 * weights


def test_bytes_of_types():
    assert array_bytes("bf16[8,64]{1,0:T(8,128)(2,1)}") == 1024
    assert array_bytes("(f32[2,3]{1,0}, pred[5]{0}, s32[])") == 24 + 5 + 4
    assert array_bytes("(f8e4m3fn[16], s4[3])") == 16 + 2
    assert array_bytes("(f32[4]{0:T(128)S(1)}, f32[2]{0})", off_chip_only=True) == 8


def test_text_that_is_no_module_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        parse_hlo("nothing")


def a_slice(name):
    """A slice whose devices nobody compiles for."""
    chip, shape = parse_slice(name)
    return Slice(name, chip, shape, ())


def grid(*shape):
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(
        -1, len(shape)
    )


@pytest.mark.parametrize(
    ("name", "links"),
    [("v5e:2x2", 2), ("v5e:4x4", 2), ("v5e:16x16", 4), ("v5e:8x16", 3),
     ("v5p:2x2x1", 2), ("v5p:2x2x4", 3), ("v5p:4x4x4", 6)],
)  # fmt: skip
def test_links_of_the_least_connected_chip(name, links):
    assert a_slice(name).links == links


def test_a_collective_takes_its_bytes_over_its_links_and_its_hops():
    where = a_slice("v5e:4x4")
    every = Collective("all-gather", ("fsdp",), tuple(range(16)), 16 * 10**9, 1, "")
    coords = np.pad(grid(4, 4), ((0, 0), (0, 1)))
    link = CHIPS["v5e"].link_bandwidth
    expected = 15e9 / (2 * link) + 6 * HOP_SECONDS
    np.testing.assert_allclose(collective_seconds(where, coords, every), expected)
    row = Collective("all-reduce", ("fsdp",), (0, 1, 2, 3), 10**9, 1, "")
    expected = 2 * 0.75e9 / link + 3 * HOP_SECONDS
    np.testing.assert_allclose(collective_seconds(where, coords, row), expected)
    # Every other chip of two rows: the box is half full, its links serve two groups.
    spread = Collective("all-reduce", ("data",), (0, 2, 8, 10), 10**9, 1, "")
    expected = 2 * 0.75e9 / (2 * link * 4 / 9) + 4 * HOP_SECONDS
    np.testing.assert_allclose(collective_seconds(where, coords, spread), expected)


def test_a_closed_ring_has_two_links_and_can_be_counted_as_a_line():
    where = a_slice("v5e:16x16")
    coords = np.pad(grid(16, 16), ((0, 0), (0, 1)))
    ring = Collective("all-gather", ("fsdp",), tuple(range(16)), 16 * 10**9, 1, "")
    link = CHIPS["v5e"].link_bandwidth
    hops = 15 * HOP_SECONDS
    closed = collective_seconds(where, coords, ring)
    line = collective_seconds(where, coords, ring, closed_rings=False)
    np.testing.assert_allclose(
        [closed, line], [15e9 / link / 2 + hops, 15e9 / link + hops]
    )


def test_xla_s_refusal_is_read():
    message = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
        "memory space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G."
    )
    assert out_of_memory(message) == (int(20.5 * 2**30), int(15.75 * 2**30))
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for "
        "HLO temporaries (50.77G) exceeds available HBM (15.75G)."
    )
    assert out_of_memory(message) == (int(50.77 * 2**30), int(15.75 * 2**30))
    message = message.replace("50.77G", "2.00T")
    assert out_of_memory(message) == (2 * 2**40, int(15.75 * 2**30))
    assert out_of_memory("INTERNAL: something else") is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5:2x2", "did you mean 'v5p'"),
        ("v5e", "has no shape such as v5e:4x4"),
        ("v5e:4x4x4", "has 3 axes, a v5e slice has 2"),
        ("v5p:4x4", "has 2 axes, a v5p slice has 3"),
    ],
)
def test_a_slice_that_does_not_exist_gives_one_line(name, message):
    with pytest.raises(TopologyError, match=message) as error:
        get_slice(name)
    assert "\n" not in str(error.value)


def test_a_missing_libtpu_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TopologyError, match=r"make libtpu.*pip install --no-deps"):
        find_libtpu()
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(tmp_path / "no.so"))
    with pytest.raises(TopologyError, match="is no file"):
        find_libtpu()
