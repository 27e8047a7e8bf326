"""Memory traffic of a compiled program: bytes between a chip and its HBM."""

import functools
import re

from swm_jax.tools.collectives import KINDS
from swm_jax.tools.hlo import CALLED, Program, array_bytes, operand_type

_NO_TRAFFIC = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while",
    "conditional", "call", "after-all", "partition-id", "replica-id", "opt-barrier",
    "iota", "async-start", "async-update",
}  # fmt: skip
# Operations without traffic: they alias memory, or begin or end a collective.
_NAMES_ONLY = re.compile(
    r'custom_call_target="(AllocateBuffer|AsyncCollective(Start|Done)|ConcatBitcast'
    r'|AssumeGatherIndicesInBound)"'
)


def memory_traffic(program: Program) -> int:
    """Bytes that kernels read from and write to memory, per call of the program.

    Every kernel reads its operands and writes its result once; of an operand that is
    only sliced, the slice counts. Arrays in on-chip memory and operands passed through
    unchanged are free. An asynchronous collective is an operand of each kernel that it
    overlaps with, but its bytes count once.
    """
    total, collectives = 0, {}
    for where, instructions in program.computations.items():
        runs = program.runs.get(where, 0)
        if not runs or where in program.fused:
            continue
        for each in instructions.values():
            if _moves_nothing(each):
                continue
            total += runs * _traffic(program, instructions, each)
            for channel, size in _collectives_inside(program, instructions, each):
                known = collectives.get(channel, (0, runs))
                collectives[channel] = max(known[0], size), min(known[1], runs)
    return total + sum(size * runs for size, runs in collectives.values())


def _moves_nothing(each) -> bool:
    if each.opcode in _NO_TRAFFIC or each.opcode.endswith("-done"):
        return True
    return each.opcode == "custom-call" and bool(_NAMES_ONLY.search(each.rest))


def _collectives_inside(program, instructions, kernel):
    """Channel and bytes of the collectives that run inside a kernel."""
    body, types = _body(program, kernel) or {}, [kernel.type]
    types += [operand_type(instructions, operand) for operand in kernel.operands]
    for each in body.values():
        channel = re.search(r"channel_id=(\d+)", each.rest)
        if each.opcode not in KINDS or not channel:
            continue
        size = sum(_off_chip(operand_type(body, operand)) for operand in each.operands)
        users = [user for user in body.values() if each.name in user.operands]
        if each.root or any(map(_moves_nothing, users)):  # else the kernel goes on
            size += _off_chip(each.type)
        yield channel[1], min(size, sum(map(_off_chip, types)))


def _body(program, each):
    """The computation of a fusion; None for other instructions."""
    called = CALLED.search(each.rest) if each.opcode == "fusion" else None
    return program.computations.get(called[1].lstrip("%")) if called else None


def _traffic(program, instructions, each) -> int:
    types = [operand_type(instructions, operand) for operand in each.operands]
    if each.opcode == "dynamic-slice":
        return _off_chip(types[0]) and 2 * array_bytes(each.type)
    if each.opcode == "dynamic-update-slice":
        return _off_chip(each.type) and 2 * array_bytes(types[1])
    if each.opcode == "slice-start":  # its result repeats the operands
        cut = array_bytes(each.type) - sum(map(array_bytes, types))
        read, written = sum(map(_off_chip, types)), _off_chip(each.type)
        return (cut if read else 0) + written - read
    if each.opcode.endswith("-start") and each.opcode != "all-reduce-start":
        return _off_chip(each.type)  # as here: what is read and what is written
    body = _body(program, each)
    if body is None:
        return sum(map(_off_chip, types)) + _off_chip(each.type)
    total = sum(
        min(_off_chip(type_), _read_of_parameter(program, body, i))
        for i, type_ in enumerate(types)
    )
    return total + min(_off_chip(each.type), _written(program, body))


def _read_of_parameter(program, body, index: int) -> int:
    """Bytes of a fusion's operand that are read: all, or the slices."""
    name = next(
        (x.name for x in body.values() if x.opcode == "parameter"
         and x.rest.startswith(f"({index})")), None
    )  # fmt: skip
    total, names = 0, [name]
    while names:
        name = names.pop()
        for user in body.values():
            if name not in user.operands:
                continue
            if user.opcode == "bitcast":
                names.append(user.name)
            elif user.opcode in ("dynamic-slice", "slice", "gather"):
                total += array_bytes(user.type)
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
                continue  # written in place
            elif user.opcode in KINDS or _moves_nothing(user):
                continue  # counted by channel; handed on as it is
            elif inner := _body(program, user):
                places = [i for i, each in enumerate(user.operands) if each == name]
                total += sum(_read_of_parameter(program, inner, i) for i in places)
            else:
                return array_bytes(body[name].type)
    return total


def _written(program, body) -> int:
    """Bytes that a fusion writes: its result, or the slices it updates in place."""
    root = next(x for x in body.values() if x.root)
    parts = root.operands if root.opcode == "tuple" else (root.name,)
    total = 0
    for name in parts:
        each = body[name]
        while each.opcode == "bitcast" and each.operands[0] in body:
            each = body[each.operands[0]]
        if each.opcode == "dynamic-update-slice":
            total += array_bytes(operand_type(body, each.operands[1]))
        elif inner := _body(program, each):
            total += _written(program, inner)
        elif each.opcode not in KINDS and not _moves_nothing(each):
            total += array_bytes(each.type)
    return total


_off_chip = functools.partial(array_bytes, off_chip_only=True)
