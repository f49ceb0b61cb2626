"""Drawing results on frames: boxes with labels, and a strip of scores over the last seconds."""

import zlib
from collections import deque
from typing import Any, Mapping, Sequence

import numpy as np

from ..layers.install import how_to_install

__all__ = ["ScoreHistory", "canvas_size", "draw", "limbs", "outlines", "tint"]

# Bright enough on a dark strip, dark enough under white text, distinct for most colour vision.
PALETTE = (
    (230, 97, 0), (26, 133, 255), (0, 158, 115), (212, 17, 89), (153, 102, 255),
    (196, 154, 0), (0, 170, 190), (220, 100, 170),
)  # fmt: skip
INK, GRID, QUIET = (18, 20, 26), (52, 56, 66), (150, 156, 168)


class ScoreHistory:
    """Per-class scores of the last `seconds`, in memory that does not grow with the stream.

    A class keeps the colour it got when it first appeared here, in boxes and in the strip.
    """

    def __init__(self, seconds: float = 8.0, limit: int = 2000):
        """limit: samples kept at most, whatever their times."""
        self.seconds = seconds
        self.samples: deque[tuple[float, dict[str, float]]] = deque(maxlen=limit)
        self._colours: dict[str, tuple[int, int, int]] = {}

    def push(self, time: float, scores: Mapping[str, float]) -> None:
        """Add the scores in [0, 1] of one moment; time in seconds, increasing.

        A class that is absent at a moment counts as 0 there; NaN counts as 0 too.
        """
        clean = {k: min(max(float(v), 0.0), 1.0) if v == v else 0.0 for k, v in scores.items()}
        self.samples.append((time, clean))
        while self.samples and self.samples[0][0] < time - self.seconds:
            self.samples.popleft()

    def top(self, count: int) -> list[str]:
        """The classes with the highest mean score in the window, best first."""
        totals: dict[str, float] = {}
        for _, scores in self.samples:
            for name, score in scores.items():
                totals[name] = totals.get(name, 0.0) + score
        return sorted(totals, key=lambda name: (-totals[name], name))[:count]

    def colour(self, label: str) -> tuple[int, int, int]:
        if label not in self._colours:
            if len(self._colours) >= 4096:  # labels from a free-text model must not pile up
                self._colours.clear()
            self._colours[label] = PALETTE[len(self._colours) % len(PALETTE)]
        return self._colours[label]


def _strip_height(height: int) -> int:
    return max(64, round(height * 0.3)) // 2 * 2


def canvas_size(size: tuple[int, int], history: bool = True) -> tuple[int, int]:
    """(height, width) of what `draw` returns for an image of this (height, width)."""
    return (size[0] + _strip_height(size[0]), size[1]) if history else size


def draw(
    image: np.ndarray,
    boxes: np.ndarray | Sequence[Sequence[float]],
    labels: Sequence[str],
    scores: np.ndarray | Sequence[float],
    history: ScoreHistory | None = None,
    *,
    top: int = 4,
    caption: str = "",
) -> np.ndarray:
    """Draw labelled boxes on a frame, and the score strip below it.

    image: uint8 [H, W, 3] RGB, left unchanged. boxes: [K, 4] x0, y0, x1, y1 in [0, 1] of width and
    height. labels: K names; scores: K numbers in [0, 1], shown as percentages. Boxes that are
    equal (several actions of one person) are drawn once, their labels stacked.
    history: what the strip shows, its `top` classes; None leaves the strip away.
    caption: a short text at the right of the strip's head, e.g. "24 fps".

    Returns uint8 [H', W, 3] of `canvas_size`. Raises ValueError for shapes that do not fit and
    ImportError, with the remedy, if Pillow is missing.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise ImportError(
            f"drawing needs Pillow, which is not installed: {how_to_install('demo')}"
        ) from error
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image is {image.dtype} {list(image.shape)}; draw takes uint8 [H, W, 3]")
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    if not len(corners) == len(labels) == len(scores):
        raise ValueError(
            f"{len(corners)} boxes, {len(labels)} labels and {len(scores)} scores: "
            "give one label and one score per box"
        )
    height, width = image.shape[:2]
    unit = max(height, width) / 640  # line widths and fonts grow with the picture
    total = canvas_size((height, width), history is not None)[0]
    canvas = np.empty((total, width, 3), np.uint8)
    canvas[:height], canvas[height:] = image, INK
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture, "RGBA")
    font: Any = ImageFont.load_default(size=max(9, round(12 * unit)))
    _draw_boxes(pen, font, corners, labels, scores, history, (height, width), unit)
    if history is not None:
        small: Any = ImageFont.load_default(size=max(9, round(11 * unit)))
        _draw_strip(pen, small, history, (height, total, width), unit, top, caption)
    return np.array(picture)


def outlines(
    image: np.ndarray, shapes: Sequence[tuple[Sequence[tuple[float, float]], str]]
) -> np.ndarray:
    """The picture uint8 [H, W, 3] with closed outlines, each with a text at its first corner.

    shapes: corners (x, y) in [0, 1] of width and height, two for a line; and the text. Raises
    ImportError, with the remedy, if Pillow is missing.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise ImportError(
            f"drawing needs Pillow, which is not installed: {how_to_install('demo')}"
        ) from error
    height, width = image.shape[:2]
    unit = max(height, width) / 640
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture, "RGBA")
    font: Any = ImageFont.load_default(size=max(9, round(12 * unit)))
    for corners, text in shapes:
        points = [(x * (width - 1), y * (height - 1)) for x, y in corners]
        colour = _colour(text.partition(":")[0], None)
        if len(points) > 2:
            pen.polygon(points, fill=(*colour, 40))
        line = [*points, points[0]]
        pen.line(line, fill=(*colour, 255), width=max(1, round(2 * unit)), joint="curve")
        wide, (ascent, descent) = pen.textlength(text, font=font), font.getmetrics()
        x = min(max(0, points[0][0]), max(0, width - wide - 6))
        y = min(max(0, points[0][1]), max(0, height - ascent - descent))
        pen.rectangle((x, y, x + wide + 6, y + ascent + descent), fill=(*colour, 225))
        pen.text((x + 3, y), text, font=font, fill=(255, 255, 255, 255))
    return np.array(picture)


def tint(image: np.ndarray, mask: np.ndarray, label: str) -> np.ndarray:
    """The picture uint8 [H, W, 3] with the pixels of ``mask`` bool [H, W] in the colour of
    ``label``, the edge brighter. Raises ValueError for a mask of another size."""
    if mask.shape != image.shape[:2]:
        raise ValueError(f"mask {mask.shape} on an image of {image.shape[:2]}")
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    share = (0.45 * inner + 0.9 * (mask & ~inner))[..., None]
    colour = np.asarray(_colour(label, None), np.float32)
    return (image * (1 - share) + colour * share + 0.5).astype(np.uint8)


def limbs(
    image: np.ndarray, points: np.ndarray, bones: Sequence[tuple[int, int]], least: float = 0.2
) -> np.ndarray:
    """The picture with one skeleton: ``points`` [P, 3] x, y in [0, 1] of width and height, score;
    a bone joins two points by number. Points whose score is below ``least`` are left out."""
    from PIL import Image, ImageDraw

    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture, "RGBA")
    at = [(float(x) * (width - 1), float(y) * (height - 1)) for x, y, _ in points]
    seen = [bool(score >= least) for *_, score in points]
    tall = float(np.ptp(np.asarray(at), axis=0).max())
    unit = min(max(height, width) / 640, tall / 100)  # thin on a person far away
    for i, (a, b) in enumerate(bones):
        if seen[a] and seen[b]:
            pen.line((*at[a], *at[b]), fill=(*PALETTE[i % len(PALETTE)], 230),
                     width=max(1, round(3 * unit)))  # fmt: skip
    dot = max(1.0, 3 * unit)
    for (x, y), shown in zip(at, seen, strict=True):
        if shown:
            pen.ellipse((x - dot, y - dot, x + dot, y + dot), fill=(255, 255, 255, 255))
    return np.array(picture)


def _colour(label: str, history: ScoreHistory | None) -> tuple[int, int, int]:
    if history is not None:
        return history.colour(label)
    return PALETTE[zlib.crc32(label.encode()) % len(PALETTE)]


def _draw_boxes(pen, font, corners, labels, scores, history, size, unit) -> None:
    height, width = size
    line = max(1, round(2 * unit))
    pad = max(2, round(3 * unit))
    ascent, descent = font.getmetrics()
    chip_height = ascent + descent + pad
    placed: list[tuple[float, float, float, float]] = []
    chips, seen = [], set()
    for corner, label, score in zip(corners, labels, scores, strict=True):
        if not np.isfinite(corner).all():
            continue
        x0, y0, x1, y1 = np.clip(corner, 0, 1) * (width - 1, height - 1, width - 1, height - 1)
        if x1 <= x0 or y1 <= y0:
            continue
        colour = _colour(label, history)
        if (x0, y0, x1, y1) not in seen:
            pen.rectangle((x0, y0, x1, y1), outline=(0, 0, 0, 90), width=line + 2)
            pen.rectangle((x0, y0, x1, y1), outline=(*colour, 255), width=line)
            seen.add((x0, y0, x1, y1))
        text = f"{label} {score:.0%}"
        chip_width = pen.textlength(text, font=font) + 2 * pad
        left = min(max(0, x0), max(0, width - chip_width))
        # Above the box; at the picture's top inside it; then down until it covers no other chip.
        upper = y0 - chip_height if y0 >= chip_height else y0
        for _ in range(len(placed)):
            right, lower = left + chip_width, upper + chip_height
            clash = [
                p for p in placed if p[0] < right and left < p[2] and p[1] < lower and upper < p[3]
            ]
            if not clash:
                break
            upper = max(p[3] for p in clash)
        box = (left, upper, left + chip_width, upper + chip_height)
        placed.append(box)
        chips.append((box, text, colour))
    for box, text, colour in chips:  # last, so that no outline crosses a text
        pen.rounded_rectangle(box, radius=pad, fill=(*colour, 225))
        pen.text((box[0] + pad, box[1] + pad / 2), text, font=font, fill=(255, 255, 255, 255))


def _draw_strip(pen, font, history, extent, unit, top, caption) -> None:
    start, end, width = extent
    pad = max(4, round(6 * unit))
    ascent, descent = font.getmetrics()
    head = start + pad + ascent + descent  # bottom of the legend's line
    plot = (pad, head + pad / 2, width - pad, end - pad)
    names = history.top(top)
    latest = history.samples[-1][1] if history.samples else {}

    room = width - pad
    caption = f"{caption}   last {history.seconds:g} s".strip()
    room -= pen.textlength(caption, font=font) + pad
    pen.text((room + pad, start + pad / 2), caption, font=font, fill=QUIET)
    x = pad
    for name in names:
        text = f"{name} {latest.get(name, 0.0):.0%}"
        step = ascent + pad / 2 + pen.textlength(text, font=font) + 2 * pad
        if x + step > room and x > pad:
            break
        middle = start + pad / 2 + (ascent + descent) / 2
        pen.rounded_rectangle(
            (x, middle - ascent / 3, x + ascent * 0.67, middle + ascent / 3), radius=2,
            fill=history.colour(name),
        )  # fmt: skip
        pen.text((x + ascent, start + pad / 2), text, font=font, fill=(235, 238, 242))
        x += step

    left, upper, right, lower = plot
    if right - left < 8 or lower - upper < 8:
        return
    for share in (0.0, 0.5, 1.0):
        y = lower - share * (lower - upper)
        pen.line((left, y, right, y), fill=GRID, width=1)
    if not history.samples:
        return
    now = history.samples[-1][0]
    span = right - left
    curves = [
        [
            (right - (now - time) / history.seconds * span,
             lower - scores.get(name, 0.0) * (lower - upper))
            for time, scores in history.samples
        ]
        for name in names
    ]  # fmt: skip
    if curves and len(curves[0]) > 1:  # shades of several classes would mix to mud
        area = [(curves[0][0][0], lower), *curves[0], (curves[0][-1][0], lower)]
        pen.polygon(area, fill=(*history.colour(names[0]), 44))
    for name, points in reversed(list(zip(names, curves, strict=True))):  # the best class on top
        colour = history.colour(name)
        if len(points) > 1:
            pen.line(points, fill=(*colour, 255), width=max(1, round(1.8 * unit)), joint="curve")
        dot = max(2, 2.5 * unit)
        px, py = points[-1]
        pen.ellipse((px - dot, py - dot, px + dot, py + dot), fill=colour)
