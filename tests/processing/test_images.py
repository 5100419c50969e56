"""Promises of `qwenvl_jax.processing.images`."""

import io
import struct
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import simplejpeg
from matplotlib import get_data_path
from PIL import Image

from qwenvl_jax.processing.images import (
    KEPT_BLOCKS,
    MAX_PIXELS,
    decode_image,
    image_size,
    keep_memory,
    normalize,
)
from qwenvl_jax.processing.resize import resize_bicubic


def photograph(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth colours with sensor-like noise, [H, W, C] uint8."""
    rng = np.random.default_rng(seed)
    grid = rng.integers(0, 256, (max(2, height // 24), max(2, width // 24), channels), dtype=np.uint8)
    planes = [Image.fromarray(grid[..., c]).resize((width, height), 3) for c in range(channels)]
    smooth = np.stack([np.asarray(plane, np.int32) for plane in planes], axis=-1)
    return (smooth + rng.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)


PHOTOGRAPH = Path(get_data_path(), "sample_data", "grace_hopper.jpg").read_bytes()
"""A portrait of 512 x 600 pixels that comes with matplotlib, as its camera and editor stored it."""


def stored(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def by_pil(data: bytes) -> np.ndarray:
    """The reference."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
@pytest.mark.parametrize("height, width", [(112, 112), (61, 107), (1, 1), (7, 190)])
def test_jpeg_has_the_bits_of_pil(subsampling: str, height: int, width: int) -> None:
    """Baseline JPEGs of every chroma subsampling and odd sizes decode to PIL's bits."""
    for quality in (40, 90, 100):
        data = simplejpeg.encode_jpeg(photograph(height, width), quality, colorsubsampling=subsampling)
        assert image_size(data) == (width, height)
        np.testing.assert_array_equal(decode_image(data), by_pil(data))


@pytest.mark.parametrize(
    "options",
    [
        {"progressive": True},
        {"restart_marker_rows": 1},
        {"optimize": True},
        {"keep_rgb": True},
        {"icc_profile": b"\0" * 200},
        {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_jpeg_variants_have_the_bits_of_pil(options: dict[str, Any]) -> None:
    """Progressive, restart markers, RGB colour, profiles; EXIF rotation is not applied, as originally."""
    data = stored(Image.fromarray(photograph(60, 90)), **options)
    assert decode_image(data).shape == (60, 90, 3)
    np.testing.assert_array_equal(decode_image(data), by_pil(data))


@pytest.mark.parametrize(
    "kind, mode",
    [
        *(("JPEG", mode) for mode in ("L", "RGB", "CMYK", "1")),
        *(("PNG", mode) for mode in ("L", "RGB", "RGBA", "P", "LA", "1", "I;16")),
        *(("WEBP", mode) for mode in ("L", "RGB", "RGBA")),
        *(("GIF", mode) for mode in ("L", "RGB", "RGBA", "P", "1")),
        *(("BMP", mode) for mode in ("L", "RGB", "RGBA", "P", "1")),
        *(("TIFF", mode) for mode in ("L", "RGB", "RGBA", "CMYK", "P", "LA", "1", "I;16")),
    ],
)
def test_every_colour_mode_has_the_bits_of_pil(kind: str, mode: str) -> None:
    """Gray, palette, alpha, CMYK and 16-bit pictures become RGB as PIL's `convert("RGB")` makes them."""
    if mode == "I;16":
        image = Image.fromarray(photograph(40, 30, 1)[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(photograph(40, 30)).convert(mode)
    data = stored(image, kind)
    np.testing.assert_array_equal(decode_image(data), by_pil(data))


def test_the_first_picture_of_several_has_the_bits_of_pil() -> None:
    """Cameras store two pictures in a JPEG (MPO), which PIL tells from one and the decoder that is asked first does not."""
    several = {"save_all": True, "append_images": [Image.fromarray(photograph(60, 90)[::-1])]}
    data = stored(Image.fromarray(photograph(60, 90)), "MPO", **several)
    assert Image.open(io.BytesIO(data)).format == "MPO"
    np.testing.assert_array_equal(decode_image(data), by_pil(data))


def test_damaged_jpeg_that_pil_accepts_has_its_bits() -> None:
    """Where PIL shrugs at a flipped bit, so do we, with the same pixels."""
    data = bytearray(stored(Image.fromarray(photograph(90, 90)), restart_marker_rows=1))
    for position in range(len(data) // 2, len(data) // 2 + 20):
        data[position] ^= 0x55
    try:
        expected = by_pil(bytes(data))
    except OSError:
        with pytest.raises(ValueError, match="cannot be decoded"):
            decode_image(bytes(data))
    else:
        np.testing.assert_array_equal(decode_image(bytes(data)), expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF"])
def test_truncated_pictures_are_refused(kind: str) -> None:
    """A picture that is cut off is one sentence with its format and size."""
    data = stored(Image.fromarray(photograph(80, 60)), kind)
    with pytest.raises(ValueError, match=r"picture of 60x80 cannot be decoded|are no readable picture"):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0"])
def test_no_picture(data: bytes) -> None:
    """What a crawler stores instead of a picture is refused in a sentence."""
    with pytest.raises(ValueError, match="are no readable picture; give JPEG"):
        decode_image(data)
    with pytest.raises(ValueError, match="are no readable picture; give JPEG"):
        image_size(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9500, 20000, 60000])
def test_huge_pictures_are_refused_by_their_header(side: int) -> None:
    """A small file that claims a huge picture never gets its memory."""
    data = bytearray(stored(Image.fromarray(photograph(2, 2)), "BMP"))
    struct.pack_into("<ii", data, 18, side, side)
    assert side * side > MAX_PIXELS
    with pytest.raises(ValueError, match=f"more than {MAX_PIXELS} pixels"):
        decode_image(bytes(data))


@pytest.mark.parametrize("height, width", [(300, 170), (50, 30), (448, 448), (20, 900), (1, 1)])
@pytest.mark.parametrize("resolution", [56, 224, 448])
def test_transform_has_the_bits_of_the_original(height: int, width: int, resolution: int) -> None:
    """Up or down, resize and normalisation equal PIL's bicubic and the original's formula in every bit."""
    image = photograph(height, width)
    assert_transform_of_the_original(image, Image.fromarray(image), resolution)


@pytest.mark.parametrize("kind, options", [("", {}), ("JPEG", {"quality": 60}), ("PNG", {}), ("WEBP", {"quality": 80})])
@pytest.mark.parametrize("resolution", [224, 448])
def test_transform_of_a_real_photograph(kind: str, options: dict[str, Any], resolution: int) -> None:
    """From the stored bytes to the model's input, as it came and stored again in other ways."""
    data = stored(Image.open(io.BytesIO(PHOTOGRAPH)), kind, **options) if kind else PHOTOGRAPH
    assert_transform_of_the_original(decode_image(data), Image.open(io.BytesIO(data)).convert("RGB"), resolution)


def assert_transform_of_the_original(image: np.ndarray, reference: Image.Image, resolution: int) -> None:
    resized = resize_bicubic(image, resolution, resolution)
    expected = np.asarray(reference.resize((resolution, resolution), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resized, expected)
    scaled = np.asarray(expected, np.float32) / 255
    mean = np.array((0.48145466, 0.4578275, 0.40821073), np.float32)
    std = np.array((0.26862954, 0.26130258, 0.27577711), np.float32)
    result = normalize(resized)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, (scaled - mean) / std)


def test_normalize_on_jax_arrays() -> None:
    """The device computes what NumPy computes, in float32, for any leading axes."""
    images = photograph(8, 6).reshape(2, 4, 6, 3)
    result = normalize(jnp.asarray(images))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, normalize(images), rtol=1e-6, atol=1e-6)


def test_memory_is_kept() -> None:
    """PIL takes the memory of the next pictures from those before; with the same bits."""
    data = stored(Image.fromarray(photograph(300, 200)), "PNG")
    expected = decode_image(data)
    try:
        keep_memory()
        decode_image(data)
        new = Image.core.get_stats()["allocated_blocks"]
        np.testing.assert_array_equal(decode_image(data), expected)
        assert Image.core.get_stats()["allocated_blocks"] == new
        assert Image.core.get_blocks_max() == KEPT_BLOCKS
    finally:
        Image.core.set_blocks_max(0)
