"""TPU slices by name, without a TPU: specifications, and devices to compile for.

    slice_ = get_slice("v5e:4x4")
    mesh = Mesh(np.reshape(slice_.devices, (1, 16)), ("data", "fsdp"))

Compilation needs libtpu but no chip. libtpu is kept outside of the environment's
site-packages: there every JAX process would load it, and its lock file admits only one.
It is searched by `TPU_LIBRARY_PATH`, in the environment's folder `libtpu` (installed by
`make libtpu`), and by import.

Facts of the chips are Google's: https://cloud.google.com/tpu/docs, pages v4, v5e, v5p
and v6e, read in November 2026. A link's rate is the documented interconnect rate of a
chip (v5p: half of the bidirectional one) over its ports; on v5e that gives the
documented bisection of a pod, 2 x 16 links x 50 GB/s = 1.6 TB/s. Memory is libtpu's:
it keeps some of a chip's for itself.
"""

import dataclasses
import importlib.util
import math
import os
import re
import sys
from pathlib import Path
from typing import Any

from swm_jax.choices import did_you_mean, first_line

LIBTPU = "libtpu==0.0.42.1"  # the release that compiles for the tested jax
GB, GIB = 1e9, 2**30


class TopologyError(ValueError):
    """Unknown slice, or missing libtpu; the message is one line with the remedy."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """Specification of a chip.

    Attributes:
      name: "v4", "v5e", "v5p" or "v6e".
      bf16_flops: FLOP/s of bfloat16 matrix products.
      hbm_bytes: memory available to a program, from libtpu's out-of-memory message.
      hbm_bandwidth: bytes/s.
      link_bandwidth: bytes/s of one interconnect link, one way.
      axes: of the interconnect's mesh or torus.
      wraps_at: extent from which an axis of a slice is closed to a ring.
      options: arguments of libtpu besides the shape.
    """

    name: str
    bf16_flops: float
    hbm_bytes: float
    hbm_bandwidth: float
    link_bandwidth: float
    axes: int
    wraps_at: int
    options: tuple[tuple[str, Any], ...] = ()


CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        # Two cores of a chip run as one device, as JAX has it on real machines.
        Chip(
            "v4", 275e12, 30.75 * GIB, 1200 * GB, 50 * GB, 3, 4,
            (("chip_config_name", "megacore"),),
        ),
        Chip("v5e", 197e12, 15.75 * GIB, 819 * GB, 50 * GB, 2, 16),
        Chip("v5p", 459e12, 95.74 * GIB, 2765 * GB, 100 * GB, 3, 4),
        Chip("v6e", 918e12, 31.25 * GIB, 1600 * GB, 100 * GB, 2, 16),
    )
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice of chips.

    Attributes:
      name: "v5e:4x4".
      chip: its kind of chip.
      shape: chips along each axis of the interconnect.
      devices: one per chip, for compilation only.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    devices: tuple[Any, ...] = dataclasses.field(repr=False, compare=False)

    @property
    def chips(self) -> int:
        """Chips of the slice."""
        return math.prod(self.shape)

    @property
    def rings(self) -> int:
        """Number of axes along which the chips form a closed ring."""
        whole = [n for n in self.shape if n >= self.chip.wraps_at]
        # v4 and v5p close their rings between cubes of 4 x 4 x 4 only.
        if self.chip.axes == 3 and len(whole) < 3:
            return 0
        return len(whole)

    @property
    def links(self) -> int:
        """Smallest number of links of a chip: one per axis, two along a ring."""
        return sum(n > 1 for n in self.shape) + self.rings


def parse_slice(name: str) -> tuple[Chip, tuple[int, ...]]:
    """Chip and shape of a slice's name, without libtpu.

    Raises:
      TopologyError: an unknown chip or shape.
    """
    kind, _, shape = name.partition(":")
    if kind not in CHIPS:
        hint = did_you_mean(kind, CHIPS)
        raise TopologyError(
            f"unknown TPU '{kind}'{hint} in topology '{name}'; known: "
            f"{', '.join(CHIPS)}, as in v5e:4x4 or v5p:2x2x4"
        )
    chip = CHIPS[kind]
    if not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        example = "x".join(["4"] * chip.axes)
        raise TopologyError(
            f"topology '{name}' has no shape such as {kind}:{example}: chips along "
            f"each of the {chip.axes} axes"
        )
    sizes = tuple(map(int, shape.split("x")))
    if len(sizes) != chip.axes or min(sizes) < 1:
        raise TopologyError(
            f"topology '{name}' has {len(sizes)} axes, a {kind} slice has {chip.axes} "
            f"of at least 1 chip: for example {kind}:{'x'.join(['2'] * chip.axes)}"
        )
    return chip, sizes


def get_slice(name: str) -> Slice:
    """Slice with devices for ahead-of-time compilation.

    Args:
      name: chip and shape, for example "v5e:4x4" or "v5p:2x2x4".

    Raises:
      TopologyError: libtpu is missing, or rejects the slice.
    """
    chip, sizes = parse_slice(name)
    _prepare(find_libtpu())
    from jax.experimental import topologies

    options = dict(chip.options)
    if math.prod(sizes) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=name, **options
        )
    except Exception as error:
        raise TopologyError(
            f"libtpu refuses topology '{name}': {first_line(error)}"
        ) from error
    devices = tuple(described.devices)
    if len(devices) != math.prod(sizes):
        raise TopologyError(
            f"libtpu gives {len(devices)} devices for topology '{name}', expected one "
            f"per chip, {math.prod(sizes)}"
        )
    return Slice(name, chip, sizes, devices)


def find_libtpu() -> Path:
    """Path of libtpu, the compiler's library.

    Raises:
      TopologyError: not found; the message has the command that installs it.
    """
    named = os.environ.get("TPU_LIBRARY_PATH")
    if named:
        if not Path(named).is_file():
            raise TopologyError(f"TPU_LIBRARY_PATH={named} is no file")
        return Path(named)
    own = Path(sys.prefix) / "libtpu"
    if (own / "libtpu" / "libtpu.so").is_file():
        return own / "libtpu" / "libtpu.so"
    spec = importlib.util.find_spec("libtpu")
    if spec is not None and spec.origin:
        library = Path(spec.origin).with_name("libtpu.so")
        if library.is_file():
            return library
    raise TopologyError(
        "libtpu, TPU's compiler, is not there: `make libtpu`, or "
        f"`pip install --no-deps --target {own} {LIBTPU}` (0.7 GB on disk)"
    )


def _prepare(library: Path) -> None:
    """Sets libtpu's variables for a host without chips and metadata server."""
    os.environ["TPU_LIBRARY_PATH"] = str(library)
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_MIN_LOG_LEVEL": "3",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }.items():
        os.environ.setdefault(name, value)
