"""Pictures: every kind a client may send, and the broken and hostile ones that are refused."""

from __future__ import annotations

import json
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coalmine.protocol import Array
from coalmine_transformers.image import ImageSettings, ImageTransformer

PLAIN = ImageSettings(size=16, resize=16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def encoded(picture: Image.Image, kind: str = "PNG", **more: Any) -> bytes:
    file = BytesIO()
    picture.save(file, kind, **more)
    return file.getvalue()


def noise(width: int, height: int, channels: int = 3) -> Array:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def transformed(*files: bytes, settings: ImageSettings = PLAIN) -> Array:
    array = np.array([*files, None], dtype=np.object_)[:-1]
    return ImageTransformer(settings).preprocess({"image": array})["image"]


def bytes_of(image: Array) -> Array:
    return np.round(image * 255).astype(np.uint8).transpose(1, 2, 0)


def test_a_picture_of_the_right_size_arrives_unchanged() -> None:
    pixels = noise(16, 16)
    found = transformed(encoded(Image.fromarray(pixels)))
    assert found.shape == (1, 3, 16, 16)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(bytes_of(found[0]), pixels)


@pytest.mark.parametrize("size", [(300, 200), (200, 301), (256, 256), (90, 71), (1000, 333)])
def test_resize_crop_and_normalise_are_those_of_the_papers(size: tuple[int, int]) -> None:
    """Torchvision's formulas, written out here with Pillow."""
    pixels = noise(*size)
    found = transformed(encoded(Image.fromarray(pixels)), settings=ImageSettings())[0]
    short, long = min(size), max(size)
    other = int(256 * long / short)
    resized = (256, other) if size[0] <= size[1] else (other, 256)
    picture = Image.fromarray(pixels).resize(resized, Image.Resampling.BILINEAR)
    left, top = round((resized[0] - 224) / 2.0), round((resized[1] - 224) / 2.0)
    crop = np.asarray(picture)[top : top + 224, left : left + 224]
    wanted = (crop / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(found, wanted.transpose(2, 0, 1), atol=1e-5)


def test_a_jpeg_arrives_about_as_it_was() -> None:
    ramp = np.linspace(0, 255, 16).astype(np.uint8)
    pixels = np.repeat(np.tile(ramp, (16, 1))[:, :, None], 3, axis=2)
    found = transformed(encoded(Image.fromarray(pixels), "JPEG", quality=95))
    assert np.abs(bytes_of(found[0]).astype(int) - pixels).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_upright(orientation: int) -> None:
    corner = np.zeros((16, 16, 3), np.uint8)
    corner[:8, :8] = 255  # the camera's top left
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = transformed(encoded(Image.fromarray(corner), "JPEG", exif=exif.tobytes()))[0]
    quarters = found.mean(axis=0).reshape(2, 8, 2, 8).mean(axis=(1, 3))
    # Where the 0th row and the 0th column of the file are, by the EXIF standard.
    places = [(0, 0), (0, 1), (1, 1), (1, 0), (0, 0), (0, 1), (1, 1), (1, 0)]
    assert np.unravel_index(quarters.argmax(), (2, 2)) == places[orientation - 1]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    picture = Image.fromarray(noise(16, 16)).convert(mode)
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    file = encoded(picture, kind, **({"quality": 100} if kind == "JPEG" else {}))
    with Image.open(BytesIO(file)) as again:
        wanted = np.asarray(again.convert("RGB"))
    np.testing.assert_array_equal(bytes_of(transformed(file)[0]), wanted)


def test_a_palette_with_shades_of_transparency() -> None:
    picture = Image.fromarray(noise(16, 16)).convert("P", palette=Image.Palette.ADAPTIVE)
    file = encoded(picture, transparency=bytes(range(256)))
    wanted = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(bytes_of(transformed(file)[0]), wanted)


def test_sixteen_bits_of_grey_are_scaled_not_clipped() -> None:
    grey = np.random.default_rng(0).integers(0, 65536, (16, 16)).astype(np.uint16)
    found = bytes_of(transformed(encoded(Image.fromarray(grey)))[0])
    np.testing.assert_array_equal(found, np.repeat((grey >> 8)[:, :, None], 3, axis=2))


def attempted(file: bytes) -> Array | None:
    """The picture, or None if it was refused for what it is."""
    try:
        return transformed(file)
    except ValueError as error:
        return None if str(error).startswith("image, row 0: ") else pytest.fail(str(error))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_cut_file_is_refused_wherever_it_is_cut(kind: str) -> None:
    file = encoded(Image.fromarray(noise(24, 24)), kind)
    whole = transformed(file)
    refused = 0
    for length in range(0, len(file), 7):
        found = attempted(file[:length])
        if found is None:
            refused += 1
        else:
            np.testing.assert_array_equal(found, whole)  # only what follows the pixels was cut
    assert refused > 0.95 * len(range(0, len(file), 7))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_flipped_byte_is_a_picture_or_a_refusal_and_nothing_else(kind: str) -> None:
    file = encoded(Image.fromarray(noise(24, 24)), kind)
    for position in range(0, len(file), 5):
        broken = bytearray(file)
        broken[position] ^= 0xFF
        found = attempted(bytes(broken))
        assert found is None or found.shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    "file", [b"", b"0", b"<svg/>", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"x" * 1000]
)
def test_what_is_no_picture_is_refused(file: bytes) -> None:
    with pytest.raises(ValueError, match="image, row 0: "):
        transformed(file)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_other_formats_are_refused_whatever_they_hold(kind: str) -> None:
    file = encoded(Image.fromarray(noise(16, 16)), kind)
    with pytest.raises(ValueError, match="image, row 0: not a JPEG or PNG file"):
        transformed(file)


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def huge_png(width: int, height: int) -> bytes:
    """A few hundred bytes that claim, and would unpack to, a huge picture."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


@pytest.mark.parametrize("size", [(8000, 8000), (12000, 12000), (60000, 60000), (2**31 - 1, 9)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"image, row 0: .*more than the 50000000 pixels"):
        transformed(huge_png(*size))


def test_a_long_thin_picture_is_refused_before_it_is_made_wide() -> None:
    file = encoded(Image.fromarray(noise(30000, 1)))
    with pytest.raises(ValueError, match=r"256 x|x 256 pixels: more than"):
        transformed(file, settings=ImageSettings(max_pixels=1_000_000))


def scans(count: int, *, after: bytes = b"") -> bytes:
    """A JPEG with so many scans more than it needs, each of which changes nothing."""
    file = encoded(Image.new("L", (64, 64), 90), "JPEG", progressive=True)
    end = file.rindex(b"\xff\xd9")
    last = file[file.rindex(b"\xff\xc4") : end]  # a scan and its table
    return file[:end] + last * count + file[end:] + after


def test_a_jpeg_that_is_decoded_again_and_again_is_refused() -> None:
    """Each scan is a hundred bytes, and passes over all pixels: an hour for what may be sent."""
    with pytest.raises(ValueError, match="row 0: a JPEG of more than 100 scans"):
        transformed(scans(101))
    video = b"\xff\xda\x00" * 300
    plain, kept, followed = transformed(scans(0), scans(50), scans(50, after=video))
    np.testing.assert_array_equal(kept, plain)
    np.testing.assert_array_equal(followed, plain)


def test_the_bad_one_of_many_is_named() -> None:
    good = encoded(Image.fromarray(noise(16, 16)))
    with pytest.raises(ValueError, match="image, row 2: not a JPEG or PNG"):
        transformed(good, good, b"no picture", good)


def test_the_best_labels_are_the_answer() -> None:
    settings = ImageSettings(labels=("cat", "dog", "hen"), top=2)
    transformer = ImageTransformer(settings)
    logits = np.log(np.array([[0.2, 0.7, 0.1], [0.25, 0.25, 0.5]], np.float32))
    answer = transformer.postprocess({"logits": logits})
    assert answer["label"].tolist() == [[b"dog", b"cat"], [b"hen", b"cat"]]
    np.testing.assert_allclose(answer["share"], [[0.7, 0.2], [0.5, 0.25]], rtol=1e-6)


def test_settings_come_from_a_subclass_or_an_artefact(tmp_path: Path) -> None:
    class Tiny(ImageTransformer):
        settings = ImageSettings(size=8, resize=8, tensor="pixels")

    assert Tiny().model_inputs[0].shape == (-1, 3, 8, 8)
    path = tmp_path / "transformer.json"
    Tiny().save(path)
    again = ImageTransformer.from_artefact(path)
    assert again.settings == Tiny.settings
    assert again.preprocess(again.example(2))["pixels"].shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 300}, "`size` 300 is larger than `resize` 256"),
        ({"std": [0.0, 1.0, 1.0]}, "`std` must be positive"),
        ({"mean": [0.5]}, "mean"),
        ({"labels": ["a"]}, "`top` 5 of 1 labels"),
        ({"zoom": 2}, "zoom: "),
        ({"version": 2}, "version: Input should be 1"),
    ],
)
def test_a_wrong_artefact_is_refused_by_key(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "transformer.json"
    path.write_text(json.dumps({"format": "coalmine-image", "version": 1, **change}))
    with pytest.raises(ValueError, match=r"transformer\.json: ") as caught:
        ImageTransformer.from_artefact(path)
    assert message in str(caught.value)
