"""Pictures: a JPEG or PNG as sent by a client, to the tensor that a vision model takes.

What is done is what torchvision's `Resize(resize)`, `CenterCrop(size)`, `ToTensor()` and
`Normalize(mean, std)` do to the same file opened with Pillow and converted to RGB: Pillow's own
bilinear resampling with antialiasing, the shorter side to `resize` and the longer one rounded
down; the middle `size` x `size` pixels; divided by 255, then normalised, in float32. Before that
the picture is turned as its EXIF orientation says. Alpha is dropped, grey is repeated, CMYK and
palettes are converted, and of 16 bits the upper 8 are kept.

Needs Pillow: `pip install 'coalmine-transformers[image]'`.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field, model_validator

from coalmine.protocol import Array, Tensors, TensorSpec
from coalmine_transformers._artefact import Strict, read, write
from coalmine_transformers._base import Transformer
from coalmine_transformers._jpeg import MOST_SCANS, has_too_many_scans

__all__ = ["ImageSettings", "ImageTransformer"]

_FORMATS = ("JPEG", "PNG")
_Three = tuple[float, float, float]
_Pixels = Annotated[int, Field(gt=0, le=16384)]


class ImageSettings(Strict):
    """What a vision model was trained with; the defaults are those of networks for ImageNet."""

    format: Literal["coalmine-image"] = "coalmine-image"
    version: Literal[1] = 1
    resize: _Pixels = 256
    """Length of the shorter side before cropping."""

    size: _Pixels = 224
    """Width and height of what the model gets; at most `resize`."""

    mean: _Three = (0.485, 0.456, 0.406)
    std: _Three = (0.229, 0.224, 0.225)
    """Of red, green and blue, as shares of one."""

    max_pixels: Annotated[int, Field(gt=0)] = 50_000_000
    """Larger pictures are refused before they are decoded: a few kilobytes can hold gigabytes."""

    tensor: Annotated[str, Field(min_length=1)] = "image"
    """Name of the model's input."""

    labels: tuple[str, ...] | None = None
    """Names of the model's classes: clients then get the best of them instead of raw scores."""

    scores: Annotated[str, Field(min_length=1)] = "logits"
    """Name of the model's output that `labels` are for; softmax makes it shares."""

    top: Annotated[int, Field(gt=0)] = 5
    """How many labels a client gets, the best first."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.size > self.resize:
            raise ValueError(f"`size` {self.size} is larger than `resize` {self.resize}")
        if min(self.std) <= 0:
            raise ValueError("`std` must be positive")
        if self.labels is not None and not self.top <= len(self.labels):
            raise ValueError(f"`top` {self.top} of {len(self.labels)} labels")
        return self


class ImageTransformer(Transformer):
    """`image`, BYTES [N], to the model's input: float32 [N, 3, size, size].

    A subclass fixes `settings`; an artefact holds them as JSON. With `labels` the answer is
    `label`, BYTES [N, top], and `share`, float32 [N, top]; else it is the model's own.
    """

    settings = ImageSettings()

    inputs = (TensorSpec("image", "BYTES", (-1,)),)

    def __init__(self, settings: ImageSettings | None = None) -> None:
        if settings is not None:
            self.settings = settings
        side = self.settings.size
        self.model_inputs = (TensorSpec(self.settings.tensor, "FP32", (-1, 3, side, side)),)
        self._mean = np.array(self.settings.mean, np.float32)
        self._std = np.array(self.settings.std, np.float32)
        if self.settings.labels is not None:
            labels = [label.encode() for label in self.settings.labels]
            self._labels = np.array(labels, dtype=np.object_)
            self.model_outputs = (TensorSpec(self.settings.scores, "FP32", (-1, len(labels))),)
            self.outputs = (
                TensorSpec("label", "BYTES", (-1, self.settings.top)),
                TensorSpec("share", "FP32", (-1, self.settings.top)),
            )

    @classmethod
    def from_artefact(cls, path: Path) -> Self:
        """A transformer with the settings in a JSON file; ValueError names file and key."""
        return cls(read(path, ImageSettings))

    def save(self, path: Path) -> None:
        """Write the settings as an artefact."""
        write(path, self.settings)

    def preprocess(self, tensors: Tensors) -> Tensors:
        """The pictures as the model takes them; ValueError names the row of a bad one."""
        files = tensors["image"].tolist()
        side = self.settings.size
        batch = np.empty((len(files), 3, side, side), np.float32)
        for row, file in enumerate(files):
            try:
                pixels = self._pixels(file)
            except ValueError as error:
                raise ValueError(f"image, row {row}: {error}") from None
            scaled = pixels.astype(np.float32) / np.float32(255)
            batch[row] = ((scaled - self._mean) / self._std).transpose(2, 0, 1)
        return {self.settings.tensor: batch}

    def postprocess(self, tensors: Tensors) -> Tensors:
        """The best labels and their shares, or the model's own outputs if there are no labels."""
        if self.settings.labels is None:
            return tensors
        scores = tensors[self.settings.scores]
        # Stable: of equal scores the first class is the better, in every batch.
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self.settings.top]
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares = powers / powers.sum(axis=1, keepdims=True)
        return {"label": self._labels[best], "share": np.take_along_axis(shares, best, axis=1)}

    def example(self, rows: int) -> Tensors:
        """Small noisy PNGs, each different."""
        rng = np.random.default_rng(0)
        files = np.empty(rows, dtype=np.object_)
        for row in range(rows):
            pixels = rng.integers(0, 256, (24 + row % 5, 32, 3), dtype=np.uint8)
            file = BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            files[row] = file.getvalue()
        return {"image": files}

    def _pixels(self, file: bytes) -> Array:
        """uint8 [size, size, 3]; ValueError for what is no picture, or too large a one."""
        try:
            with Image.open(BytesIO(file), formats=_FORMATS) as opened:
                self._bound(opened.size)
                if opened.format != "PNG" and has_too_many_scans(file):
                    raise ValueError(f"a JPEG of more than {MOST_SCANS} scans")
                opened.load()
                picture = _upright_rgb(opened)
        except ValueError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise ValueError(self._too_large()) from None
        except UnidentifiedImageError:
            raise ValueError(f"not a {' or '.join(_FORMATS)} file") from None
        except Exception as error:  # a decoder on a broken file raises whatever it stumbles on
            raise ValueError(f"a broken picture: {error}") from None
        size = _resized(picture.size, self.settings.resize)
        self._bound(size)
        picture = picture.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(picture.crop(_centre(size, self.settings.size)))

    def _bound(self, size: Sequence[int]) -> None:
        """ValueError for too many pixels: of the file or, if it is long and thin, once resized."""
        if size[0] * size[1] > self.settings.max_pixels:
            raise ValueError(f"{size[0]} x {size[1]} pixels: {self._too_large()}")

    def _too_large(self) -> str:
        return f"more than the {self.settings.max_pixels} pixels that a picture may have"


def _upright_rgb(picture: Image.Image) -> Image.Image:
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "RGB":
        return picture
    if picture.mode.startswith("I"):  # 16-bit grey, which `convert` would clip, not scale
        grey = (np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        picture = Image.fromarray(grey)
    if picture.mode == "P" and isinstance(picture.info.get("transparency"), bytes):
        picture = picture.convert("RGBA")  # else Pillow warns, of what we do on purpose
    return picture.convert("RGB")


def _resized(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    width, height = size
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


def _centre(size: tuple[int, int], side: int) -> tuple[int, int, int, int]:
    left = round((size[0] - side) / 2)
    top = round((size[1] - side) / 2)
    return left, top, left + side, top + side
