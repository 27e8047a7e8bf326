"""The bicubic resize against Pillow's, to the last bit."""

import jax
import numpy as np
import pytest
from PIL import Image

from swm_jax.models import preprocess_image


def levels(pixels):
    return np.rint((np.asarray(pixels) + 1) * 127.5).astype(int)


@pytest.mark.parametrize(
    "shape, size",
    [((180, 320), 224), ((480, 64), 28), ((50, 31), 56), ((28, 40), 28), ((9, 7), 7)],
    ids=str,
)
def test_bicubic_pixels_are_pillow_s(shape, size):
    rng = np.random.default_rng(size)
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    edges = rng.random((shape[0] // 2, shape[1], 1)) > 0.5
    image[: len(edges)] = np.where(edges, 255, 0)  # the filter overshoots here
    # Side by side, not at once: releases of Pillow differ in which one comes first.
    expected = Image.fromarray(image).resize((size, shape[0]), Image.Resampling.BICUBIC)
    expected = np.asarray(expected.resize((size, size), Image.Resampling.BICUBIC))
    result = jax.jit(lambda x: preprocess_image(x, size, "bicubic"))(image)
    np.testing.assert_array_equal(levels(result), expected)


def test_leading_axes_are_images_of_their_own():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 12, 9, 3), np.uint8)
    together = preprocess_image(images, 8, "bicubic")
    alone = preprocess_image(images[1, 2], 8, "bicubic")
    np.testing.assert_array_equal(together[1, 2], alone)


def test_images_of_the_model_s_size_keep_their_levels():
    image = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    np.testing.assert_array_equal(levels(preprocess_image(image, 6, "bicubic")), image)
