"""Episodes: the one schema that generation writes and everything else reads.

An episode has T actions and T + 1 frames: in frame t the world stands before
action t, and action t leads to frame t + 1. Poses belong to frames the same way.
The answer to a question at horizon h from start t compares frames t and t + h,
and the actions between them are t .. t + h - 1.

    field           per episode           unit, meaning
    image           T + 1 PNG frames      RGB, uint8[h, w, 3] each
    block_pose      float32[T + 1, 8, 3]  x, y in metres, yaw in radians
    peg             float32[T + 1, 2]     x, y in metres
    action          float32[T, 2]         metres per step, as sent to the simulator
    block_id        int32[8]              what lies in each slot (`BLOCK_NAMES`)
    policy          text                  who acted, one of `POLICIES`
    seed            int64                 seed of the whole data set
    episode         int64                 number within it; both make the episode again
    schema_version  int32                 `SCHEMA_VERSION`

Axes: N episodes, F frames of all episodes together, T the longest episode's actions.
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from swm_jax.envs.board_geometry import ACTION_LIMIT
from swm_jax.envs.scene import BLOCK_NAMES, Scene

SCHEMA_VERSION = 1
POLICIES = ("oracle", "noisy", "random", "contact", "smooth")
FIELDS = (
    "image",
    "block_pose",
    "peg",
    "action",
    "block_id",
    "policy",
    "seed",
    "episode",
    "schema_version",
)
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_REACH = 1.0  # metres: a pose farther out than this is a simulation that blew up


class DataError(ValueError):
    """Data that is missing, damaged or of another kind; one line that names it."""


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode; see the module's table.

    Attributes:
      image: T + 1 PNG files.
      block_pose: float32[T + 1, 8, 3].
      peg: float32[T + 1, 2].
      action: float32[T, 2].
      block_id: int32[8].
      policy: one of `POLICIES`.
      seed: seed of the data set.
      episode: number within the data set.
    """

    image: Sequence[bytes]
    block_pose: Float[np.ndarray, "T+1 8 3"]
    peg: Float[np.ndarray, "T+1 2"]
    action: Float[np.ndarray, "T 2"]
    block_id: Int[np.ndarray, " 8"]
    policy: str
    seed: int
    episode: int

    def __len__(self) -> int:
        """T, the number of actions."""
        return len(self.action)

    def record(self) -> dict[str, Any]:
        """The fields as a data set stores them."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**fields, "image": list(self.image), "schema_version": SCHEMA_VERSION}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], name: str = "record") -> "Episode":
        """Reads and validates what a data set returned.

        Raises:
          DataError: another schema version, a missing field or a broken rule.
        """
        version = int(record.get("schema_version", -1))
        if version != SCHEMA_VERSION:
            raise DataError(
                f"{name} has schema version {version}, this code reads "
                f"{SCHEMA_VERSION}: generate the data again"
            )
        missing = [field for field in FIELDS if field not in record]
        if missing:
            raise DataError(f"{name} lacks the field '{missing[0]}'")
        policy = record["policy"]
        episode = cls(
            image=list(record["image"]),
            block_pose=np.asarray(record["block_pose"]),
            peg=np.asarray(record["peg"]),
            action=np.asarray(record["action"]),
            block_id=np.asarray(record["block_id"]),
            policy=policy.decode() if isinstance(policy, bytes) else str(policy),
            seed=int(record["seed"]),
            episode=int(record["episode"]),
        )
        validate(episode, name)
        return episode


def validate(episode: Episode, name: str = "episode") -> None:
    """Checks shapes, types and ranges.

    Raises:
      DataError: names the episode, the field, the value seen and the one expected.
    """

    def need(good: bool, field: str, seen: Any, expected: Any) -> None:
        if not good:
            raise DataError(f"{name}: {field} is {seen}, expected {expected}")

    steps = len(episode.action)
    need(steps >= 1, "number of actions", steps, "at least 1")
    need(len(episode.image) == steps + 1, "frames", len(episode.image), steps + 1)
    shapes = {
        "block_pose": (steps + 1, 8, 3),
        "peg": (steps + 1, 2),
        "action": (steps, 2),
    }
    for field, shape in shapes.items():
        value = getattr(episode, field)
        need(value.shape == shape, f"shape of {field}", value.shape, shape)
        need(value.dtype == np.float32, f"type of {field}", value.dtype, "float32")
        need(np.isfinite(value).all(), field, "not finite", "finite numbers")
    ids = episode.block_id
    need(ids.shape == (8,), "shape of block_id", ids.shape, (8,))
    known = ((ids >= 0) & (ids < len(BLOCK_NAMES))).all()
    need(known, "block_id", ids.tolist(), f"ids below {len(BLOCK_NAMES)}")
    need(len(set(ids.tolist())) == 8, "block_id", ids.tolist(), "8 different blocks")
    reach = np.abs(episode.block_pose[..., :2]).max()
    need(reach < _REACH, "farthest block", f"{reach:.2f} m", f"below {_REACH} m")
    largest = np.abs(episode.action).max()
    limit = ACTION_LIMIT
    need(largest <= limit * (1 + 1e-6), "largest action", largest, f"at most {limit}")
    need(episode.policy in POLICIES, "policy", repr(episode.policy), POLICIES)
    for t, png in enumerate(episode.image):
        need(png[:8] == _PNG_MAGIC, f"frame {t}", bytes(png[:8]), "a PNG file")


def encode_png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """A frame as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def decode_png(png: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """The frame of a PNG file."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@dataclasses.dataclass(frozen=True)
class EpisodeArrays:
    """N episodes as arrays, padded behind each end, frames decoded.

    Behind an episode's end poses repeat the last one and actions are zero.

    Attributes:
      frames: uint8[F, h, w, 3], the frames of all episodes one after the other.
      first: int64[N], where an episode's frames begin in `frames`.
      length: int32[N], actions of each episode; it has one frame more.
      block_pose: float32[N, T + 1, 8, 3].
      peg: float32[N, T + 1, 2].
      action: float32[N, T, 2].
      block_id: int32[N, 8].
      policy: int32[N], index into `POLICIES`.
      episode: int64[N], number within the data set.
    """

    frames: UInt8[np.ndarray, "F h w 3"]
    first: Int[np.ndarray, " N"]
    length: Int[np.ndarray, " N"]
    block_pose: Float[np.ndarray, "N T+1 8 3"]
    peg: Float[np.ndarray, "N T+1 2"]
    action: Float[np.ndarray, "N T 2"]
    block_id: Int[np.ndarray, "N 8"]
    policy: Int[np.ndarray, " N"]
    episode: Int[np.ndarray, " N"]

    def __len__(self) -> int:
        """N, the number of episodes."""
        return len(self.length)

    def image(self, episode: Any, t: Any) -> UInt8[np.ndarray, "... h w 3"]:
        """Frames `t` (an index or an array of them) of episodes."""
        return self.frames[self.first[episode] + t]

    def scene(self, episode: Any, t: Any) -> Scene:
        """Scenes of frames `t` of episodes; indices broadcast."""
        episode, t = np.broadcast_arrays(episode, t)
        return Scene(
            block_pose=self.block_pose[episode, t],
            block_id=self.block_id[episode],
            peg=self.peg[episode, t],
        )

    def chunk(
        self, episode: Int[np.ndarray, " B"], t: Int[np.ndarray, " B"], steps: int
    ) -> Float[np.ndarray, "B steps 2"]:
        """The `steps` actions from frame `t` on; zeros behind an episode's end."""
        index = np.asarray(t)[:, None] + np.arange(steps)
        inside = index < self.length[episode][:, None]
        index = np.minimum(index, self.action.shape[1] - 1)
        actions = self.action[np.asarray(episode)[:, None], index]
        return np.where(inside[..., None], actions, np.float32(0))


def first_frames(episodes: Sequence[Episode]) -> Int[np.ndarray, " N+1"]:
    """Where each episode's frames begin if all lie one after the other; and the end."""
    return np.cumsum([0, *(len(e) + 1 for e in episodes)], dtype=np.int64)


def stack_episodes(
    episodes: Sequence[Episode],
    frames: UInt8[np.ndarray, "F h w 3"] | Sequence[UInt8[np.ndarray, "f h w 3"]],
) -> EpisodeArrays:
    """Pads and stacks.

    Args:
      episodes: N of them.
      frames: all decoded images one after the other, or one array per episode
        (empty ones where pixels are not needed).
    """
    length = np.array([len(e) for e in episodes], np.int32)
    longest = int(length.max())

    def pad(values, rows, mode):
        width = [(0, rows - len(values))] + [(0, 0)] * (values.ndim - 1)
        return np.pad(values, width, mode=mode)

    return EpisodeArrays(
        frames=frames if isinstance(frames, np.ndarray) else np.concatenate(frames),
        first=first_frames(episodes)[:-1],
        length=length,
        block_pose=np.stack([pad(e.block_pose, longest + 1, "edge") for e in episodes]),
        peg=np.stack([pad(e.peg, longest + 1, "edge") for e in episodes]),
        action=np.stack([pad(e.action, longest, "constant") for e in episodes]),
        block_id=np.stack([e.block_id for e in episodes]).astype(np.int32),
        policy=np.array([POLICIES.index(e.policy) for e in episodes], np.int32),
        episode=np.array([e.episode for e in episodes], np.int64),
    )
