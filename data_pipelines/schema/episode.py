"""Schema of an episode, shared by all sources and validated on writing and reading.

An episode has T actions and T + 1 frames: frame t is the state before action t, and
action t leads to frame t + 1. States are aligned with frames. A question at horizon h
from start t is answered from frames t and t + h, with the actions t .. t + h - 1
between them.

    field             per episode          unit, meaning
    image             T + 1 PNG or JPEG    RGB, one size and kind in a data set
    action            float32[T, A]        as sent to the robot or simulator
    (state)           see `domains`        poses, as the domain defines
    domain            text                 see `domains`
    source            text                 generator or data set of origin
    instruction       text                 the robot's instruction; may be empty
    policy            text                 name of the acting policy
    seed              int64                seed of the whole data set
    episode           int64                number within it
    fps               float32              frames per second; 0 if unknown
    label_t           int32[L]             start frame of a stored question
    label_horizon     int32[L]             actions until the frame it is about
    label_question    L texts
    label_answer      L texts
    label_confidence  float32[L]           of the labeller, in 0..1
    schema_version    int32                `SCHEMA_VERSION`

Version 1 was for the board alone and lacks labels, domain, source, instruction and
fps; these are filled in on reading.
"""

import dataclasses
import io
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, UnidentifiedImageError

from data_pipelines.schema.domains import get_domain
from swm_jax.choices import first_line

SCHEMA_VERSION = 2
READABLE = (1, 2)  # schema versions
TEXTS = ("domain", "source", "instruction", "policy")
LABELS = (
    "label_t",
    "label_horizon",
    "label_question",
    "label_answer",
    "label_confidence",
)
FIELDS = (  # all but the state's
    "image",
    "action",
    *TEXTS,
    "seed",
    "episode",
    "fps",
    *LABELS,
    "schema_version",
)
_SINCE_2 = {"domain": "board", "source": "board", "instruction": "", "fps": 10.0}
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8\xff"
# Pillow's modes of at most 8 bits per channel.
_EIGHT_BITS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr")
_BITS_PER_SAMPLE = 258


class DataError(ValueError):
    """Missing, damaged or mismatched data; a message of one line that names it."""


@dataclasses.dataclass(frozen=True)
class Labels:
    """L stored questions and answers, for episodes without exact predicates.

    Attributes:
      t: int32[L], start frames.
      horizon: int32[L], actions from there to the frame of the answer.
      question, answer: L texts each.
      confidence: float32[L], in 0..1.
    """

    t: Int[np.ndarray, " L"]
    horizon: Int[np.ndarray, " L"]
    question: Sequence[str]
    answer: Sequence[str]
    confidence: Float[np.ndarray, " L"]

    def __len__(self) -> int:
        """L."""
        return len(self.t)

    @classmethod
    def none(cls) -> "Labels":
        """Empty labels."""
        empty = np.zeros(0, np.int32)
        return cls(empty, empty, (), (), np.zeros(0, np.float32))


@dataclasses.dataclass(frozen=True)
class Episode:
    """One episode; see the module's table.

    Attributes:
      image: T + 1 PNG or JPEG files.
      action: float32[T, A].
      state: name -> array, as the domain defines.
      policy: name of the acting policy.
      seed: seed of the data set.
      episode: number within the data set.
      domain, source, instruction, fps, labels: as in the table.
    """

    image: Sequence[bytes]
    action: Float[np.ndarray, "T A"]
    state: Mapping[str, np.ndarray]
    policy: str
    seed: int
    episode: int
    domain: str = "board"
    source: str = "board"
    instruction: str = ""
    fps: float = 10.0
    labels: Labels = dataclasses.field(default_factory=Labels.none)

    def __len__(self) -> int:
        """T, the number of actions."""
        return len(self.action)

    def record(self) -> dict[str, Any]:
        """Fields in the stored form."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        state, labels = fields.pop("state"), fields.pop("labels")
        return {
            **fields,
            **state,
            "image": list(self.image),
            "fps": np.float32(self.fps),
            "label_t": labels.t,
            "label_horizon": labels.horizon,
            "label_question": list(labels.question),
            "label_answer": list(labels.answer),
            "label_confidence": labels.confidence,
            "schema_version": SCHEMA_VERSION,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any], name: str = "record") -> "Episode":
        """Episode of a stored record, validated.

        Raises:
          DataError: another schema version, a missing field or an invalid value.
        """
        version = int(record.get("schema_version", -1))
        if version not in READABLE:
            raise DataError(
                f"{name} has schema version {version}, this code reads "
                f"{' and '.join(map(str, READABLE))}: generate the data again"
            )
        if version == 1:
            record = {**_SINCE_2, **record}
        wanted = FIELDS if version > 1 else [f for f in FIELDS if f not in LABELS]
        missing = [field for field in wanted if field not in record]
        if missing:
            raise DataError(f"{name} lacks the field '{missing[0]}'")
        labels = Labels.none()
        if version > 1:
            labels = Labels(
                t=np.asarray(record["label_t"], np.int32),
                horizon=np.asarray(record["label_horizon"], np.int32),
                question=tuple(_text(x) for x in record["label_question"]),
                answer=tuple(_text(x) for x in record["label_answer"]),
                confidence=np.asarray(record["label_confidence"], np.float32),
            )
        episode = cls(
            image=list(record["image"]),
            action=np.asarray(record["action"]),
            state={k: np.asarray(v) for k, v in record.items() if k not in FIELDS},
            seed=int(record["seed"]),
            episode=int(record["episode"]),
            fps=float(record["fps"]),
            labels=labels,
            **{field: _text(record[field]) for field in TEXTS},
        )
        validate(episode, name)
        return episode


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def validate(episode: Episode, name: str = "episode") -> None:
    """Checks shapes, types and ranges.

    Raises:
      DataError: names the episode, the field, the value seen and the one expected.
    """

    def need(good: Any, field: str, seen: Any, expected: Any) -> None:
        if not good:
            raise DataError(f"{name}: {field} is {seen}, expected {expected}")

    try:
        domain = get_domain(episode.domain)
    except ValueError as error:
        raise DataError(f"{name}: {error}") from error
    steps = len(episode.action)
    need(steps >= 1, "number of actions", steps, "at least 1")
    need(len(episode.image) == steps + 1, "frames", len(episode.image), steps + 1)
    missing = [x for x in domain.state if x not in episode.state]
    if missing and not domain.optional:
        raise DataError(f"{name} lacks the field '{missing[0]}'")
    unknown = [x for x in episode.state if x not in domain.state]
    need(not unknown, "state", unknown, f"of {', '.join(domain.state)}")
    fields: dict[str, tuple[np.ndarray, tuple[int | None, ...], str]]
    fields = {"action": (episode.action, (steps, domain.action_size), "float32")}
    for field, spec in domain.state.items():
        if field in episode.state:
            shape = (steps + 1, *spec.shape) if spec.per_frame else spec.shape
            fields[field] = (episode.state[field], shape, spec.dtype)
    for field, (value, shape, dtype) in fields.items():
        fits = value.ndim == len(shape) and all(
            want in (None, have) for want, have in zip(shape, value.shape)
        )
        expected = tuple("any" if x is None else x for x in shape)
        need(fits, f"shape of {field}", value.shape, expected)
        need(value.dtype == dtype, f"type of {field}", value.dtype, dtype)
        need(np.isfinite(value).all(), field, "not finite", "finite numbers")
    if domain.scene:
        domain.scene.check(episode.state, need)
    if domain.action_limit is not None:
        largest, limit = np.abs(episode.action).max(), domain.action_limit
        good = largest <= limit * (1 + 1e-6)
        need(good, "largest action", largest, f"at most {limit}")
    if domain.policies:
        known = episode.policy in domain.policies
        need(known, "policy", repr(episode.policy), domain.policies)
    need(bool(episode.policy), "policy", "empty", "who acted, in a word")
    _validate_labels(episode.labels, steps, need)
    for t, file in enumerate(episode.image):
        good = file[:8] == _PNG_MAGIC or file[:3] == _JPEG_MAGIC
        need(good, f"frame {t}", bytes(file[:8]), "a PNG or JPEG file")


def _validate_labels(labels: Labels, steps: int, need) -> None:
    sizes = [len(getattr(labels, f.name)) for f in dataclasses.fields(labels)]
    need(len(set(sizes)) == 1, "number of label fields", sizes, "all the same")
    if len(labels):
        end = labels.t + labels.horizon
        good = (labels.t >= 0).all() and (labels.horizon >= 0).all()
        good = bool(good and (end <= steps).all())
        need(good, "frame of a label", f"{end.min()}..{end.max()}", f"0..{steps}")
        low, high = labels.confidence.min(), labels.confidence.max()
        need(low >= 0 and high <= 1, "confidence", (low, high), "in 0..1")
        need(all(labels.question), "question of a label", "empty", "words")
        need(all(labels.answer), "answer of a label", "empty", "words")


def encode_png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """PNG file of a rendered frame.

    Rendered frames consist of flat areas, whose redundancy is runs of equal bytes:
    run-length matching (Z_RLE) takes half the time of full deflate for 2 % more bytes.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1, compress_type=3)
    return buffer.getvalue()


def encode_frame(image: UInt8[np.ndarray, "h w 3"], kind: str) -> bytes:
    """File of a frame: "png" (lossless) or "jpeg" (smaller for camera images)."""
    buffer = io.BytesIO()
    options = {"quality": 95} if kind == "jpeg" else {}
    Image.fromarray(image).save(buffer, kind.upper(), **options)
    return buffer.getvalue()


def decode_frame(file: bytes, name: str = "a frame") -> UInt8[np.ndarray, "h w 3"]:
    """RGB frame of a picture file, without its alpha channel.

    Raises:
      DataError: no picture, a damaged one, or one of more than 8 bits per channel; the
        message begins with `name`.
    """
    return np.asarray(open_frame(file, name))


def open_frame(file: bytes, name: str = "a frame") -> Image.Image:
    """`decode_frame` as a Pillow image of mode RGB."""
    image = _open(file, name)
    try:
        return image if image.mode == "RGB" and image.load() else image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise many kinds
        raise DataError(f"{name} cannot be decoded ({first_line(error)})") from error


def frame_size(file: bytes, name: str = "a frame") -> tuple[str, int, int]:
    """Format ("png" or "jpeg"), height and width from a file's header.

    Raises:
      DataError: no picture, or one of more than 8 bits per channel.
    """
    if _is_png(file):
        _check_bits(file[24], "png", name)
        width, height = struct.unpack(">II", file[16:24])
        return "png", height, width
    image = _open(file, name)
    return str(image.format).lower(), image.height, image.width


def is_rgb(file: bytes) -> bool:
    """Whether a picture has the three channels that are stored, by its header."""
    return file[25] == 2 if _is_png(file) else _open(file, "a frame").mode == "RGB"


def _is_png(file: bytes) -> bool:
    return file[:8] == _PNG_MAGIC and len(file) >= 26


def _open(file: bytes, name: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(file))
    except Exception as error:  # Pillow's readers raise many kinds
        known = not isinstance(error, UnidentifiedImageError)
        reason = first_line(error) if known else f"it begins with {bytes(file[:12])!r}"
        raise DataError(f"{name} cannot be decoded ({reason})") from error
    kind = str(image.format).lower()
    if image.mode not in _EIGHT_BITS:
        raise DataError(
            f"{name} is a {kind} of mode {image.mode}, expected 8 bits per channel: "
            "depth and raw sensor values are no pictures"
        )
    # Pillow cuts 16 bits per colour to 8 in silence: ask the header.
    tags = getattr(image, "tag_v2", {})  # of a TIFF file
    bits = [file[24]] if _is_png(file) else tags.get(_BITS_PER_SAMPLE, ())
    _check_bits(max(bits, default=8), kind, name)
    return image


def _check_bits(bits: int, kind: str, name: str) -> None:
    if bits > 8:
        raise DataError(
            f"{name} is a {kind} of {bits} bits per channel, expected 8 bits per "
            "channel: depth and raw sensor values are no pictures"
        )
