"""NanoTrack as a stream: the carry is a template, a place and a size of each object.

Source: HonglinChu/SiamTrackers, NanoTrack version 2 (Apache-2.0), ``nano_tracker.py`` and
``configv2.yaml``: the scale and aspect penalties, the window and the smoothing are the authors'.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ....layers.exportable import exportable
from ....layers.gaps import hold
from ....layers.streaming import DType
from ...ranges import Checked, Count, Share, Size
from ..stream import ABSENT_LOGIT, Prompts, Tracks
from ..stream_tracker import StreamTracker, Taps
from .network import STRIDE, WIDTH, Head, Trunk

Array = jax.Array
LEAST = 10.0  # pixels of a box at least
SURE = 10.0  # logit of a pixel inside of a box, and of an object where it was shown


@dataclasses.dataclass(frozen=True)
class NanoTrackConfig(Checked):
    """Sizes of the crops and the authors' constants.

    Attributes:
      image_size: (height, width) of the frames, multiples of 4.
      objects: that are tracked at a time; points: of a prompt at most.
      template: pixels of the square crop that shows the object once.
      search: pixels of the square crop in which it is looked for.
      context: of width plus height, added to both for the crop.
      window: how much of a score is the place in the crop, the middle best.
      penalty: of a change of scale and aspect from frame to frame.
      rate: at which the box's size follows what is found, times the score.
      lost: the best score below which the object is not shown (the authors always show it).
    """

    image_size: Size = (288, 512)
    objects: Count = 2
    points: Count = 4
    template: Count = 127
    search: Count = 255
    context: Share = 0.5
    window: Share = 0.49
    penalty: Share = 0.15
    rate: Share = 0.385
    lost: Share = 0.2
    dtype: DType = "float32"

    @property
    def cells(self) -> int:
        """Of a side of the template's features."""
        return -(-self.template // STRIDE)


@exportable
@struct.dataclass
class NanoTrackCarry:
    """State of every stream; its size depends on the config alone.

    active:   [B, O] bool: the slot tracks an object
    template: [B, O, h, w, 48] features of the object as it was shown
    centre:   [B, O, 2] x, y of its middle in pixels of the frame
    size:     [B, O, 2] width and height
    colour:   [B, O, 3] mean of the frame in which it was shown, which fills what lies outside
    """

    active: Array
    template: Array
    centre: Array
    size: Array
    colour: Array


def cut(frame: Array, centre: Array, side: Array, pixels: int, colour: Array) -> Array:
    """A square of ``side`` (whole) pixels around ``centre`` x, y of frame [H, W, 3], resampled to
    [pixels, pixels, 3], bilinear with pixel centres at halves; outside of the frame ``colour``."""
    corner = jnp.floor(centre - (side + 1) / 2 + 0.5)
    at = (jnp.arange(pixels, dtype=jnp.float32) + 0.5) * (side / pixels) - 0.5
    at = jnp.clip(at, 0, side - 1)
    low = jnp.floor(at)
    part, high = at - low, jnp.minimum(low + 1, side - 1)

    def along(axis: int, which: Array) -> tuple[Array, Array]:
        place = corner[axis] + which
        limit = frame.shape[1 - axis]
        inside = (place >= 0) & (place < limit)
        return jnp.clip(place, 0, limit - 1).astype(jnp.int32), inside

    def corner_of(rows: Array, cols: Array) -> Array:
        (y, in_y), (x, in_x) = along(1, rows), along(0, cols)
        here = frame[y[:, None], x[None]]
        inside = in_y[:, None] & in_x[None]
        return jnp.where(inside[..., None], here, colour[None, None])

    right, down = part[None, :, None], part[:, None, None]
    upper = corner_of(low, low) * (1 - right) + corner_of(low, high) * right
    lower = corner_of(high, low) * (1 - right) + corner_of(high, high) * right
    return upper * (1 - down) + lower * down


def span(width: Array, height: Array, context: float) -> Array:
    """Side of the square around a box, context included."""
    pad = context * (width + height)
    return jnp.sqrt((width + pad) * (height + pad))


def _change(ratio: Array) -> Array:
    return jnp.maximum(ratio, 1 / ratio)


class NanoTrack(StreamTracker):
    """(carry, frames [B, T, H, W, 3] RGB in 0..255, valid, prompts) -> (carry, :class:`Tracks`).

    An object is shown by a box or a mask, whose box counts; points alone say nothing of its size
    and are answered with an absent object. The masks that come out are filled boxes; the carry
    holds them to the fraction of a pixel.
    """

    config: NanoTrackConfig

    def setup(self):
        dtype = jnp.dtype(self.config.dtype)
        self.trunk = Trunk(dtype)
        self.head = Head(self.config.cells**2, dtype)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> NanoTrackCarry:
        """The state of ``batch`` streams before their first frame.

        Raises ValueError for a frame shape other than the config's ``image_size``.
        """
        c = self.config
        self.check_shape(frame_shape)
        lead = (batch, c.objects)
        zeros = lambda *shape: jnp.zeros((*lead, *shape), jnp.float32)
        return NanoTrackCarry(
            active=jnp.zeros(lead, bool),
            template=zeros(c.cells, c.cells, WIDTH),
            centre=zeros(2),
            size=jnp.ones((*lead, 2), jnp.float32),
            colour=zeros(3),
        )

    def one_frame(
        self, carry: NanoTrackCarry, inputs: tuple[Array, Array, Prompts], taps: Taps = ()
    ) -> tuple[NanoTrackCarry, Tracks]:
        """The body: frames [B, H, W, 3], valid [B], prompts with leaves [B, O, ...]."""
        frames, valid, prompts = inputs
        frames = frames.astype(jnp.float32)
        box, boxed = _boxes(prompts)
        unclear = (prompts.pointed | prompts.masked) & ~boxed
        old = carry
        active = carry.active & ~prompts.remove
        carry, score = self._follow(carry, frames, active)
        colour = jnp.broadcast_to(frames.mean(axis=(1, 2))[:, None], carry.colour.shape)
        low, high = box[..., :2], box[..., 2:]
        pick = lambda new, kept: jnp.where(boxed[..., None], new, kept)
        carry = dataclasses.replace(
            carry,
            active=active | boxed,
            centre=pick((low + high - 1) / 2, carry.centre),
            size=pick(jnp.maximum(high - low, 1.0), carry.size),
            colour=pick(colour, carry.colour),
        )
        carry = dataclasses.replace(carry, template=self._templates(carry, frames, boxed))
        score = jnp.where(boxed, SURE, score)
        there = boxed | (jax.nn.sigmoid(score) >= self.config.lost)
        shown = carry.active & there & ~unclear
        out = Tracks(
            masks=jnp.where(shown[..., None, None], self._fill(carry), ABSENT_LOGIT),
            scores=jnp.where(carry.active & ~unclear, score, ABSENT_LOGIT),
            iou=jnp.where(shown, jax.nn.sigmoid(score), 0.0),
            active=carry.active | unclear,
        )
        return hold(carry, old, valid), out

    def _crops(self, carry: NanoTrackCarry, frames: Array, sides: Array, pixels: int) -> Array:
        """[B * O, pixels, pixels, 3]"""
        each = jax.vmap(cut, in_axes=(None, 0, 0, None, 0))
        crops = jax.vmap(lambda f, *rest: each(f, rest[0], rest[1], pixels, rest[2]))(
            frames, carry.centre, sides, carry.colour
        )
        return crops.reshape(-1, pixels, pixels, 3)

    def _templates(self, carry: NanoTrackCarry, frames: Array, boxed: Array) -> Array:
        """The features of objects that are shown in this frame, of the others as they were."""
        c = self.config

        def look(_) -> Array:
            sides = jnp.round(span(carry.size[..., 0], carry.size[..., 1], c.context))
            found = self.trunk(self._crops(carry, frames, sides, c.template))
            found = found.astype(jnp.float32).reshape(carry.template.shape)
            return jnp.where(boxed[..., None, None, None], found, carry.template)

        if self.is_initializing():
            return look(())
        return jax.lax.cond(jnp.any(boxed), look, lambda _: carry.template, ())

    def _follow(
        self, carry: NanoTrackCarry, frames: Array, active: Array
    ) -> tuple[NanoTrackCarry, Array]:
        """Every object of ``active`` [B, O] found again, and the logits of its score [B, O]."""
        c = self.config
        side = span(carry.size[..., 0], carry.size[..., 1], c.context)
        zoom = c.template / side  # pixels of a crop per pixel of the frame
        crops = self._crops(carry, frames, jnp.round(side * (c.search / c.template)), c.search)
        search = self.trunk(crops)
        template = carry.template.reshape(-1, *carry.template.shape[2:]).astype(search.dtype)
        scores, sides = self.head(template, search)
        lead = carry.active.shape
        n = scores.shape[1]
        logits = (scores[..., 1] - scores[..., 0]).reshape(*lead, n * n)
        score = jax.nn.sigmoid(logits)
        left, top, right, bottom = jnp.moveaxis(sides.reshape(*lead, n * n, 4), -1, 0)
        y, x = (np.mgrid[:n, :n].reshape(2, n * n) - n // 2).astype(np.float32) * STRIDE
        width, height = left + right, top + bottom
        mine = carry.size * zoom[..., None]
        grown = _change(span(width, height, 0.5) / span(mine[..., 0], mine[..., 1], 0.5)[..., None])
        turned = _change((mine[..., 0] / mine[..., 1])[..., None] / (width / height))
        penalty = jnp.exp(-(grown * turned - 1) * c.penalty)
        window = np.outer(np.hanning(n), np.hanning(n)).astype(np.float32).reshape(1, 1, -1)
        best = jnp.argmax(penalty * score * (1 - c.window) + window * c.window, axis=-1)
        of = lambda a: jnp.take_along_axis(a, best[..., None], axis=-1)[..., 0]
        place = jnp.broadcast_to(x, width.shape), jnp.broadcast_to(y, width.shape)
        moved = jnp.stack(
            [of(place[0] + (right - left) / 2), of(place[1] + (bottom - top) / 2)], axis=-1
        )
        found = jnp.stack([of(width), of(height)], axis=-1) / zoom[..., None]
        rate = (of(penalty) * of(score) * c.rate)[..., None]
        limit = np.asarray(c.image_size[::-1], np.float32)[None, None]
        centre = jnp.clip(carry.centre + moved / zoom[..., None], 0.0, limit)
        size = jnp.clip(carry.size * (1 - rate) + found * rate, LEAST, jnp.maximum(limit, LEAST))
        keep = active[..., None]
        carry = dataclasses.replace(
            carry,
            centre=jnp.where(keep, centre, carry.centre),
            size=jnp.where(keep, size, carry.size),
        )
        return carry, of(logits)

    @nn.nowrap
    def _fill(self, carry: NanoTrackCarry) -> Array:
        """Logits of the boxes [B, O, H / 4, W / 4]: positive in pixels whose middle is inside."""
        rows, cols = (side // 4 for side in self.config.image_size)
        low, high = carry.centre - carry.size / 2, carry.centre + carry.size / 2
        y, x = (4.0 * np.arange(n, dtype=np.float32)[None, None] + 1.5 for n in (rows, cols))
        in_y = (y >= low[..., 1:]) & (y < high[..., 1:])
        in_x = (x >= low[..., :1]) & (x < high[..., :1])
        inside = in_y[..., :, None] & in_x[..., None, :]
        return jnp.where(inside, jnp.float32(SURE), jnp.float32(-SURE))


def _boxes(prompts: Prompts) -> tuple[Array, Array]:
    """x0, y0, x1, y1 of every slot's box or mask [B, O, 4], and whether there is one [B, O]."""
    corners = []
    for label in (2, 3):
        there = (prompts.labels == label)[..., None]
        corners.append(jnp.where(there, prompts.points, 0.0).sum(axis=-2))
    box = jnp.concatenate(corners, axis=-1)
    whole = (prompts.labels == 2).any(-1) & (prompts.labels == 3).any(-1)
    boxed = prompts.pointed & whole
    if prompts.masks is None:
        return box, boxed
    rows, cols = prompts.masks.any(axis=-1), prompts.masks.any(axis=-2)
    ends = []
    for line in (cols, rows):
        n = line.shape[-1]
        first = jnp.argmax(line, axis=-1)
        last = n - jnp.argmax(line[..., ::-1], axis=-1)
        ends.append((first.astype(jnp.float32), last.astype(jnp.float32)))
    around = jnp.stack([ends[0][0], ends[1][0], ends[0][1], ends[1][1]], axis=-1)
    masked = prompts.masked & rows.any(axis=-1)
    return jnp.where(masked[..., None], around, box), boxed | masked
