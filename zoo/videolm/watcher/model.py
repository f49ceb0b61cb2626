"""A language model that watches: frames come, and each time it says what token would follow.

How the stream is remembered is a system of ``layers.policies.systems``, by name: tokens of a frame
may leave before they are read, the memory keeps what its policy says, or a bank of frames is read
anew each time.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from ....layers.exportable import exportable
from ....layers.gaps import hold, zero_invalid
from ....layers.memory import Slots
from ....layers.memory.star import StarMemory
from ....layers.policies.systems import System, system
from ....layers.policies.token_drop import Novelty
from ....layers.streaming import Array
from ...ranges import Count
from ...text.decoder.model import Decoder
from ..model import Seeing, VideoLMConfig
from ..qwen_vision import MERGE, QwenVision, patches_of


@dataclasses.dataclass(frozen=True)
class WatcherConfig(VideoLMConfig):
    """A video language model, and how it remembers.

    Attributes:
      image_size: (height, width) of a frame.
      memory: name of a system (``layers.policies.systems``).
      slots: of the memory; what a bank gives takes about as many.

    Raises:
      ValueError: an unknown system (the message names the nearest), or fewer slots than two frames.
    """

    image_size: tuple[Count, Count] = (384, 384)
    memory: str = "streaming-llm"
    slots: Count = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.keeps  # fails early

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a frame's tokens."""
        vision = self.vision
        cells = [side // vision.patch for side in self.image_size]
        step = {"qwen": MERGE, "shuffle": self.factor, "onevision": 2}[self.connector]
        rounded = (
            -(-np.asarray(cells) // step)
            if self.connector == "onevision"
            else (np.asarray(cells) // step)
        )
        return int(rounded[0]), int(rounded[1])

    @property
    def keeps(self) -> System:
        """The system as a value."""
        return _system(self.memory, self.slots, int(np.prod(self.grid)), self.decoder.dim)


@functools.cache
def _system(name: str, slots: int, tokens: int, dim: int) -> System:
    return system(name, slots, tokens, dim)


@exportable
class Watched(NamedTuple):
    """What a stream left behind: ``slots`` of the language model, or a ``bank`` of frames in their
    place; ``before``, what a drop compares the next frame with. () where there is none."""

    slots: Any
    bank: Any
    before: Any


class VideoWatcher(Seeing):
    """(carry, frames [B, T, H, W, 3]) -> (carry, logits [B, T, V] of the token behind each frame).

    A question is asked of a copy: ``ask`` reads words behind what is kept.
    """

    config: WatcherConfig
    task = "describe"
    inputs = ("frames",)
    latency = 0
    cross_stream = False

    def setup(self):
        c = self.config
        own = dataclasses.replace(c.decoder, policy=c.keeps.policy)
        self._build(c, own)
        if isinstance(c.keeps.bank, StarMemory):
            self.bank = c.keeps.bank

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> Watched:
        """Nothing was seen; ``frame_shape`` does not matter."""
        c = self.config
        keeps, tokens = c.keeps, int(np.prod(c.grid))
        if isinstance(keeps.bank, StarMemory):
            return Watched((), keeps.bank.init_carry(batch, tokens), ())
        if keeps.bank is not None:
            return Watched((), keeps.bank.init_carry(batch, tokens, c.decoder.dim), ())
        before: Any = ()
        if isinstance(keeps.drop, Novelty):
            before = keeps.drop.init_carry(batch, c.decoder.dim)
        elif keeps.drop is not None:
            before = keeps.drop.init_carry(batch, tokens, c.decoder.dim)
        return Watched(self._empty(batch), (), before)

    @nn.nowrap
    def _empty(self, batch: int) -> Slots:
        own = dataclasses.replace(self.config.decoder, policy=self.config.keeps.policy)
        return Decoder(own, parent=None).init_carry(batch)

    def __call__(
        self, carry: Watched, frames: Array, valid: Array | None = None
    ) -> tuple[Watched, Array]:
        """Watches T frames.

        Args:
          carry: of :meth:`init_carry`.
          frames: [B, T, H, W, 3] of the config's ``image_size``, normalised as the card says.
          valid: [B, T] bool, frames that are there; the others leave no trace, their logits are 0.

        Raises:
          ValueError: frames of another size.
        """
        c = self.config
        if frames.shape[2:4] != c.image_size:
            raise ValueError(
                f"frames of {frames.shape[2]} x {frames.shape[3]} pixels for {c.image_size[0]} x"
                f" {c.image_size[1]}: a stream keeps one size; scale them, or load the model with"
                f" image_size={tuple(frames.shape[2:4])}"
            )
        there = jnp.ones(frames.shape[:2], bool) if valid is None else valid
        x, deep = self.tokens_of(zero_invalid(frames, valid))
        if c.keeps.bank is not None:
            carry, last = self._bank(carry, x, there)
        else:
            carry, last = self._read(carry, x, deep, there)
        return carry, zero_invalid(self.decoder.say(last), valid)

    def ask(self, carry: Watched, tokens: Array, valid: Array | None = None) -> Array:
        """Words [B, L] behind what is kept -> logits [B, L, V]; nothing of it stays."""
        slots = carry.slots if self.config.keeps.bank is None else self._told(carry.bank)
        _, x = self.decoder.read(slots, tokens, valid)
        return zero_invalid(self.decoder.say(x), valid)

    def tokens_of(self, frames: Array) -> tuple[Array, Array]:
        """frames [B, T, H, W, 3] -> (tokens [B, T, N, D], for the first blocks [S, B, T, N, D])."""
        batch, steps = frames.shape[:2]
        flat = frames.reshape(-1, *frames.shape[2:])
        if isinstance(self.vision, QwenVision):
            # a patch is of two frames: a single one stands for both, as these models see pictures
            def one(model: VideoWatcher, frame: Array) -> tuple[Array, Array]:
                twice = jnp.stack([frame, frame])
                found = model.see(*patches_of(twice, model.config.vision.patch))
                return found.tokens, found.deep

            options: Any = dict(
                variable_axes={"params": None}, split_rngs={"params": False}, out_axes=(0, 1)
            )
            tokens, deep = nn.vmap(one, in_axes=0, **options)(self, flat)
        else:
            found = self.see(flat)
            tokens, deep = found.tokens, found.deep
        tokens = tokens.reshape(batch, steps, *tokens.shape[1:])
        return tokens, deep.reshape(len(deep), *tokens.shape)

    def _read(self, carry: Watched, x: Array, deep: Array, there: Array):
        """Through the memory: (carry, the last token's features of each frame [B, T, D])."""
        c = self.config
        batch, steps, count, dim = x.shape
        before, stay = carry.before, jnp.broadcast_to(there[..., None], x.shape[:3])
        if c.keeps.drop is not None:
            before, stay = c.keeps.drop(before, x, there)
        together = lambda a: a.reshape(*a.shape[:-3], steps * count, a.shape[-1])
        valid = stay.reshape(batch, steps * count)
        told = self._places(carry.slots, there)
        slots, y = self.decoder.read(
            carry.slots, None, valid, features=together(x), told=told, added=together(deep)
        )
        if told:  # a frame takes its time, however few of its tokens were read
            shown = there.sum(axis=1, dtype=jnp.int32) * max(c.grid)
            slots = dataclasses.replace(slots, next=carry.slots.next + shown)
        # of a frame of which nothing was read: what was read before it says nothing new
        place = jnp.where(stay, jnp.arange(count)[None, None], -1).max(axis=2)
        y = y.reshape(batch, steps, count, dim)
        last = jnp.take_along_axis(y, jnp.maximum(place, 0)[..., None, None], axis=2)[:, :, 0]
        return Watched(slots, (), before), jnp.where((place >= 0)[..., None], last, 0)

    def _places(self, slots: Slots, there: Array) -> dict[str, Array]:
        """Positions on three axes: a frame stands at one time, its cells side by side."""
        rows, cols = self.config.grid
        if self.config.decoder.axes == 1 or "place" not in slots.notes:
            return {}
        side = max(rows, cols)
        rank = jnp.cumsum(there, axis=1, dtype=jnp.int32) - 1
        start = slots.next[:, None] + rank * side
        r, c = np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij")
        cell = np.stack([0 * r, r, c], axis=-1).reshape(-1, 3).astype(np.int32)
        place = start[..., None, None] + cell[None, None]
        return {"place": place.reshape(there.shape[0], -1, 3)}

    def _bank(self, carry: Watched, x: Array, there: Array):
        """Each frame joins the bank, which is read from its beginning."""

        def step(module: VideoWatcher, state: Any, now: tuple[Array, Array]):
            x, here = now
            kept: Any = module.config.keeps.bank
            if isinstance(kept, StarMemory):  # it has parameters
                fresh = module.bank.chunk(state, x[:, None])
            else:
                fresh = kept.add(state, x)
            state = hold(fresh, state, here)
            _, y = module.decoder.read(
                module._empty(x.shape[0]), None, features=module._give(state)
            )
            return state, y[:, -1]

        scan = nn.scan(
            step, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1
        )
        state, last = scan(self, carry.bank, (x, there))
        return Watched((), state, ()), last

    def _give(self, state: Any) -> Array:
        kept: Any = self.config.keeps.bank
        return kept.tokens(state)

    def _told(self, state: Any) -> Slots:
        """The memory that has read what the bank gives."""
        x = self._give(state)
        return self.decoder.read(self._empty(x.shape[0]), None, features=x)[0]


def some_frames(module: Any, card: Any) -> tuple:
    """The arguments of ``module.init`` after the key: one frame of one stream."""
    del card
    return module.init_carry(1), jnp.zeros((1, 1, *module.config.image_size, 3), jnp.float32)
