"""Bytes that a compiled program moves between a chip and its memory."""

import functools

from swm_jax.tools.hlo import CALLED, Program, array_bytes, operand_type

_NO_TRAFFIC = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while",
    "conditional", "call", "after-all", "partition-id", "replica-id", "opt-barrier",
    "iota", "async-done", "async-update", "copy-done", "slice-done",
}  # fmt: skip


def memory_traffic(program: Program) -> int:
    """Bytes that kernels read from and write to memory, per call of the program.

    Every kernel reads its operands and writes its result, once; of an operand that is
    only sliced, the slice. What lies in the chip's own memory costs nothing.
    """
    total = 0
    for where, instructions in program.computations.items():
        runs = program.runs.get(where, 0)
        if not runs or where in program.fused:
            continue
        for each in instructions.values():
            if each.opcode in _NO_TRAFFIC or each.opcode.endswith("-done"):
                continue
            total += runs * _traffic(program, instructions, each)
    return total


def _traffic(program, instructions, each) -> int:
    off_chip = functools.partial(array_bytes, off_chip_only=True)
    types = [operand_type(instructions, operand) for operand in each.operands]
    if each.opcode == "dynamic-slice":
        return off_chip(types[0]) and 2 * array_bytes(each.type)
    if each.opcode == "dynamic-update-slice":
        return off_chip(each.type) and 2 * array_bytes(types[1])
    if each.opcode.endswith("-start"):  # its result repeats the operands
        return sum(map(off_chip, types)) or off_chip(each.type)
    called = CALLED.search(each.rest) if each.opcode == "fusion" else None
    body = program.computations.get(called[1].lstrip("%")) if called else None
    if body is None:
        return sum(map(off_chip, types)) + off_chip(each.type)
    total = sum(
        min(off_chip(type_), _read_of_parameter(body, i))
        for i, type_ in enumerate(types)
    )
    return total + min(off_chip(each.type), _written(body))


def _read_of_parameter(body, index: int) -> int:
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
            else:
                return array_bytes(body[name].type)
    return total


def _written(body) -> int:
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
        else:
            total += array_bytes(each.type)
    return total
