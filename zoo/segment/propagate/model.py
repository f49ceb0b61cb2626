"""A small tracker that hands masks on from frame to frame by the likeness of what they cover.

Every cell of a frame looks for the cells of a few remembered frames that are most like it, and
takes the mean of their masks (and of learned values) by that likeness; a small network mends what
comes out. The image encoder, and so the likeness, is pretrained and frozen: before any training the
answer is plain label propagation, and little data is enough to learn from.

Per object the carry holds the frames on which it was prompted, and the last few: keys, mask and
values of every cell. Its size is constant.

Axis letters: B streams, O object slots, M = B * O rows, L = h * w cells (8 x 8 pixels), N
remembered frames, K and D widths.

Sources: memory keyed by the image alone, read by likeness: Cheng et al., STCN (arXiv 2106.05210)
and XMem (arXiv 2207.07115); propagation of labels by frozen features: Jabri et al. (arXiv
2006.14613), whose neighbourhood limit is used here. Prompts by points and boxes are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from ....layers.exportable import exportable
from ....layers.feature_bank import Bank, clear, empty_bank, write_pinned, write_ring
from ....layers.gaps import hold
from ....layers.ranks import to_rank
from ....layers.streaming import DType
from ...encode.efficientnet.model import EfficientNetLite, EfficientNetLiteConfig
from ..prompt import BACKGROUND, BOTTOM_RIGHT, FOREGROUND, TOP_LEFT, resize_masks
from ..stream import ABSENT_LOGIT, Prompts, Tracks
from ..stream_tracker import StreamTracker
from .laws import Place, compete, of, own_part, smooth, without
from .mend import SURE, Conv, Mend, grow, unit

Array = jax.Array
CELL = 8  # pixels of a cell's side
CLOSE = 0.6  # of a hint of a point: two cells away


@dataclass(frozen=True)
class PropagateConfig:
    """Shapes of a tracker that hands masks on.

    image_size:     (height, width) of the frames, multiples of 16
    trunk:          image encoder, frozen; its maps at strides 4, 8, 16 and 32 are used
    dim, values:    width of the mending network, and of the learned values
    objects, points: slots for objects, and for points of one object in one frame
    prompted_slots: prompted frames that are remembered; the oldest gives way
    memories:       last frames that are remembered
    reach:          cells that something can have moved since those; a prompted frame is searched
                    from end to end
    nearest:        cells that a cell takes its mask from
    scale:          of their likeness, a cosine, before the softmax
    near:           cells that a part of the mask may be away from where the object was; what is
                    connected with no such part is another object's. 0: all of the mask stays (with
                    ``doubt``, which needs parts: 3). From a point it costs 2 of 49 points of J&F
    doubt:          parts that are left out at a point or box are remembered: what is more like them
                    than like the object as it was shown is not the object's. For clips with several
                    things of one kind; it costs where an object is found in pieces
    compete:        a cell belongs to one object alone, the surest
    memory_dtype:   of memories in the carry
    dtype:          compute type; parameters are fp32
    """

    image_size: tuple[int, int] = (240, 432)
    trunk: EfficientNetLiteConfig = EfficientNetLiteConfig(head=0, num_classes=0)
    dim: int = 64
    values: int = 31
    objects: int = 2
    points: int = 4
    prompted_slots: int = 2
    memories: int = 3
    reach: int = 12
    nearest: int = 8
    scale: float = 20.0
    near: int = 0
    doubt: bool = False
    compete: bool = True
    memory_dtype: str = "bfloat16"
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        if any(side % 16 for side in self.image_size):
            raise ValueError(f"image_size {self.image_size}: not multiples of 16")
        for name in ("objects", "points", "prompted_slots", "memories", "reach", "nearest"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; at least 1")
        if self.near < 0:
            raise ValueError(f"near is {self.near}; at least 0")

    @property
    def apart(self) -> int:
        """Cells beyond which a part of a mask is another object's; 0: none is."""
        return self.near or 3 * self.doubt

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) in cells."""
        return self.image_size[0] // CELL, self.image_size[1] // CELL

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the trunk's maps, finest first."""
        stages = self.trunk.stages
        lasts = [i for i, s in enumerate(stages[1:]) if s.stride == 2]  # stage i ends a resolution
        return (*(stages[i].width for i in lasts), stages[-1].width)[1:]

    @property
    def key(self) -> int:
        """K: the maps of strides 8 and 16 side by side."""
        return self.widths[1] + self.widths[2]


@exportable
@struct.dataclass
class MaskCarry:
    """State of every stream; its size depends on the config alone.

    frame:    [B] int32, number of the next frame
    active:   [B, O] bool: the slot tracks an object
    prompted: ``key`` [B, O, N, L, K] and ``value`` [B, O, N, L, D + 1] of prompted frames; the
              first of the values is the mask
    recent:   the same of the last frames
    place:    where the object was seen last
    """

    frame: Array
    active: Array
    prompted: Bank
    recent: Bank
    place: Place


@struct.dataclass
class Found:
    """Of a frame: logits ``low`` [B, O, h, w] and ``high`` [B, O, 2h, 2w], ``score`` and ``iou``
    [B, O], the ``image``'s features [B, h, w, dim], the ``place`` for the next frame, and the cells
    of ``others`` that were taken for the object [B, O, h, w]."""

    low: Array
    high: Array
    score: Array
    iou: Array
    image: Array
    place: Place
    others: Array


class Propagator(StreamTracker):
    """(carry, frames [B, T, H, W, 3], valid, prompts) -> (carry, :class:`Tracks`).

    The object's score is how sure the surest cell is, and ``iou`` an estimate by a learned head.
    Corrections may come at any frame: points on a tracked object mend what is handed on.
    """

    config: PropagateConfig

    def setup(self):
        c = self.config
        dtype = jnp.dtype(c.dtype)
        self.trunk = EfficientNetLite(replace(c.trunk, image_size=c.image_size, dtype=c.dtype))
        self.image = nn.Dense(c.dim, dtype=dtype)
        self.fine = nn.Dense(c.dim // 2, dtype=dtype)
        self.value = Conv(c.values, dtype)
        self.mend = Mend(c.dim, dtype)
        self.presence = nn.Dense(1, kernel_init=nn.initializers.zeros)
        self.quality = nn.Dense(1)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> MaskCarry:
        """The state of ``batch`` streams before their first frame.

        Raises ValueError for a frame shape other than the config's ``image_size``.
        """
        c = self.config
        self.check_shape(frame_shape)
        lead, cells, kind = (batch, c.objects), c.grid[0] * c.grid[1], jnp.dtype(c.memory_dtype)
        features = {"key": ((cells, c.key), kind), "value": ((cells, c.values + 1), kind)}
        other = {"other": ((cells,), jnp.dtype(bool))} if c.doubt else {}
        return MaskCarry(
            frame=jnp.zeros((batch,), jnp.int32),
            active=jnp.zeros(lead, bool),
            prompted=empty_bank(lead, c.prompted_slots, features | other),
            recent=empty_bank(lead, c.memories, features),
            place=Place(jnp.zeros((*lead, *c.grid), bool), jnp.zeros(lead, jnp.int32)),
        )

    def one_frame(
        self, carry: MaskCarry, inputs: tuple[Array, Array, Prompts], taps: tuple[str, ...] = ()
    ) -> tuple[MaskCarry, Tracks]:
        """The body: frames [B, H, W, 3], valid [B], prompts with leaves [B, O, ...]."""
        c = self.config
        frames, valid, prompts = inputs
        old = carry
        carry = replace(
            carry,
            active=carry.active & ~prompts.remove,
            prompted=clear(carry.prompted, prompts.remove),
            recent=clear(carry.recent, prompts.remove),
            place=of(~prompts.remove, carry.place),
        )
        prompted = prompts.pointed | prompts.masked
        active = carry.active | prompted

        maps = self.trunk.levels(frames)
        keys = self._keys(maps)  # [B, L, K]
        read, known, shown = self._read(carry, keys)
        found = self._decode(maps, keys, read, known, shown, prompts, carry.place)
        found = self._shown(found, prompts, active)
        out = Tracks(
            masks=jnp.where(active[..., None, None], found.high, ABSENT_LOGIT),
            scores=jnp.where(active, found.score, ABSENT_LOGIT),
            iou=jnp.where(active, found.iou, 0.0),
            active=active,
        )
        memory = self._memory(keys, found, prompted)
        now = jnp.broadcast_to(carry.frame[:, None], active.shape)
        kept = memory | ({"other": found.others.reshape(*now.shape, -1)} if c.doubt else {})
        pinned, _ = write_pinned(carry.prompted, kept, now, prompted, keep_first=False)
        recent = write_ring(carry.recent, memory, now, active & ~prompted)
        carry = MaskCarry(carry.frame + 1, active, pinned, recent, of(active, found.place))
        return hold(carry, old, valid), out

    def _shown(self, found: Found, prompts: Prompts, active: Array) -> Found:
        """With the masks that prompts give, and every cell one object's at most."""
        masked = prompts.masked[..., None, None]
        if prompts.masks is not None:
            there = prompts.masks.any(axis=(-2, -1))
            masks = prompts.masks.astype(jnp.float32)
            given = lambda like: 20.0 * resize_masks(masks, like.shape[-2:]) - 10.0
            low = jnp.where(masked, given(found.low), found.low)
            shown = low > 0
            unseen = jnp.where(there, 0, found.place.unseen)
            found = replace(
                found,
                low=low,
                high=jnp.where(masked, given(found.high), found.high),
                score=jnp.where(prompts.masked, jnp.where(there, 10.0, -10.0), found.score),
                iou=jnp.where(prompts.masked, 1.0, found.iou),
                others=found.others & ~masked,  # what was found beside a given mask is not judged
                place=Place(
                    jnp.where(masked & there[..., None, None], shown, found.place.cells),
                    jnp.where(prompts.masked, unseen, found.place.unseen),
                ),
            )
        if self.config.compete:
            low, high = (jnp.where(masked, a, compete(a, active)) for a in (found.low, found.high))
            found = replace(found, low=low, high=high)
        return found

    def _keys(self, maps: tuple[Array, ...]) -> Array:
        """What cells are compared by: [B, L, K] of length 1.

        Each map enters without its mean over the frame: what all cells share tells none apart.
        """
        grid = self.config.grid
        alike = [unit(m - m.mean(axis=(1, 2), keepdims=True)) for m in maps[1:3]]
        x = unit(jnp.concatenate([alike[0], grow(alike[1], grid)], axis=-1))
        return x.reshape(x.shape[0], -1, x.shape[-1])

    def _near(self) -> Array:
        """[L, L] bool: cells within reach of each other."""
        h, w = self.config.grid
        place = jnp.arange(h * w)
        far = (jnp.abs(a[:, None] - a[None]) for a in (place // w, place % w))
        far = jnp.maximum(*far)
        return far <= self.config.reach

    def _read(self, carry: MaskCarry, keys: Array) -> tuple[Array, Array, Array]:
        """(values [B, O, L, D + 1] that cells [B, L, K] find, whether there are any [B, O], by how
        much each cell is more like the object as it was shown than like the others that were taken
        for it then [B, O, L])."""
        c, near = self.config, self._near()
        likeness, values = [], []
        shown: Array = jnp.zeros(())
        for bank, limit in ((carry.prompted, None), (carry.recent, near)):
            found = bank.values["key"].astype(keys.dtype)  # [B, O, N, L, K]
            found = found.reshape(*found.shape[:2], -1, found.shape[-1])
            like = jnp.einsum("blk,bomk->bolm", keys, found)
            like = like.reshape(*like.shape[:3], -1, keys.shape[1])  # [B, O, L, N, L]
            there = bank.valid[:, :, None, :, None]
            if limit is not None:
                there = there & to_rank(limit[:, None], there)
            likeness.append(jnp.where(there, like, -jnp.inf).reshape(*like.shape[:3], -1))
            value = bank.values["value"].astype(jnp.float32)
            if limit is None and c.doubt:
                flat = lambda a: a.reshape(*a.shape[:2], 1, -1)
                best = lambda of, like: jnp.where(of, like, -1.0).max(-1).astype(jnp.float32)
                mine, other = flat(value[..., 0] > 0.5), flat(bank.values["other"])
                shown = best(mine, likeness[0]) - best(other, likeness[0])
            values.append(value.reshape(*value.shape[:2], -1, value.shape[-1]))
        known = carry.prompted.valid.any(-1) | carry.recent.valid.any(-1)
        best, at = jax.lax.top_k(jnp.concatenate(likeness, axis=-1), c.nearest)
        best = jnp.where(known[..., None, None], c.scale * best, 0.0)
        weights = jax.nn.softmax(best, axis=-1).astype(jnp.float32)
        pick = jax.vmap(jax.vmap(lambda v, i: v[i]))  # [B, O, L, nearest, D + 1]
        read = jnp.einsum("boln,bolnd->bold", weights, pick(jnp.concatenate(values, axis=2), at))
        return jnp.where(known[..., None, None], read, 0.0), known, shown

    def _decode(
        self,
        maps: tuple[Array, ...],
        keys: Array,
        read: Array,
        known: Array,
        shown: Array,
        prompts: Prompts,
        place: Place,
    ) -> Found:
        """What is found by what was read, on the track that was at ``place``."""
        c = self.config
        batch, (h, w) = keys.shape[0], c.grid
        wide = [maps[1], grow(maps[2], c.grid), grow(maps[3], c.grid)]
        image = nn.relu(self.image(jnp.concatenate(wide, axis=-1)))
        fine = nn.relu(self.fine(maps[0]))
        hints, boxed = self._hints(keys, prompts)
        p = jnp.clip(read[..., 0], 1e-4, 1 - 1e-4)
        base = jnp.clip(jnp.log(p) - jnp.log1p(-p), -SURE, SURE)
        start = jnp.where(boxed, (1.0 + SURE) * hints[..., 2] - SURE, -1.0)
        base = jnp.where(known[..., None], base, start.astype(base.dtype))

        def rows(a: Array) -> Array:  # [B, ...] -> [M, ...], the same for every object
            a = jnp.broadcast_to(a[:, None], (batch, c.objects, *a.shape[1:]))
            return a.reshape(-1, *a.shape[2:])

        cells = lambda a: a.reshape(-1, h, w, *a.shape[3:])
        low, high, x = self.mend(
            cells(base), cells(read[..., 1:]), rows(image), rows(fine), cells(hints)
        )
        split = lambda a: a.reshape(batch, c.objects, *a.shape[1:])
        low, high, x = (split(a.astype(jnp.float32)) for a in (low, high, x))
        grid = lambda a: a.reshape(batch, c.objects, h, w)
        if c.doubt:
            doubted = (smooth(grid(shown)) < 0) & known[..., None, None]
            low, high = without(low, doubted), without(high, doubted)
        others = jnp.zeros(low.shape, bool)
        if c.apart:
            told = (hints[..., 0] > CLOSE) | (hints[..., 2] > 0)
            others, place = own_part(low, place, grid(told), c.apart)
            low, high = without(low, others), without(high, others)
        inside = nn.sigmoid(low)[..., None]
        mean = (x * inside).sum((2, 3)) / (inside.sum((2, 3)) + 1.0)
        score = high.max((2, 3)) + self.presence(mean)[..., 0]
        iou = nn.sigmoid(self.quality(mean)[..., 0])
        return Found(low, high, score, iou, image, place, others)

    def _hints(self, keys: Array, prompts: Prompts) -> tuple[Array, Array]:
        """Maps [B, O, L, HINTS] of the prompts: nearness to points on and beside the object, the
        part of a cell in the box, likeness to those points; zeros where there are none. And whether
        there is a box [B, O, 1]."""
        h, w = self.config.grid
        pointed = (prompts.pointed & ~prompts.masked)[..., None]
        at = (jnp.asarray(prompts.points) / CELL - 0.5).astype(jnp.float32)  # [B, O, P, 2], cells
        place = jnp.stack(jnp.meshgrid(jnp.arange(w), jnp.arange(h)), -1)
        place = place.reshape(1, 1, 1, -1, 2).astype(jnp.float32)  # cell (x, y), [1, 1, 1, L, 2]
        gap = ((at[..., None, :] - place) ** 2).sum(-1)  # [B, O, P, L]
        close = jnp.exp(-gap / 8.0)  # two cells wide
        col, row = (jnp.clip(jnp.round(at[..., i]), 0, n - 1) for i, n in enumerate((w, h)))
        index = (row * w + col).astype(jnp.int32)
        asked = jax.vmap(lambda k, i: k[i])(keys, index)  # [B, O, P, K]
        alike = jnp.einsum("bopk,blk->bopl", asked, keys)
        maps = []
        for what in (close, alike):
            for label in (FOREGROUND, BACKGROUND):
                used = ((prompts.labels == label) & pointed)[..., None]
                best = jnp.where(used, what, -1.0).max(axis=2)
                maps.append(jnp.where(used.any(axis=2), best, 0.0))
        corner = lambda label: (prompts.labels == label) & pointed
        first, last = corner(TOP_LEFT), corner(BOTTOM_RIGHT)
        boxed = (first.any(-1) & last.any(-1))[..., None]
        take = lambda which: jnp.where(which[..., None], at, 0.0).sum(2)[..., None, :]
        low, high = take(first) + 0.5, take(last) + 0.5
        place = place[:, :, 0]
        covered = jnp.clip(jnp.minimum(place + 1, high) - jnp.maximum(place, low), 0.0, 1.0)
        box = jnp.where(boxed, covered.prod(-1), 0.0)
        maps = [m.astype(jnp.float32) for m in (maps[0], maps[1], box, maps[2], maps[3])]
        hints = jnp.stack(maps, axis=-1)
        return hints.astype(keys.dtype), boxed

    def _memory(self, keys: Array, found: Found, prompted: Array) -> dict[str, Array]:
        """``key`` [B, O, L, K] and ``value`` [B, O, L, D + 1] of this frame."""
        c, image = self.config, found.image
        batch, (h, w) = keys.shape[0], c.grid
        shown = (
            (found.high > 0).reshape(batch, c.objects, h, 2, w, 2).mean((3, 5), dtype=jnp.float32)
        )
        handed = nn.sigmoid(found.low)
        mask = jnp.where(prompted[..., None, None], shown, handed)[..., None]
        shared = jnp.broadcast_to(image[:, None], (batch, c.objects, *image.shape[1:]))
        x = jnp.concatenate([shared, mask.astype(image.dtype)], axis=-1)
        value = self.value(x.reshape(-1, h, w, x.shape[-1])).astype(jnp.float32)
        value = jnp.concatenate([mask, value.reshape(*mask.shape[:4], -1)], axis=-1)
        key = jnp.broadcast_to(keys[:, None], (batch, c.objects, *keys.shape[1:]))
        return {"key": key, "value": value.reshape(batch, c.objects, h * w, -1)}
