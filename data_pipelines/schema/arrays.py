"""Episodes of one data set as padded arrays, for samplers and statistics.

Axes: N episodes, F frames of all episodes together, T the longest episode's actions.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from data_pipelines.schema.domains import get_domain
from data_pipelines.schema.episode import DataError, Episode, Labels


@dataclasses.dataclass(frozen=True)
class EpisodeArrays:
    """N episodes as arrays padded to the longest.

    After an episode's end states repeat the last one and actions are zero.

    Attributes:
      frames: the frames of all episodes one after the other, indexed like
        uint8[F, h, w, 3]: an array, or a store that decodes (`frames.FrameStore`).
      first: int64[N], index in `frames` of an episode's first frame.
      length: int32[N], actions of each episode; it has one frame more.
      action: float32[N, T, A].
      state: name -> [N, T + 1, ...], or [N, ...] for fields stored once per episode.
      policy: int32[N], index into `policies`.
      policies: names.
      episode: int64[N], number within the data set.
      domain: see `domains`.
      labels: N `Labels`.
      instruction: N texts.
    """

    frames: Any
    first: Int[np.ndarray, " N"]
    length: Int[np.ndarray, " N"]
    action: Float[np.ndarray, "N T A"]
    state: Mapping[str, np.ndarray]
    policy: Int[np.ndarray, " N"]
    policies: tuple[str, ...]
    episode: Int[np.ndarray, " N"]
    domain: str = "board"
    labels: tuple[Labels, ...] = ()
    instruction: tuple[str, ...] = ()

    def __len__(self) -> int:
        """N, the number of episodes."""
        return len(self.length)

    if TYPE_CHECKING:  # fields of every world's state, resolved by __getattr__

        @property
        def block_pose(self) -> Float[np.ndarray, "N frames s pose"]: ...
        @property
        def block_id(self) -> Int[np.ndarray, "N s"]: ...

    def __getattr__(self, name: str) -> np.ndarray:
        """A state field by its name (`block_pose`, `peg`, ...)."""
        state = self.__dict__.get("state", {})
        if name in state:
            return state[name]
        raise AttributeError(
            f"episodes of domain '{self.__dict__.get('domain')}' have no '{name}'"
        )

    def image(self, episode: Any, t: Any) -> UInt8[np.ndarray, "... h w 3"]:
        """Frames `t` (an index or an array of them) of episodes."""
        return self.frames[self.first[episode] + t]

    def scene(self, episode: Any, t: Any) -> Any:
        """Scenes of frames `t` of episodes; indices broadcast.

        Raises:
          DataError: the domain has no scenes.
        """
        domain = get_domain(self.domain)
        if domain.scene is None:
            raise DataError(f"domain '{self.domain}' has no scene, only pictures")
        episode, t = np.broadcast_arrays(episode, t)
        return domain.scene.kind(
            **{
                name: self.state[name][(episode, t) if field.per_frame else episode]
                for name, field in domain.state.items()
            }
        )

    def chunk(
        self, episode: Int[np.ndarray, " B"], t: Int[np.ndarray, " B"], steps: int
    ) -> Float[np.ndarray, "B steps A"]:
        """The `steps` actions from frame `t` on; zeros after an episode's end."""
        index = np.asarray(t)[:, None] + np.arange(steps)
        inside = index < self.length[episode][:, None]
        index = np.minimum(index, self.action.shape[1] - 1)
        actions = self.action[np.asarray(episode)[:, None], index]
        return np.where(inside[..., None], actions, np.float32(0))

    def select(self, rows: Int[np.ndarray, " n"]) -> "EpisodeArrays":
        """The episodes in `rows`; frames are shared, not copied."""
        return dataclasses.replace(
            self,
            first=self.first[rows],
            length=self.length[rows],
            action=self.action[rows],
            state={name: value[rows] for name, value in self.state.items()},
            policy=self.policy[rows],
            episode=self.episode[rows],
            labels=tuple(self.labels[i] for i in rows),
            instruction=tuple(self.instruction[i] for i in rows),
        )

    def inside(self) -> Float[np.ndarray, "n A"]:
        """All actions of all episodes in one array, without padding."""
        steps = np.arange(self.action.shape[1])
        return self.action[steps < self.length[:, None]]


def first_frames(episodes: Sequence[Episode]) -> Int[np.ndarray, " bounds"]:
    """Offsets of the episodes' frames if concatenated, then the total: 0, 9, 20."""
    return np.cumsum([0, *(len(e) + 1 for e in episodes)], dtype=np.int64)


def stack_episodes(
    episodes: Sequence[Episode],
    frames: Any,
) -> EpisodeArrays:
    """Pads episodes to the longest and stacks them.

    Args:
      episodes: N of them, of one domain.
      frames: all decoded images one after the other (an array or a store), or one
        array per episode (empty ones where pixels are not needed).

    Raises:
      DataError: episodes of several domains, or of several action or state widths.
    """
    length = np.array([len(e) for e in episodes], np.int32)
    longest = int(length.max())
    first = episodes[0]
    for e in episodes:
        same = e.domain == first.domain and set(e.state) == set(first.state)
        if not same or e.action.shape[1] != first.action.shape[1]:
            raise DataError(
                f"episode {e.episode} ({_kind(e)}) cannot be stacked with episode "
                f"{first.episode} ({_kind(first)})"
            )

    def pad(values, rows, mode):
        width = [(0, rows - len(values))] + [(0, 0)] * (values.ndim - 1)
        return np.pad(values, width, mode=mode)

    fields = get_domain(first.domain).state

    def stack(name):
        values = [e.state[name] for e in episodes]
        if fields[name].per_frame:
            values = [pad(value, longest + 1, "edge") for value in values]
        return np.stack(values).astype(fields[name].dtype)

    names = sorted({e.policy for e in episodes})
    return EpisodeArrays(
        frames=np.concatenate(frames) if isinstance(frames, list) else frames,
        first=first_frames(episodes)[:-1],
        length=length,
        action=np.stack([pad(e.action, longest, "constant") for e in episodes]),
        state={name: stack(name) for name in first.state},
        policy=np.array([names.index(e.policy) for e in episodes], np.int32),
        policies=tuple(names),
        episode=np.array([e.episode for e in episodes], np.int64),
        domain=first.domain,
        labels=tuple(e.labels for e in episodes),
        instruction=tuple(e.instruction for e in episodes),
    )


def _kind(episode: Episode) -> str:
    state = ", ".join(sorted(episode.state)) or "no state"
    width = episode.action.shape[1]
    return f"{episode.domain}, actions of {width} numbers, {state}"
