"""MediaPipe's hand landmarks: 21 points of each hand, found where the palm detector saw a palm.

Source: Zhang et al., "MediaPipe Hands: On-device Real-time Hand Tracking" (arXiv 2006.10214), the
``hand_landmark_lite`` network of the package ``mediapipe`` 0.10.21 (Apache-2.0). How a hand is cut
out follows that package's graph: a square 2.6 times the palm's longer side, half a palm further
towards the fingers, turned so that the middle finger points up.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from ....layers.ranks import to_rank
from ....layers.streaming import DType
from ...encode.efficientnet.model import MBConv, conv, depthwise, relu6
from ...per_frame import PerFrame
from ...ranges import Checked, Count, Share
from ..outputs import Pose
from ..palm.model import PalmConfig, PalmNet

Array = jax.Array
FINGERS = ("thumb", "index", "middle", "ring", "little")
# The wrist, then four points of each finger from the palm to the tip.
HAND_POINTS = ("wrist", *(f"{finger} {i}" for finger in FINGERS for i in range(1, 5)))
# kernel, width, stride and how many times wider a block is inside
BLOCKS = (
    (3, 16, 2, 4), (3, 16, 1, 6), (5, 24, 2, 6), (5, 24, 1, 6), (3, 48, 2, 6), (3, 48, 1, 6),
    (3, 48, 1, 6), (5, 64, 1, 6), (5, 64, 1, 6), (5, 64, 1, 6), (5, 112, 2, 6), (5, 112, 1, 6),
    (5, 112, 1, 6), (5, 112, 1, 6),
)  # fmt: skip
WIDTH, EXPAND = 24, 6  # of the first convolution; of the last block
GROW, AHEAD = 2.6, 0.5  # of the palm's box: the square's side, and how far it moves


@dataclasses.dataclass(frozen=True)
class HandConfig(Checked):
    """The parts and their operating point.

    Attributes:
      palm: the detector of palms; as many hands are found as it has slots.
      side: of the square cut-out in pixels.
      threshold: the score that a hand is there must be above it.
    """

    palm: PalmConfig = PalmConfig()
    side: Count = 224
    threshold: Share = 0.5
    dtype: DType = "float32"

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the palm detector's input."""
        return self.palm.image_size


@flax.struct.dataclass
class Landmarks:
    """What the network says of a cut-out."""

    points: Array  # [M, 21, 3] x, y and depth in pixels of the cut-out
    world: Array  # [M, 21, 3] metres about the hand's middle
    present: Array  # [M] probability that a hand is there
    right: Array  # [M] probability that it is a right hand, as a mirror shows it


class HandNet(nn.Module):
    """The network of one cut-out."""

    dtype: DType = "float32"

    def setup(self):
        init, zeros = nn.initializers.he_normal(), nn.initializers.zeros
        self.stem_kernel = self.param("stem_kernel", init, (3, 3, 3, WIDTH))
        self.stem_bias = self.param("stem_bias", zeros, (WIDTH,))
        blocks, inside = [MBConv(3, WIDTH, BLOCKS[0][1], 1, 1)], BLOCKS[0][1]
        for kernel, width, stride, expand in BLOCKS:
            blocks.append(MBConv(kernel, inside, width, expand, stride))
            inside = width
        self.blocks = blocks
        self.last_kernel = self.param("last_kernel", init, (1, 1, inside, EXPAND * inside))
        self.last_bias = self.param("last_bias", zeros, (EXPAND * inside,))
        self.depth_kernel = self.param("depth_kernel", init, (3, 3, 1, EXPAND * inside))
        self.depth_bias = self.param("depth_bias", zeros, (EXPAND * inside,))
        self.right, self.present = nn.Dense(1), nn.Dense(1)
        self.points, self.world = (nn.Dense(3 * len(HAND_POINTS)) for _ in range(2))

    def __call__(self, cutouts: Array) -> Landmarks:
        """RGB [M, S, S, 3] in 0..1 -> :class:`Landmarks`."""
        x = cutouts.astype(self.dtype)
        x = relu6(conv(x, self.stem_kernel, self.stem_bias, 2))
        for i, block in enumerate(self.blocks):
            before, x = x, block(x)
            if i == 1:  # the only block that pools its input, and adds it
                x = x + nn.max_pool(before, (2, 2), (2, 2), "SAME")
        x = relu6(conv(x, self.last_kernel, self.last_bias, 1))
        x = relu6(depthwise(x, self.depth_kernel, self.depth_bias, 1))
        x = x.mean(axis=(1, 2)).astype(jnp.float32)
        split = lambda a: a.reshape(a.shape[0], -1, 3)
        return Landmarks(
            split(self.points(x)), split(self.world(x)),
            nn.sigmoid(self.present(x))[:, 0], nn.sigmoid(self.right(x))[:, 0],
        )  # fmt: skip


def region(palms: Pose, size: tuple[int, int]) -> tuple[Array, Array]:
    """Palms [M, N] in fractions -> the squares to look at, in pixels of frames of ``size``
    (height, width): their middles [M, N, 2] and the vectors [M, N, 2] along their upper edge,
    as long as the edge."""
    scale = jnp.asarray([size[1], size[0]], jnp.float32)
    pixels = lambda a: a * to_rank(scale, a)
    low, high = pixels(palms.boxes[..., :2]), pixels(palms.boxes[..., 2:])
    wrist, knuckle = (pixels(palms.keypoints[..., i, :2]) for i in (0, 2))
    up = knuckle - wrist
    up = up / jnp.maximum(jnp.linalg.norm(up, axis=-1, keepdims=True), 1e-6)
    side = high - low
    middle = (low + high) / 2 + up * AHEAD * side[..., 1:]
    along = jnp.stack([-up[..., 1], up[..., 0]], axis=-1)
    return middle, along * GROW * side.max(axis=-1, keepdims=True)


def placed(middle: Array, along: Array, points: Array, side: int) -> Array:
    """Points [N, P, 2] of N cut-outs, in their pixels -> in pixels of the frame."""
    down = jnp.stack([-along[:, 1], along[:, 0]], axis=-1)
    x, y = jnp.split(points / side - 0.5, 2, axis=-1)
    return middle[:, None] + x * along[:, None] + y * down[:, None]


def cut(picture: Array, middle: Array, along: Array, side: int, outside: str = "constant") -> Array:
    """One picture [H, W, 3] and the squares of N hands -> [N, side, side, 3], bilinear; outside of
    the picture black, or with "nearest" as its edge."""
    rows, cols = jnp.meshgrid(*[jnp.arange(side, dtype=jnp.float32) + 0.5] * 2, indexing="ij")
    grid = jnp.stack([cols, rows], axis=-1).reshape(1, -1, 2)
    at = placed(middle, along, jnp.repeat(grid, len(middle), axis=0), side) - 0.5
    sample = lambda channel: jax.scipy.ndimage.map_coordinates(
        channel, [at[..., 1], at[..., 0]], order=1, mode=outside
    )
    return jax.vmap(sample, -1, -1)(picture).reshape(len(middle), side, side, 3)


class Hands(PerFrame[Pose]):
    """Hands of every frame; keeps no memory, so its carry is empty."""

    config: HandConfig
    task = "pose"

    def setup(self):
        self.palm = PalmNet(self.config.palm)
        self.hand = HandNet(self.config.dtype)

    def find(self, pictures: Array) -> Pose:
        """RGB [M, H, W, 3] in 0..1 -> hands, leaves [M, N, ...]: each with the 21 ``HAND_POINTS``,
        the box about them, and the score of the network, not of the palm."""
        side, (_, height, width, _) = self.config.side, pictures.shape
        palms = self.palm.find(pictures)
        middle, along = region(palms, (height, width))
        cutouts = jax.vmap(lambda p, m, a: cut(p, m, a, side))(pictures, middle, along)
        count, slots = palms.valid.shape
        said = self.hand(cutouts.reshape(-1, side, side, 3))
        flat = lambda a: a.reshape(-1, 2)
        points = placed(flat(middle), flat(along), said.points[..., :2], side)
        points = points / to_rank(jnp.asarray([width, height], jnp.float32), points)
        score = jnp.broadcast_to(said.present[:, None, None], (*points.shape[:2], 1))
        boxes = jnp.concatenate([points.min(axis=1), points.max(axis=1)], axis=-1)
        split = lambda a: a.reshape(count, slots, *a.shape[1:])
        return Pose(
            split(jnp.concatenate([points, score], axis=-1)),
            split(jnp.clip(boxes, 0, 1)),
            split(said.present),
            palms.valid & (split(said.present) > self.config.threshold),
        )
