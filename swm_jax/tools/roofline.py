"""Roofline bounds of the time of a compiled step, from counted work.

Three terms, each for one chip: operations over the peak rate of its matrix units, bytes
over the bandwidth of its memory, bytes received over that of its interconnect links.

- Best case, full overlap: the largest of the three at the chip's peak rates.
- Worst case: matrix products reach `MATMUL_SHARE` of the peak rate and no collective
  overlaps with them: the larger of the first two, plus the third.

A collective of n devices transfers the bytes of bandwidth-optimal rings (`Collective`)
over the links of the group's device with the fewest links, plus `HOP_SECONDS` per hop.
A group whose devices do not fill their bounding box in the interconnect shares its
links with other groups.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from swm_jax.tools.collectives import Collective
from swm_jax.tools.topology import Slice

MATMUL_SHARE = 0.8  # measured on an H200 (790 of 989 TFLOP/s); assumed for TPUs
HOP_SECONDS = 1e-6


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds of one step on one chip.

    Attributes:
      compute: matrix products at the peak rate.
      memory: memory traffic.
      network: sum of the collectives.
      limiting: the collective kind and axes that take most of `network`, "" if none.
    """

    compute: float
    memory: float
    network: float
    limiting: str

    @property
    def best(self) -> float:
        """Time with full overlap."""
        return max(self.compute, self.memory, self.network)

    @property
    def worst(self) -> float:
        """Time without overlap of collectives, and products below the peak rate."""
        return max(self.compute / MATMUL_SHARE, self.memory) + self.network

    @property
    def bound(self) -> str:
        """Name of the largest term at the peak rates."""
        terms = {
            "matrix products": self.compute,
            "memory": self.memory,
            "network": self.network,
        }
        return max(terms, key=terms.__getitem__)


def step_time(
    slice_: Slice,
    mesh_devices: np.ndarray,
    flops: float,
    traffic: float,
    found: Sequence[Collective],
    closed_rings: bool = True,
) -> StepTime:
    """Roofline terms of a program.

    Args:
      slice_: of the mesh.
      mesh_devices: the mesh's devices, whose flat order numbers them.
      flops: operations of one chip.
      traffic: bytes of one chip.
      found: the program's collectives.
      closed_rings: False counts rings as lines, so that slices of all sizes have equal
        links.
    """
    coords = np.array([device.coords for device in mesh_devices.flat])
    spent: dict[str, float] = {}
    for each in found:
        name = f"{each.kind} over {' and '.join(each.axes) or 'no axis'}"
        seconds = collective_seconds(slice_, coords, each, closed_rings)
        spent[name] = spent.get(name, 0.0) + seconds * each.count
    limiting = max(spent, key=spent.__getitem__) if spent else ""
    return StepTime(
        compute=flops / slice_.chip.bf16_flops,
        memory=traffic / slice_.chip.hbm_bandwidth,
        network=sum(spent.values()),
        limiting=limiting,
    )


def collective_seconds(
    slice_: Slice, coords: np.ndarray, each: Collective, closed_rings: bool = True
) -> float:
    """Seconds of one execution of a collective.

    Args:
      slice_: of the devices.
      coords: int[devices, 3], coordinates of the mesh's devices in the interconnect.
      each: the collective.
      closed_rings: as for `step_time`.
    """
    points = coords[list(each.group)]
    extent = np.ptp(points, axis=0) + 1
    wide = extent > 1
    if not wide.any():
        return 0.0
    shape = np.ones(len(extent), int)
    shape[: len(slice_.shape)] = slice_.shape
    rings = wide & (extent == shape) & (shape >= slice_.chip.wraps_at)
    links = wide.sum()
    if closed_rings and slice_.rings:
        links += rings.sum()
    filled = len(points) / extent.prod()  # other groups use the same links
    rate = links * slice_.chip.link_bandwidth * min(filled, 1.0)
    hops = int((extent - 1).sum())
    return each.received / rate + hops * HOP_SECONDS
