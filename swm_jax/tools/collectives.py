"""Collectives of a compiled program: bytes, count and mesh axes."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from swm_jax.tools.hlo import Program, array_bytes, operand_type

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective of a program.

    Attributes:
      kind: XLA's name.
      axes: mesh axes along which a group of devices extends.
      group: devices of one group, by their number in the mesh.
      bytes: of the full array on one device, per execution: the result of an
        all-gather, the operand of all others.
      count: executions per call of the program.
      op: the JAX operation it comes from.
    """

    kind: str
    axes: tuple[str, ...]
    group: tuple[int, ...]
    bytes: int
    count: int
    op: str

    @property
    def received(self) -> float:
        """Bytes that a device receives per execution, by bandwidth-optimal rings."""
        if self.kind in ("collective-permute", "collective-broadcast"):
            return float(self.bytes)
        share = (len(self.group) - 1) / len(self.group)
        return self.bytes * share * (2 if self.kind == "all-reduce" else 1)


def collectives(program: Program, mesh: Mapping[str, int]) -> list[Collective]:
    """Collectives of a program, the largest traffic first.

    A collective split over several kernels (one channel) counts once per start, since
    its pieces may overlap with an inner loop.

    Args:
      program: the parsed HLO.
      mesh: axis sizes in the order of the devices.
    """
    found: dict[str, Collective] = {}
    for where, instructions in program.computations.items():
        runs = program.runs.get(where, 0)
        for each in instructions.values() if runs else ():
            kind = each.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            if kind == "all-reduce" and _only_a_slice_is_kept(instructions, each):
                kind = "reduce-scatter"  # in TPU programs an all-reduce and a slice
            axes, group = _axes(each.rest, mesh)
            size = sum(
                array_bytes(operand_type(instructions, o)) for o in each.operands
            )
            channel = re.search(r"channel_id=(\d+)", each.rest)
            key = f"channel {channel[1]}" if channel else f"{where} {each.name}"
            op = re.search(r'op_name="([^"]*)"', each.rest)
            known = found.get(key)
            found[key] = Collective(
                kind=kind,
                axes=axes,
                group=group,
                bytes=size * (len(group) if kind == "all-gather" else 1),
                count=min(runs, known.count) if known else runs,
                op=op[1] if op else known.op if known else "",
            )
    return sorted(found.values(), key=lambda c: -c.received * c.count)


def _only_a_slice_is_kept(instructions, each) -> bool:
    """Whether a kernel uses a dynamic slice of a result only."""
    if each.root:
        return False
    users = [user for user in instructions.values() if each.name in user.operands]
    kept = lambda user: (
        user.opcode == "dynamic-slice"
        or (user.opcode == "bitcast" and _only_a_slice_is_kept(instructions, user))
    )
    return bool(users) and all(map(kept, users))


def _axes(
    rest: str, mesh: Mapping[str, int]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Mesh axes that vary within a group of devices, and the largest group."""
    groups = _groups(rest, math.prod(mesh.values()))
    sizes = tuple(mesh.values())
    points = [np.array(np.unravel_index(g, sizes)).T for g in groups if len(g) > 1]
    vary = np.zeros(len(sizes), bool)
    for point in points:
        vary |= (point != point[0]).any(0)
    group = max(groups, key=len, default=(0,))
    names = tuple(name for name, v in zip(mesh, vary) if v)
    return names, tuple(int(i) for i in group)


def _groups(rest: str, devices: int) -> Sequence[Sequence[int]] | np.ndarray:
    """Groups of device numbers in any of XLA's notations."""
    pairs = re.search(r"source_target_pairs=\{([\d,{} ]*)\}", rest)
    if pairs:
        return [[int(a), int(b)] for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs[0])]
    listed = re.search(r"replica_groups=\{([\d,{} ]*)\}", rest)
    if listed:
        groups = re.findall(r"\{([\d,]+)\}", listed[1])
        return [[int(i) for i in g.split(",")] for g in groups] or [range(devices)]
    iota = re.search(r"replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)", rest)
    if iota:
        return _iota(iota[1])
    named = re.search(
        r"replica_groups=mesh\[([^\]]*)\]"
        r"(?:, device_ids=\(((?:[^()]|\([\d,]+\))+)\))? *\{([^}]*)\}",
        rest,
    )
    if named is None:
        raise ValueError(f"replica groups in an unknown notation: {rest[:200]}")
    axes = {a: int(n) for a, n in re.findall(r"'([^']+)'=(\d+)", named[1])}
    order = np.arange(devices) if not named[2] else _iota(named[2])
    taken = re.findall(r"'([^']+)'", named[3])
    grid = order.reshape(tuple(axes.values()))
    inside = [list(axes).index(name) for name in taken]
    outside = [i for i in range(len(axes)) if i not in inside]
    return grid.transpose(*outside, *inside).reshape(
        -1, math.prod(axes[name] for name in taken)
    )


def _iota(text: str, shape: tuple[int, ...] = (-1,)) -> np.ndarray:
    """Device numbers of "[4,2]<=[2,4]T(1,0)", or of "[2,4]T(1,0)" in `shape`."""
    ints = lambda s: tuple(int(x) for x in s.split(","))
    parts = re.fullmatch(
        r"(?:\[([\d,]+)\]<=)?\[([\d,]+)\](?:T\(([\d,]+)\)|((?:\d+,?)+))?", text
    )
    if parts is None:
        raise ValueError(f"device numbers in an unknown notation: {text}")
    target, source, order, listed = parts.groups()
    count = math.prod(ints(source))
    numbers = np.array(ints(listed.rstrip(","))) if listed else np.arange(count)
    numbers = numbers.reshape(ints(source))
    if order:
        numbers = numbers.transpose(ints(order))
    return numbers.reshape(ints(target) if target else shape)
