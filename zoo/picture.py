"""The published picture: how a checkpoint's frames were made of the pictures it was trained on.

Resampling follows Pillow (``src/libImaging/Resample.c``): the filter is stretched by the scale when
a picture shrinks, rows first, then columns, each rounded to 8 bits. It is equal to Pillow's to one
grey level. torchvision's and swscale's resamplers are others: theirs differ by a few levels.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from ..layers.streaming import Fields
from .registry import Card


def _bicubic(x: np.ndarray) -> np.ndarray:
    x, a = np.abs(x), -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


# name -> (function, support)
KERNELS = {
    "bilinear": (lambda x: np.maximum(1 - np.abs(x), 0.0), 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
    "box": (lambda x: ((x > -0.5) & (x <= 0.5)).astype(float), 0.5),
}


@functools.lru_cache(64)
def _weights(old: int, new: int, name: str) -> sparse.csr_array:
    """[new, old]: each row makes one pixel."""
    kernel, support = KERNELS[name]
    scale = old / new
    stretch = max(scale, 1.0)
    centre = (np.arange(new) + 0.5) * scale
    low = np.maximum((centre - support * stretch + 0.5).astype(int), 0)
    high = np.minimum((centre + support * stretch + 0.5).astype(int), old)
    at = low[:, None] + np.arange((high - low).max())
    value = kernel((at - centre[:, None] + 0.5) / stretch) * (at < high[:, None])
    value /= value.sum(axis=1, keepdims=True)
    row = np.broadcast_to(np.arange(new)[:, None], at.shape)
    inside = at < old
    pairs = (value[inside], (row[inside], at[inside]))
    return sparse.csr_array(pairs, shape=(new, old), dtype=np.float32)


def _round(x: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(x + 0.5), 0, 255)


def resize(image: np.ndarray, size: tuple[int, int], name: str = "bilinear") -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [*size, 3], as Pillow's ``Image.resize``.

    Raises:
      ValueError: an unknown filter.
    """
    if name not in KERNELS:
        raise ValueError(f"filter {name!r}: choose from {', '.join(KERNELS)}")
    height, width = size
    x = np.asarray(image, np.float32)
    if x.shape[1] != width:
        columns = _weights(x.shape[1], width, name) @ x.swapaxes(0, 1).reshape(x.shape[1], -1)
        x = _round(columns.reshape(width, -1, 3).swapaxes(0, 1))
    if x.shape[0] != height:
        rows = _weights(x.shape[0], height, name) @ x.reshape(x.shape[0], -1)
        x = _round(rows.reshape(height, width, 3))
    return x.astype(np.uint8)


def picture(image: Any, card: Card) -> np.ndarray:
    """A frame as the checkpoint's own pipeline makes it: uint8 RGB [H, W, 3] of any size -> uint8
    [*card.input_size, 3], by the card's ``fit``, ``short_side`` and ``filter``.

    "stretch": straight to the input size. "crop": the shorter side to ``short_side``, then the
    middle. "pad": the longer side to fit, the rest at the right and below is the card's mean (which
    normalises to zero). "letterbox": as "pad" but not filled, for models that do it themselves.

    Raises:
      ValueError: not uint8 [H, W, 3].
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"a picture is uint8 RGB [height, width, 3], got {image.dtype} {list(image.shape)}"
        )
    name, (rows, cols) = card.filter or "bilinear", card.input_size
    scaled = _scaled(card, image.shape[:2])
    if card.fit == "crop":
        y, x = _corner(card, scaled)
        return resize(image, scaled, name)[y : y + rows, x : x + cols]
    if card.fit in ("pad", "letterbox"):
        small = resize(image, scaled, name)
        if card.fit == "letterbox":
            return small
        full = np.empty((rows, cols, 3), np.uint8)
        full[:] = np.round(np.asarray(card.mean) * 255).astype(np.uint8)
        full[: small.shape[0], : small.shape[1]] = small
        return full
    return resize(image, (rows, cols), name)


def _scaled(card: Card, original: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a picture before it is cut or padded."""
    (rows, cols), (height, width) = card.input_size, original
    if card.fit == "crop":
        short = card.short_side or max(rows, cols)
        # as transformers and torchvision do: the longer side is cut to an integer
        scaled = (short, short * width // height) if height < width else (
            short * height // width, short)  # fmt: skip
        if scaled[0] < rows or scaled[1] < cols:
            raise ValueError(
                f"{card.name}: a picture of {height}x{width} becomes {scaled[0]}x{scaled[1]}, and"
                f" {rows}x{cols} are cut out of it; give short_side at least {max(rows, cols)}"
            )
        return scaled
    if card.fit in ("pad", "letterbox"):
        scale = min(rows / height, cols / width)
        return int(height * scale + 0.5), int(width * scale + 0.5)
    return rows, cols


def _corner(card: Card, scaled: tuple[int, int]) -> tuple[int, int]:
    """(row, column) of the scaled picture at which the frame begins."""
    (rows, cols), (height, width) = card.input_size, scaled
    return ((height - rows) // 2, (width - cols) // 2) if card.fit == "crop" else (0, 0)


class Placement(NamedTuple):
    """Where a picture lies in the frame made of it: ``corner + size * (x, y)``, all of them
    fractions of a width and a height; of what was cut, the corner is below 0."""

    corner: tuple[float, float]  # x, y
    size: tuple[float, float]  # width, height


def placement(card: Card, original: tuple[int, int]) -> Placement:
    """Where :func:`picture` puts a picture of ``original`` (height, width)."""
    scaled, (rows, cols) = _scaled(card, original), card.input_size
    y, x = _corner(card, scaled)
    return Placement((-x / cols, -y / rows), (scaled[1] / cols, scaled[0] / rows))


def in_picture(output: Any, place: Placement) -> Any:
    """A model's answer (numpy leaves, batch and time or none) with ``boxes`` and ``keypoints`` as
    fractions of the picture instead of the frame; empty slots stay zeros."""
    corner, size = np.asarray(place.corner, np.float32), np.asarray(place.size, np.float32)
    moved: Fields = {}
    if (boxes := getattr(output, "boxes", None)) is not None:
        boxes = np.asarray(boxes)
        edges = boxes.reshape(*boxes.shape[:-1], 2, 2)
        there = getattr(output, "valid", getattr(output, "box_valid", None))
        if there is None:
            there = np.ones(boxes.shape[:-1], bool)
        edges = np.clip((edges - corner) / size, 0, 1) * np.asarray(there)[..., None, None]
        moved["boxes"] = edges.reshape(boxes.shape).astype(boxes.dtype)
    if (points := getattr(output, "keypoints", None)) is not None:
        points = np.array(points)
        there = np.asarray(output.valid)[..., None, None]
        points[..., :2] = (points[..., :2] - corner) / size * there
        moved["keypoints"] = points
    return output.replace(**moved) if moved else output
