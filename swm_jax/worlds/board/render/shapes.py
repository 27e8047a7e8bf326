"""Intersection of rays with upright prisms and cylinders.

All objects on the board are upright, so the part of a ray between an object's top and
bottom planes projects to a segment in the ground plane, from `enter` (crossing of the
top plane) to `enter + run` (bottom plane), and the problem is two-dimensional: if
`enter` is inside the outline the ray hits the top face, else it hits the side of the
first edge that the segment crosses from outside. `fraction` is the position of the hit
along the segment. Outlines may be concave (star, moon).

Axes: K blocks, E edges of the longest outline; shorter ones are padded by repeating
their last corner, which gives edges of length 0 that no ray crosses. `...` are axes of
rays, which broadcast.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from swm_jax.arrays import Array
from swm_jax.envs.scene import BLOCK_NAMES
from swm_jax.worlds.board.geometry import OUTLINES

MISS = np.float32(2.0)  # a fraction beyond the end of the segment
EDGES = max(len(outline) for outline in OUTLINES.values())
TOP = EDGES  # face index of a prism's top; its sides are 0 .. EDGES - 1
FACES = EDGES + 1


def _padded(outline: np.ndarray) -> np.ndarray:
    return np.pad(outline, ((0, EDGES - len(outline)), (0, 0)), mode="edge")


# float32[20, E, 2]: corners of every block of `BLOCK_NAMES`, block frame.
BLOCK_OUTLINES = np.stack(
    [_padded(OUTLINES[name.split()[1]]) for name in BLOCK_NAMES]
).astype(np.float32)


def place_outlines(
    pose: Float[Array, "K 3"], block_id: Int[Array, " K"]
) -> Float[Array, "K E 2"]:
    """Corners of the blocks in the board frame, counter-clockwise, metres."""
    corners = jnp.asarray(BLOCK_OUTLINES)[block_id]
    cos, sin = jnp.cos(pose[:, 2]), jnp.sin(pose[:, 2])
    rotation = jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)
    # Multiply and add rather than einsum: TPUs would round products to bfloat16.
    return (rotation[:, None] * corners[:, :, None, :]).sum(-1) + pose[:, None, :2]


def edge_normals(corners: Float[Array, "K E 2"]) -> Float[Array, "K E 2"]:
    """Outward unit normals of the edges; zero for the padded ones."""
    along = jnp.roll(corners, -1, axis=1) - corners
    length = jnp.linalg.norm(along, axis=-1, keepdims=True)
    outward = jnp.stack([along[..., 1], -along[..., 0]], -1)
    return outward / jnp.maximum(length, 1e-9)


def prism_hit(
    corners: Float[Array, "E 2"],
    enter: tuple[Float[Array, "..."], Float[Array, "..."]],
    run: tuple[Float[Array, "..."], Float[Array, "..."]],
) -> tuple[Float[Array, "..."], Int[Array, "..."]]:
    """First hits of rays on an upright prism, and the faces hit.

    Args:
      corners: outline, counter-clockwise, metres.
      enter: x and y where each ray crosses the plane of the top face.
      run: x and y travelled from there to the plane of the bottom face.

    Returns:
      fraction: in [0, 1] along the segment, `MISS` where there is no hit.
      face: index of the edge, or `TOP`.
    """
    fraction = jnp.full_like(enter[0], MISS)
    face = jnp.zeros(fraction.shape, jnp.int32)
    inside = jnp.zeros(fraction.shape, bool)
    # Unrolled on purpose: the chain fuses into one loop over the rays.
    for i in range(EDGES):
        j = (i + 1) % EDGES
        edge_x, edge_y = corners[j] - corners[i]
        to_x, to_y = corners[i, 0] - enter[0], corners[i, 1] - enter[1]
        # Even-odd rule: a line from `enter` along +x crosses this edge.
        side = to_x * edge_y - to_y * edge_x
        upward = edge_y > 0
        straddles = (to_y > 0) != (to_y + edge_y > 0)
        inside ^= straddles & ((side > 0) == upward)
        # enter + s * run == corner + u * edge, crossed from outside (facing < 0).
        facing = run[0] * edge_y - run[1] * edge_x
        u = to_x * run[1] - to_y * run[0]
        hit = (facing < 0) & (u <= 0) & (u >= facing) & (side <= 0) & (side >= facing)
        s = jnp.where(hit, side / jnp.where(hit, facing, 1.0), MISS)
        face = jnp.where(s < fraction, i, face)
        fraction = jnp.minimum(fraction, s)
    return jnp.where(inside, 0.0, fraction), jnp.where(inside, TOP, face)


def cylinder_hit(
    centre: Float[Array, "2"],
    radius: float,
    enter: tuple[Float[Array, "..."], Float[Array, "..."]],
    run: tuple[Float[Array, "..."], Float[Array, "..."]],
) -> tuple[Float[Array, "..."], Bool[Array, "..."], tuple]:
    """First hits of rays on an upright cylinder.

    Returns:
      fraction: as in `prism_hit`.
      on_top: whether the hit is on the top face.
      normal: x and y of the outward unit normal of the side at the hit.
    """
    x, y = enter[0] - centre[0], enter[1] - centre[1]
    a = run[0] ** 2 + run[1] ** 2
    b = x * run[0] + y * run[1]
    c = x**2 + y**2 - radius**2
    discriminant = b**2 - a * c
    near = (-b - jnp.sqrt(jnp.maximum(discriminant, 0.0))) / jnp.maximum(a, 1e-12)
    on_side = (discriminant > 0) & (near >= 0) & (near <= 1)
    on_top = c <= 0
    fraction = jnp.where(on_top, 0.0, jnp.where(on_side, near, MISS))
    normal = (x + near * run[0]) / radius, (y + near * run[1]) / radius
    return fraction, on_top, normal
