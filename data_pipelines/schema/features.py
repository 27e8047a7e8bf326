"""Schema of a folder of episodes, and its TFDS features."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from data_pipelines.schema.domains import get_domain
from data_pipelines.schema.episode import DataError, Episode, frame_size

# protobuf makes the class when the module is imported
Example: Any = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]


@dataclasses.dataclass(frozen=True)
class Schema:
    """Domain, frame format and widths that all episodes of a folder share.

    Attributes:
      domain: see `domains`.
      encoding: "png" or "jpeg".
      height, width: of a frame, pixels.
      action_size: numbers per action.
      state: (name, shape after the frame axis) of each array, by name.
    """

    domain: str
    encoding: str
    height: int
    width: int
    action_size: int
    state: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, episode: Episode) -> "Schema":
        """Schema of a validated episode."""
        fields = get_domain(episode.domain).state
        shapes = {
            name: value.shape[1:] if fields[name].per_frame else value.shape
            for name, value in episode.state.items()
        }
        return cls(
            episode.domain,
            *frame_size(episode.image[0]),
            episode.action.shape[1],
            tuple(sorted(shapes.items())),
        )

    def check(self, episode: Episode, name: str) -> None:
        """Checks that an episode has this schema.

        Raises:
          DataError: a difference; names the episode and the field.
        """
        seen = Schema.of(episode)
        for field in dataclasses.fields(self):
            mine, its = getattr(self, field.name), getattr(seen, field.name)
            if mine != its:
                raise DataError(
                    f"{name}: {field.name} is {its}, expected {mine} as in the "
                    "episodes before it"
                )
        frame = (self.encoding, self.height, self.width)
        for t, file in enumerate(episode.image):
            size = frame_size(file)
            if size != frame:
                raise DataError(f"{name}: frame {t} is {size}, expected {frame}")

    def features(self) -> tfds.features.FeaturesDict:
        """The TFDS features of an episode."""
        tensor, scalar = tfds.features.Tensor, tfds.features.Scalar
        text, many = tfds.features.Text, tfds.features.Sequence
        frame = tfds.features.Image(
            shape=(self.height, self.width, 3),
            dtype=np.uint8,
            encoding_format=self.encoding,
        )
        state = {}
        fields = get_domain(self.domain).state
        for name, shape in self.state:
            if fields[name].per_frame:
                shape = (None, *shape)
            state[name] = tensor(shape=shape, dtype=np.dtype(fields[name].dtype))
        return tfds.features.FeaturesDict(
            {
                "image": many(frame),
                "action": tensor(shape=(None, self.action_size), dtype=np.float32),
                **state,
                "domain": text(),
                "source": text(),
                "instruction": text(),
                "policy": text(),
                "seed": scalar(dtype=np.int64),
                "episode": scalar(dtype=np.int64),
                "fps": scalar(dtype=np.float32),
                "label_t": tensor(shape=(None,), dtype=np.int32),
                "label_horizon": tensor(shape=(None,), dtype=np.int32),
                "label_question": many(text()),
                "label_answer": many(text()),
                "label_confidence": tensor(shape=(None,), dtype=np.float32),
                "schema_version": scalar(dtype=np.int32),
            }
        )


def schema_of_shard(path: Path) -> Schema:
    """Schema of a shard's first episode, for a folder without `dataset_info.json`.

    Raises:
      DataError: the shard is empty or damaged.
    """
    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        record = reader.read([0])[0]
    except (IndexError, OSError, RuntimeError) as error:
        raise DataError(f"{path} has no readable record: delete it") from error
    finally:
        reader.close()
    example = Example.FromString(record).features.feature
    domain = example["domain"].bytes_list.value[0].decode()
    images = example["image"].bytes_list.value
    actions = len(example["action"].float_list.value)
    state = []
    for name, field in get_domain(domain).state.items():
        if name in example:
            kind = "float_list" if field.dtype == "float32" else "int64_list"
            # Protobuf lists are flat: recover the free axis from the total size.
            size = len(getattr(example[name], kind).value)
            size //= len(images) if field.per_frame else 1
            fixed = [x for x in field.shape if x is not None]
            free = size // int(np.prod(fixed)) if None in field.shape else None
            shape = tuple(free if x is None else x for x in field.shape)
            state.append((name, shape))
    return Schema(
        domain,
        *frame_size(images[0]),
        actions // (len(images) - 1),  # T + 1 frames, T actions
        tuple(sorted(state)),
    )
