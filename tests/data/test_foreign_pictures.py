"""Pictures of others: 8 bits per channel and RGB, or refused by name."""

import dataclasses
import io

import numpy as np
import pytest
from foreign_data import CAMERA, SIZE, edit_info, frame, lerobot, write_video
from PIL import Image

from data_pipelines.schema.episode import (
    DataError,
    Episode,
    decode_frame,
    encode_png,
    frame_size,
)
from data_pipelines.schema.frames import decode_as
from data_pipelines.schema.read import read_episodes
from data_pipelines.sources.convert import Settings, convert
from data_pipelines.sources.videos import read_video

KEEP = Settings(size=None, val_share=0.34)
SMALL = Settings(size=(24, 24), val_share=0.34)


def saved(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of_16_bit_colours():
    """Pillow writes none: header, one zlib stream of 6 bytes a pixel, end."""
    import struct
    import zlib

    height, width = SIZE
    row = b"\0" + np.full((width, 3), 500, ">u2").tobytes()

    def chunk(name, data):
        crc = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + crc

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * height))
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b"")


DEEP = {
    "grey PNG of 16 bits": saved(np.full(SIZE, 500, np.uint16)),
    "colour PNG of 16 bits": png_of_16_bit_colours(),
    "TIFF of 16 bits": saved(np.full(SIZE, 500, np.uint16), "TIFF"),
    "TIFF of floats": saved(np.full(SIZE, 0.5, np.float32), "TIFF"),
    "TIFF of 32 bits": saved(np.full(SIZE, 70000, np.int32), "TIFF"),
}


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("settings", [KEEP, SMALL], ids=["keep", "resize"])
def test_pictures_of_more_than_8_bits_are_refused_by_name(tmp_path, name, settings):
    source = lerobot(tmp_path / "in", "v2.1", pictures=lambda e, t: DEEP[name])
    match = r"episode 0: frame 0 is a (png|tiff) .*expected 8 bits per channel"
    with pytest.raises(DataError, match=match):
        convert(source, tmp_path / "out", settings)


@pytest.mark.parametrize("name", DEEP)
def test_every_decoder_of_stored_frames_refuses_them_too(name):
    for decode in (
        decode_frame,
        frame_size,
        lambda file: decode_as(file, SIZE, False, "frame 3"),
        lambda file: decode_as(file, (24, 24), True, "frame 3"),
    ):
        with pytest.raises(DataError, match="8 bits per channel"):
            decode(DEEP[name])


def with_alpha(episode, t):
    alpha = np.full((*SIZE, 1), 40, np.uint8)
    return saved(np.concatenate([frame(episode, t), alpha], -1))


def grey(episode, t):
    return saved(frame(episode, t)[..., 1])


def palette(episode, t):
    return saved(Image.fromarray(frame(episode, t)).quantize(4))


def grey_jpeg(episode, t):
    return saved(frame(episode, t)[..., 1], "JPEG", quality=95)


@pytest.mark.parametrize("settings", [KEEP, SMALL], ids=["keep", "resize"])
@pytest.mark.parametrize("pictures", [with_alpha, grey, palette, grey_jpeg])
def test_other_channels_become_rgb(tmp_path, pictures, settings):
    source = lerobot(tmp_path / "in", "v2.1", pictures=pictures)
    convert(source, tmp_path / "out", settings)
    episodes: list[Episode] = list(read_episodes(tmp_path / "out", "train"))
    assert episodes
    for episode in episodes:
        for t, file in enumerate(episode.image):
            assert Image.open(io.BytesIO(file)).mode == "RGB"
            want = frame(episode.episode, t)[0, 0].astype(int)
            if pictures in (grey, grey_jpeg):
                want = want[[1, 1, 1]]
            seen = decode_frame(file).reshape(-1, 3).mean(0)
            assert np.abs(seen - want).max() < 3


@pytest.mark.parametrize(
    "codec, pixels", [("libx264", "yuv420p10le"), ("ffv1", "gray16le")]
)
def test_videos_of_more_than_8_bits_are_refused_by_name(tmp_path, codec, pixels):
    film = [frame(0, t) for t in range(6)]
    video = tmp_path / "film.mkv"
    write_video(video, film, codec=codec, pixels=pixels)
    with pytest.raises(DataError, match=f"has pixels {pixels}, expected 8 bits"):
        list(read_video(video, 6, 10))


@pytest.mark.parametrize("where", ["info", "video_info", None])
def test_depth_features_are_no_cameras(tmp_path, where):
    source = lerobot(tmp_path / "in", "v2.1", cameras=(CAMERA, "depth"))

    def change(info):
        about = info["features"]["depth"]
        if where:
            about[where] = {"video.is_depth_map": True}
        else:
            about["is_depth_map"] = True

    edit_info(source, change)
    assert convert(source, tmp_path / "a", SMALL).episodes == 3  # the one with colours
    settings = dataclasses.replace(SMALL, camera="depth")
    with pytest.raises(DataError, match=f"'depth' measures depth.*{CAMERA}"):
        convert(source, tmp_path / "b", settings)


def test_arrays_of_another_type_are_told(tmp_path, monkeypatch):
    from data_pipelines.sources import convert as module
    from data_pipelines.sources.raw import RawEpisode

    class Floats:
        name, domain, fps, splits = "floats", "other", 10.0, {"train": range(2)}

        def read(self, number):
            frames = np.zeros((4, *SIZE, 3), np.float32)
            return RawEpisode(frames, np.zeros((4, 2), np.float32), {}, "", "human")

    with pytest.raises(DataError, match=r"frame 0 is float32\[32, 48, 3\], expected"):
        module.convert_source(Floats(), tmp_path / "out", SMALL, {})


def test_damaged_pictures_are_named(tmp_path):
    file = encode_png(frame(0, 0))
    for bad in (
        b"",
        b"GIF89a",
        file[:40],
        file[:-30],
        b"\x89PNG\r\n\x1a\n" + bytes(40),
    ):
        with pytest.raises(DataError, match="frame 5"):
            decode_frame(bad, "frame 5")
