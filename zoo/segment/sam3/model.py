"""SAM 3: masks, boxes and scores of every instance of the concepts of a prompt, in every frame.

Source: Carion et al., "SAM 3: Segment Anything with Concepts" (arXiv 2511.16719), its detector. The
numbers are those of transformers' Sam3Model.

The prompt is in the carry: its words are encoded with the first frame that comes after it, and so
are boxes of that frame that show what is meant. Of each concept they stay what they are until
another is asked for; a frame is then looked at by itself. That exemplars of one frame serve later
ones is ours: Sam3Model is asked for one picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.exportable import exportable
from ....layers.gaps import hold, zero_invalid
from ...asking import Asked
from ...checks import check_carry, check_frames
from ...encode.dual.model import TextTower
from ...text.tokenizer import Tokenizer
from ..neck import sine_positions
from ..outputs import Instances
from .blocks import ReadBlock
from .concepts import NONE, concept_tokens
from .config import Sam3Config
from .decoder import QueryDecoder, Scores, corners
from .exemplars import ExemplarEncoder
from .masks import PixelDecoder
from .pyramid import Pyramid

Array = jax.Array
Maps = tuple[Array, Array, Array]


@exportable
class Concepts(NamedTuple):
    """Carry: what B streams ask for, P concepts each."""

    tokens: Array  # [B, P, N] int32, -1 where there is none
    boxes: Array  # [B, P, K, 4] exemplars, x1, y1, x2, y2 as fractions of the frame
    kinds: Array  # [B, P, K] int32, 1: it is such, 0: it is not, -1: no box
    prompt: Array  # [B, P, L, D], all of it encoded
    read: Array  # [B] bool: ``prompt`` is of these

    @property
    def there(self) -> Array:
        """[B, P, L] bool: what of ``prompt`` is there."""
        shown = self.kinds >= 0
        parts = (self.tokens >= 0, shown, shown.any(axis=-1, keepdims=True))
        return jnp.concatenate(parts, axis=-1)


class Found(NamedTuple):
    """All queries of M frames, one concept each."""

    queries: Array  # [M, Q, D]
    logits: Array  # [M, Q]
    boxes: Array  # [M, Q, 4] x1, y1, x2, y2 as fractions of the frame
    presence: Array  # [M] logit
    pixels: Array  # [M, h, w, D], what a mask's vector is compared with
    area: Array  # [M, h, w] logits


class Sam3(nn.Module, Asked):
    """Instances of what prompts name. Latency 0; of earlier frames nothing is kept."""

    config: Sam3Config
    task = "detect"
    latency = 0
    cross_stream = False
    inputs = ("frames",)

    def setup(self):
        c = self.config
        self.pyramid = Pyramid(c.trunk, c.dim, c.dtype)
        self.words = TextTower(dataclasses.replace(c.text, dtype=c.dtype))
        self.words_out = nn.Dense(c.dim, dtype=c.dtype)
        self.exemplars = ExemplarEncoder(c)
        self.blocks = [ReadBlock(c) for _ in range(c.encoder_depth)]
        self.decoder = QueryDecoder(c)
        self.scores = Scores(c)
        self.masks = PixelDecoder(c)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> Concepts:
        """Of ``batch`` streams that ask for ``config.prompt``."""
        del frame_shape
        c = self.config
        tokens = np.full((c.concepts, c.length), NONE, np.int32)
        for concept, own in enumerate(c.prompt):
            tokens[concept, : len(own)] = own
        return self.ask(jnp.broadcast_to(tokens[None], (batch, *tokens.shape)))

    @nn.nowrap
    def ask(self, tokens: Any, boxes: Any = None, kinds: Any = None) -> Concepts:
        """The carry of streams that ask for these concepts.

        Args:
          tokens: integers [B, P, N], P and N up to ``config.concepts`` and ``config.length``, -1
            where there is none.
          boxes: [B, P, K, 4] exemplars in the next frame, K up to ``config.exemplars``, x1, y1,
            x2, y2 as fractions of the frame; None for none.
          kinds: [B, P, K] integers, 1 for a box of what is meant, 0 for one of what is not, -1 for
            no box; None: every box is of what is meant.

        Raises:
          ValueError: other shapes or types, or too many of something.
        """
        c, tokens = self.config, jnp.asarray(tokens)
        if tokens.ndim != 3 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(
                f"a prompt is tokens [batch, concepts, length], got {list(tokens.shape)}"
            )
        boxes = jnp.zeros((*tokens.shape[:2], 0, 4)) if boxes is None else jnp.asarray(boxes)
        kinds = jnp.ones(boxes.shape[:-1], jnp.int32) if kinds is None else jnp.asarray(kinds)
        if boxes.shape != (*tokens.shape[:2], kinds.shape[-1], 4) or kinds.ndim != 3:
            raise ValueError(
                f"exemplars are boxes [batch, concepts, count, 4] of {list(tokens.shape[:2])} and"
                f" kinds [batch, concepts, count], got {list(boxes.shape)} and {list(kinds.shape)}"
            )
        room = (c.concepts, c.length, c.exemplars)
        if any(n > m for n, m in zip((*tokens.shape[1:], kinds.shape[2]), room, strict=True)):
            raise ValueError(
                f"a prompt of {tokens.shape[1]} concepts, {tokens.shape[2]} tokens and"
                f" {kinds.shape[2]} exemplars, there is room for {room}"
            )
        more = c.concepts - tokens.shape[1]
        fill = lambda a, count, value: jnp.pad(
            a,
            ((0, 0), (0, more), (0, count - a.shape[2]), *[(0, 0)] * (a.ndim - 3)),
            constant_values=value,
        )
        tokens = fill(tokens.astype(jnp.int32), c.length, NONE)
        boxes = fill(boxes.astype(jnp.float32), c.exemplars, 0)
        kinds = fill(kinds.astype(jnp.int32), c.exemplars, NONE)
        prompt = jnp.zeros((*tokens.shape[:2], c.prompt_length, c.dim), c.dtype)
        return Concepts(tokens, boxes, kinds, prompt, jnp.zeros(tokens.shape[:1], bool))

    @nn.nowrap
    def with_phrases(self, phrases: Sequence[str], tokenizer: Tokenizer) -> Sam3:
        """The model whose fresh carry asks for these concepts.

        Raises:
          ValueError: phrases that :func:`~.concepts.concept_tokens` refuses.
        """
        prompt = concept_tokens(phrases, tokenizer, self.config.length)
        changes: Any = {"prompt": prompt, "concepts": len(prompt)}
        return self.clone(config=dataclasses.replace(self.config, **changes))

    def __call__(
        self, carry: Concepts, frames: Array, valid: Array | None = None
    ) -> tuple[Concepts, Instances]:
        """What is in T frames of B streams of what each stream's prompt names.

        Args:
          carry: of :meth:`init_carry` or :meth:`ask`.
          frames: [B, T, H, W, 3] RGB floats as the card says, of any size.
          valid: [B, T] bool, False for frames that never came.

        Returns:
          The carry, and leaves [B, T, slots, ...]; a label is the number of a concept.

        Raises:
          ValueError: frames of the wrong shape or type, or the carry of another model.
        """
        check_frames(frames, 1, type(self).__name__)
        batch, steps, *shape = frames.shape
        check_carry(carry, lambda: self.init_carry(batch))
        came = jnp.ones((batch, steps), bool) if valid is None else valid
        pictures = zero_invalid(frames, valid).reshape(batch * steps, *shape)
        if tuple(shape[:2]) != self.config.image_size:
            whole = (batch * steps, *self.config.image_size, 3)
            pictures = jax.image.resize(pictures, whole, "bilinear")
        maps = self.pyramid(pictures)
        cells = maps[2].reshape(batch, steps, *maps[2].shape[1:])
        first = came.argmax(axis=1)[:, None, None, None, None]
        known = self.encoded(carry, jnp.take_along_axis(cells, first, axis=1)[:, 0])
        # every frame is looked at once for each concept
        every = lambda a: jnp.repeat(a, steps, axis=0).reshape(-1, *a.shape[2:])
        there = known.there
        found = self.raw(maps, every(known.prompt), every(there))
        out = self.choose(found, jnp.repeat(there.any(axis=-1), steps, axis=0))
        out = jax.tree.map(lambda a: a.reshape(batch, steps, *a.shape[1:]), out)
        out = jax.tree.map(lambda a: zero_invalid(a, valid), out)
        return hold(known, carry, came.any(axis=1)), out

    def encoded(self, carry: Concepts, cells: Array) -> Concepts:
        """With every prompt encoded; those that were before are not encoded again. ``cells``
        [B, h, w, D] of the frame that exemplars are boxes of."""
        if self.is_initializing():
            return carry._replace(prompt=self.encode_prompt(carry, cells))
        prompt = nn.cond(
            carry.read.all(),
            lambda _, carry, __: carry.prompt,
            lambda module, carry, cells: hold(
                carry.prompt, module.encode_prompt(carry, cells), carry.read
            ),
            self,
            carry,
            cells,
        )
        return carry._replace(prompt=prompt, read=jnp.ones_like(carry.read))

    def encode_prompt(self, carry: Concepts, cells: Array) -> Array:
        """[B, P, L, D]: the tokens of each concept, of its exemplars and one for all of them."""
        batch, concepts, _ = carry.tokens.shape
        flat = lambda a: a.reshape(batch * concepts, *a.shape[2:])
        words, _ = self.words.encode(jnp.maximum(flat(carry.tokens), 0))
        cells = jnp.repeat(cells, concepts, axis=0)
        shown = self.exemplars(flat(carry.boxes), flat(carry.kinds), cells, self.places(cells))
        prompt = jnp.concatenate([self.words_out(words), shown], axis=1)
        return prompt.reshape(batch, concepts, *prompt.shape[1:])

    @nn.nowrap
    def places(self, cells: Array) -> Array:
        """Positions [h * w, D] of cells [M, h, w, D]."""
        dim = self.config.dim
        return jnp.asarray(sine_positions(cells.shape[1:3], dim).reshape(-1, dim), cells.dtype)

    def fused(self, cells: Array, prompt: Array, there: Array) -> Array:
        """Cells [M, h, w, D] that have read prompts [M, L, D], of which ``there`` [M, L] is."""
        x, at = cells.reshape(cells.shape[0], -1, cells.shape[-1]), self.places(cells)[None]
        for block in self.blocks:
            x = block(x, prompt, at=at, read_valid=there)
        return x.reshape(cells.shape)

    def raw(self, maps: Maps, prompt: Array, there: Array) -> Found:
        """All queries of frames with these ``maps`` and P prompts each, [M * P, L, D]; ``there``
        [M * P, L]: what of them is there."""
        fine, middle, cells = (jnp.repeat(a, self.config.concepts, axis=0) for a in maps)
        cells = self.fused(cells, prompt, there)
        queries, boxes, presence = self.decoder(prompt, there, cells, self.places(cells))
        logits = self.scores(queries, prompt, there)
        pixels, area = self.masks(cells, (fine, middle), prompt, there)
        return Found(queries, logits, corners(boxes), presence, pixels, area)

    def choose(self, found: Found, asked: Array) -> Instances:
        """The surest queries of each frame, leaves [M, slots, ...]; ``asked`` [M, P]: there is
        such a concept. A score is how sure a query is times how sure its concept's presence."""
        c, (frames, concepts) = self.config, asked.shape
        group = lambda a: a.reshape(frames, concepts, *a.shape[1:])
        presence = jnp.where(asked, nn.sigmoid(group(found.presence)), 0)
        sure = nn.sigmoid(group(found.logits)) * presence[..., None]
        count = sure.shape[1] * sure.shape[2]
        scores, chosen = jax.lax.top_k(sure.reshape(frames, count), min(c.slots, count))
        take = lambda a: jnp.take_along_axis(
            a.reshape(frames, count, -1), chosen[..., None], axis=1
        )
        labels = (chosen // sure.shape[2]).astype(jnp.int32)
        masks = self.mask_logits(take(found.queries), labels, group(found.pixels))
        valid = scores > c.threshold
        empty = lambda a: zero_invalid(a, valid)
        boxes = jnp.clip(take(found.boxes), 0.0, 1.0)
        more = c.slots - scores.shape[1]
        fill = lambda a: jnp.pad(a, ((0, 0), (0, more), *[(0, 0)] * (a.ndim - 2)))
        boxes, scores, labels, masks = (fill(empty(a)) for a in (boxes, scores, labels, masks))
        areas = zero_invalid(group(found.area), asked)
        return Instances(boxes, scores, labels, fill(valid), masks, areas, presence)

    def mask_logits(self, queries: Array, labels: Array, pixels: Array) -> Array:
        """Masks [M, S, h, w] of queries [M, S, D] of concepts ``labels`` [M, S], by the pixels
        [M, P, h, w, D] of each concept."""
        vectors = self.masks.query(queries)
        own = jax.nn.one_hot(labels, pixels.shape[1], dtype=vectors.dtype)
        spread = own[..., None] * vectors[:, :, None]
        return jnp.einsum("mspd,mphwd->mshw", spread, pixels).astype(jnp.float32)
