"""Articulated figures: from pose parameters to joints, boxes and pixels.

T frames, J = 15 joints. Lengths are fractions of the figure's height; y points up until
:func:`place` puts the figure into the frame.
"""

from __future__ import annotations

import colorsys
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

THIGH = SHIN = 0.24
TORSO, NECK = 0.32, 0.10
ARM = 0.18  # upper arm and forearm, each
HIP_LIMIT = 1.1  # radians that the thighs spread in the deepest crouch
HEAD_RADIUS, TORSO_RADIUS, LIMB_RADIUS, ITEM_RADIUS = 0.09, 0.085, 0.042, 0.10
OUTLINE = (14, 14, 20)
SUPERSAMPLING = 2  # drawn at this multiple, then averaged: motion below a pixel stays visible

HIP, NECK_JOINT, HEAD = 0, 1, 2
ARMS = ((3, 4, 5), (6, 7, 8))  # shoulder, elbow, hand: of the gesturing and of the carrying arm
LEGS = ((9, 10, 11), (12, 13, 14))  # hip, knee, ankle
RADII = np.asarray([TORSO_RADIUS] * 2 + [HEAD_RADIUS] + [LIMB_RADIUS] * 12, np.float64)


class Pose(NamedTuple):
    """Parameters of a figure over time, each [T] (or a scalar)."""

    gait: np.ndarray  # phase of the legs, radians
    height: np.ndarray  # 1 upright .. 0 crouched
    lie: np.ndarray  # 0 upright .. 1 lying
    up: np.ndarray  # 0 .. 1 both arms up
    bow: np.ndarray  # 0 .. 1 torso bent
    raised: np.ndarray  # 0 arm hanging .. 1 arm raised sideways
    swing: np.ndarray  # phase of the raised arm, radians
    mirror: float  # +1 or -1: which way knees bend, and the side that bows and falls
    side: float  # +1 or -1: the side of the gesturing arm


class Look(NamedTuple):
    """Colours of a figure, RGB in 0..255."""

    skin: tuple[int, int, int]
    shirt: tuple[int, int, int]
    sleeves: tuple[int, int, int]
    trousers: tuple[int, int, int]
    item: tuple[int, int, int]


class Drawing(NamedTuple):
    """A figure placed in the frame, in pixels of the supersampled canvas."""

    joints: np.ndarray  # [T, J, 2] x y
    scale: np.ndarray  # [T] the figure's height
    carries: np.ndarray  # [T] bool
    look: Look


def random_look(rng: np.random.Generator) -> Look:
    def colour(low: float, high: float, value: float) -> tuple[int, int, int]:
        rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(low, high), rng.uniform(value, 1.0))
        return tuple(int(255 * c) for c in rgb)  # pyright: ignore[reportReturnType]

    tone = rng.uniform(0.45, 1.0)
    skin = (int(235 * tone), int(190 * tone), int(155 * tone))
    shirt, sleeves, trousers = colour(0.4, 1, 0.5), colour(0.4, 1, 0.6), colour(0.3, 1, 0.5)
    return Look(skin, shirt, sleeves, trousers, colour(0.0, 0.9, 0.7))


def _along(angle, length: float) -> np.ndarray:
    """Step of a limb that hangs at an angle from straight down, [T, 2]."""
    return length * np.stack([np.sin(angle), -np.cos(angle)], axis=-1)


def joints(pose: Pose) -> np.ndarray:
    """Joints [T, J, 2] about the feet's centre line, y up, lowest joint at the ground (0)."""
    gait, mirror, side = pose.gait, pose.mirror, pose.side
    out = np.zeros((*np.shape(gait), 15, 2))
    tilt = mirror * 1.25 * pose.bow
    spine = np.stack([np.sin(tilt), np.cos(tilt)], axis=-1)
    across = np.stack([np.cos(tilt), -np.sin(tilt)], axis=-1)
    out[:, NECK_JOINT] = TORSO * spine
    out[:, HEAD] = (TORSO + NECK) * spine

    spread = HIP_LIMIT * np.sqrt(1.0 - pose.height)  # sqrt: the hip falls about evenly
    for sign, (hip, knee, ankle) in zip((1.0, -1.0), LEGS, strict=True):
        thigh = sign * 0.45 * np.sin(gait)
        shin = thigh - mirror * 0.45 * np.maximum(0.0, sign * np.cos(gait))
        out[:, hip] = [sign * 0.045, 0.0]
        out[:, knee] = out[:, hip] + _along(thigh + sign * spread, THIGH)
        out[:, ankle] = out[:, knee] + _along(shin - sign * spread, SHIN)

    swing = np.sin(pose.swing)
    for sign, (shoulder, elbow, hand) in zip((side, -side), ARMS, strict=True):
        upper = sign * (0.3 + 0.2 * np.sin(gait))
        lower = upper + 0.0
        if sign == side:
            upper = upper + pose.raised * (sign * (1.75 + 0.6 * swing) - upper)
            lower = lower + pose.raised * (sign * (1.85 + 0.95 * swing) - lower)
        upper = upper + pose.up * (sign * 2.85 - upper)
        lower = lower + pose.up * (sign * 3.05 - lower)
        out[:, shoulder] = out[:, NECK_JOINT] + sign * 0.08 * across
        out[:, elbow] = out[:, shoulder] + _along(upper, ARM)
        out[:, hand] = out[:, elbow] + _along(lower, ARM)

    angle = mirror * pose.lie * (np.pi / 2)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = out[..., 0], out[..., 1]
    out = np.stack([cos * x + sin * y, cos * y - sin * x], axis=-1)
    out[..., 1] -= np.min(out[..., 1] - RADII, axis=1, keepdims=True)
    return out


def place(pose: Pose, x, ground, scale, carries, look: Look) -> tuple[Drawing, np.ndarray]:
    """Puts a figure at ``x``, ``ground`` with height ``scale``, all [T] in canvas pixels.

    Returns:
      The drawing, and its tight box [T, 4] x1 y1 x2 y2 in canvas pixels, not clipped.
    """
    points = joints(pose) * scale[:, None, None]
    points[..., 0] += x[:, None]
    points[..., 1] = ground[:, None] - points[..., 1]
    radius = RADII * scale[:, None] + SUPERSAMPLING
    low = np.min(points - radius[..., None], axis=1)
    high = np.max(points + radius[..., None], axis=1)
    item = ITEM_RADIUS * scale + SUPERSAMPLING
    hand = points[:, ARMS[1][2]]
    reach = np.where(carries, item, 0.0)[:, None]
    low, high = np.minimum(low, hand - reach), np.maximum(high, hand + reach)
    return Drawing(points, scale, carries, look), np.concatenate([low, high], axis=1)


def _shade(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    return colour[0] * 3 // 5, colour[1] * 3 // 5, colour[2] * 3 // 5


def draw(canvas: Image.Image, figure: Drawing, frame: int) -> None:
    """Draws one frame of a figure, its outline first: limbs stay legible over any background."""
    pen = ImageDraw.Draw(canvas)
    line, ellipse = pen.line, pen.ellipse
    points = [tuple(p) for p in figure.joints[frame].tolist()]
    scale, look = float(figure.scale[frame]), figure.look
    limb, body, head = (r * scale for r in (LIMB_RADIUS, TORSO_RADIUS, HEAD_RADIUS))
    # Farther limbs first; the nearer pair of each is drawn over the torso.
    parts = [
        (LEGS[0], limb, _shade(look.trousers)),
        (ARMS[1], limb, _shade(look.sleeves)),
        (LEGS[1], limb, look.trousers),
        ((HIP, NECK_JOINT), body, look.shirt),
        ((HEAD,), head, look.skin),
        (ARMS[0], limb, look.sleeves),
    ]
    hand = points[ARMS[1][2]]
    item = ITEM_RADIUS * scale if figure.carries[frame] else 0.0
    for outlined in (True, False):
        more = SUPERSAMPLING if outlined else 0.0
        for indices, radius, colour in parts:
            fill = OUTLINE if outlined else colour
            radius = radius + more
            chain = [points[i] for i in indices]
            if len(chain) > 1:
                line(chain, fill, round(2 * radius))
            # A joint in the middle bends too little to show a gap in the outline.
            for px, py in (chain[0], chain[-1]) if outlined else chain:
                ellipse((px - radius, py - radius, px + radius, py + radius), fill)
        if item:
            radius = item + more
            corners = (hand[0] - radius, hand[1] - radius, hand[0] + radius, hand[1] + radius)
            pen.rectangle(corners, OUTLINE if outlined else look.item)


def texture(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Smooth noise of several octaves, RGB, of middling brightness."""
    # At half the size, then enlarged: its finest octave is far coarser than a pixel.
    half = (width + 1) // 2, (height + 1) // 2
    total = np.zeros((half[1], half[0], 3), np.float32)
    for cells, weight in ((3, 1.0), (7, 0.8), (15, 0.6), (40, 0.35)):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        fine = coarse.resize(half, Image.Resampling.BICUBIC)
        total += weight / 2.75 * np.asarray(fine)
    # Half of the colour is taken out, so that clothes stand out.
    total = 0.5 * (total + total.mean(axis=-1, keepdims=True)) - 127.5
    total = rng.uniform(90, 180, 3).astype(np.float32) + 1.1 * total
    image = Image.fromarray(np.clip(total, 0, 255).astype(np.uint8))
    return image.resize((width, height), Image.Resampling.BILINEAR)
