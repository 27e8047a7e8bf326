"""Parser of optimised HLO text, with the number of runs of every computation.

XLA's `cost_analysis()` counts the body of a loop once and omits collectives; here trip
counts of loops are read from the text.

    program = parse_hlo(compiled.as_text())
    collectives(program, {"data": 1, "fsdp": 16})     # swm_jax.tools.collectives
    memory_traffic(program)                           # swm_jax.tools.traffic
"""

import dataclasses
import math
import re
from collections.abc import Mapping

_BITS = {"pred": 8, "token": 0, "opaque": 0, "bf16": 16, "tf32": 32, "c64": 64} | {
    "c128": 128
}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^{}]*\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
CALLED = re.compile(
    r"(?:calls|body|condition|to_apply|branch_computations|called_computations)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of HLO.

    Attributes:
      name, opcode: as written.
      type: of the result, with layout.
      operands: names.
      rest: attributes, and a constant's value.
      root: whether it is its computation's result.
    """

    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    rest: str
    root: bool


@dataclasses.dataclass(frozen=True)
class Program:
    """Computations of a module, with their numbers of runs.

    Attributes:
      computations: instructions by computation and name.
      runs: executions of a computation per call of the program; for computations inside
        kernels, those of the surrounding loop.
      fused: computations inside kernels.
      unknown_loops: loops whose trip count is not in the text, counted once.
    """

    computations: Mapping[str, Mapping[str, Instruction]]
    runs: Mapping[str, int]
    fused: frozenset[str]
    unknown_loops: tuple[str, ...]


def parse_hlo(text: str) -> Program:
    """Parses the text of a module.

    Raises:
      ValueError: no entry computation.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = None, None
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None:
            instruction = _instruction(line)
            if instruction is not None:
                current[instruction.name] = instruction
    if entry is None:
        raise ValueError("no ENTRY computation: this is no HLO module's text")
    return _count_runs(computations, entry)


def array_bytes(type_: str, off_chip_only: bool = False) -> int:
    """Bytes of an array or a tuple of arrays, without padding.

    Args:
      type_: for example "bf16[8,64]{1,0:T(8,128)S(1)}"; S(1) is on-chip memory.
      off_chip_only: leave out arrays in on-chip memory.
    """
    total = 0
    for dtype, dims, layout in _ARRAY.findall(type_):
        if off_chip_only and re.search(r"S\([1-9]\d*\)", layout):
            continue
        bits = _BITS[dtype] if dtype in _BITS else _digits(dtype)
        count = math.prod(int(d) for d in dims.split(",") if d)
        total += math.ceil(count * bits / 8)
    return total


def _instruction(line: str) -> Instruction | None:
    match = re.match(r"^\s+(ROOT )?%?([\w.\-]+) = ", line)
    if match is None:
        return None
    rest = line[match.end() :]
    end = _closing(rest) + 1 if rest.startswith("(") else rest.find(" ")
    type_, rest = rest[:end], rest[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    end = _closing("(" + rest) - 1
    inside, after = rest[:end], rest[end + 1 :]
    if opcode in ("parameter", "constant"):
        return Instruction(
            match[2], opcode, type_, (), f"({inside}){after}", bool(match[1])
        )
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(match[2], opcode, type_, operands, after, bool(match[1]))


def _closing(text: str) -> int:
    """Index of the bracket that closes the one `text` begins with."""
    depth = 0
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.start()
    return len(text)


def _count_runs(computations, entry: str) -> Program:
    runs, fused, unknown = dict.fromkeys(computations, 0), set(), []

    def visit(name: str, times: int, inside: bool) -> None:
        if inside:  # a kernel may be called in several places for one collective
            fused.add(name)
            runs[name] = max(runs[name], times)
        else:
            runs[name] += times
        for each in computations.get(name, {}).values():
            trips = 1
            if each.opcode == "while":
                trips = _trip_count(computations, computations[name], each)
                if trips is None:
                    unknown.append(each.name)
                    trips = 1
            kernel = inside or each.opcode not in ("while", "conditional", "call")
            kernel = kernel and not each.opcode.startswith("async")
            for match in CALLED.finditer(each.rest):
                for called in re.findall(r"[\w.\-]+", match[1]):
                    if called in computations:
                        visit(called, times * trips, kernel)

    visit(entry, 1, False)
    return Program(computations, runs, frozenset(fused), tuple(unknown))


def _trip_count(computations, around, loop: Instruction) -> int | None:
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest)
    if known:
        return int(known[1])
    part = lambda key: _attribute(loop, rf"{key}=%?([\w.\-]+)")
    condition, body = computations[part("condition")], computations[part("body")]
    start = around.get(loop.operands[0])
    root = next((x for x in condition.values() if x.root), None)
    if root is None or root.opcode != "compare" or start is None:
        return None
    direction = _attribute(root, r"direction=(\w+)")
    counter = limit = None
    for name in root.operands:
        each = condition[name]
        index = _tuple_index(each)
        if each.opcode == "constant":
            limit = _constant(condition, name)
        elif index is not None and counter is None:
            counter = index
        elif index is not None:
            limit = _constant(around, _element(start, index))
    if counter is None or limit is None or direction not in ("LT", "LE"):
        return None
    first = _constant(around, _element(start, counter)) or 0
    stride = _stride(body, counter) or 1
    return max(0, math.ceil((limit - first + (direction == "LE")) / stride))


def _stride(body, counter: int) -> int | None:
    """Increment of a loop's counter; None if unknown."""
    root = next(x for x in body.values() if x.root)
    if root.opcode != "tuple":
        return None
    each = body.get(root.operands[counter])
    while each is not None and each.opcode in ("copy", "bitcast"):
        each = body.get(each.operands[0])
    if each is None or each.opcode != "add":
        return None
    values = [_constant(body, name) for name in each.operands]
    return next((v for v in values if v is not None), None)


def _attribute(each: Instruction, pattern: str) -> str:
    found = re.search(pattern, each.rest)
    if found is None:
        raise ValueError(f"{each.name} lacks {pattern}: another notation of XLA")
    return found[1]


def _tuple_index(each: Instruction) -> int | None:
    if each.opcode != "get-tuple-element":
        return None
    return int(_attribute(each, r"index=(\d+)"))


def _element(start: Instruction, index: int) -> str | None:
    return start.operands[index] if start.opcode == "tuple" else None


def _constant(instructions, name: str | None) -> int | None:
    each = instructions.get(name)
    while each is not None and each.opcode in ("copy", "bitcast"):
        each = instructions.get(each.operands[0])
    if each is None or each.opcode != "constant":
        return None
    value = re.match(r"\((-?\d+)\)", each.rest)
    return int(value[1]) if value else None


def operand_type(instructions, name: str) -> str:
    each = instructions.get(name)
    return each.type if each is not None else ""


def _digits(dtype: str) -> int:
    found = re.search(r"\d+", dtype)  # f32, s8, u4, f8e4m3fn
    return int(found[0]) if found else 0
