"""Grounding DINO: boxes of whatever a prompt names, in every frame.

Source: Liu et al., "Grounding DINO: Marrying DINO with Grounded Pre-Training for Open-Set Object
Detection" (arXiv 2303.05499); IDEA-Research/GroundingDINO (Apache-2.0). The numbers are those of
transformers' GroundingDinoForObjectDetection for frames that nothing was padded to.

The prompt is in the carry: it is encoded with the first frame that comes after it, and can be
another for every stream and at any time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.deformable import Sizes
from ....layers.exportable import exportable
from ....layers.gaps import hold, zero_invalid
from ....layers.transformer import layer_norm
from ...asking import Asked
from ...checks import check_carry, check_frames
from ...packages import installed
from ...preprocess import fitted
from ...registry import model_card
from ...segment.neck import sine_positions
from ...text.sentence.model import SentenceEncoder
from ...text.tokenizer import Tokenizer
from ..outputs import Detections
from .config import GroundingConfig
from .decoder import Decoder, Head
from .encoder import FusedBlock, centres
from .phrases import Phrases, prompt_tokens, read_phrases
from .swin import Swin

Array = jax.Array
VOCABULARY = "minilm-l6/sentence"  # whose package has BERT's uncased tokenizer
NOWHERE = 1e4  # logit of a place that is no proposal: its box becomes all of the frame


@exportable
class Prompted(NamedTuple):
    """Carry: what B streams ask for."""

    tokens: Array  # [B, N] int32, zeros where there is none
    text: Array  # [B, N, D], the encoded prompt
    read: Array  # [B] bool: ``text`` is of these tokens


class Found(NamedTuple):
    """All queries of M frames."""

    logits: Array  # [M, Q, N] of each token, -inf where there is none
    boxes: Array  # [M, Q, 4] middle x, y, width and height as fractions of the frame


class GroundingDINO(nn.Module, Asked):
    """Objects that prompts name. Latency 0; of earlier frames nothing is kept."""

    config: GroundingConfig
    task = "detect"
    latency = 0
    cross_stream = False
    inputs = ("frames",)

    def setup(self):
        c = self.config
        self.trunk = Swin(dataclasses.replace(c.trunk, dtype=c.dtype))
        self.words = SentenceEncoder(dataclasses.replace(c.text, dtype=c.dtype))
        self.words_out = nn.Dense(c.dim, dtype=c.dtype)
        own = len(c.trunk.read)
        for i in range(c.levels):
            side, step, pad = (1, 1, 0) if i < own else (3, 2, 1)
            conv = nn.Conv(c.dim, (side, side), (step, step), padding=pad, dtype=c.dtype)
            setattr(self, f"level{i}", conv)
            norm = nn.GroupNorm(32, epsilon=1e-5, use_fast_variance=False, dtype=c.dtype)
            setattr(self, f"level{i}_norm", norm)
        normal = nn.initializers.normal(1.0)
        self.level_places = self.param("level_places", normal, (c.levels, c.dim))
        self.queries = self.param("queries", normal, (c.queries, c.dim))
        self.blocks = [FusedBlock(c) for _ in range(c.encoder_depth)]
        self.propose = nn.Dense(c.dim, dtype=c.dtype)
        self.propose_norm = layer_norm(c.eps, c.dtype)
        self.propose_boxes = Head(c.dim, 4, 3)
        self.decoder = Decoder(c)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> Prompted:
        """Of ``batch`` streams that ask for ``config.prompt``."""
        del frame_shape
        c = self.config
        prompt = np.pad(np.asarray(c.prompt, np.int32), (0, c.length - len(c.prompt)))
        return self.ask(jnp.broadcast_to(prompt[None], (batch, c.length)))

    @nn.nowrap
    def ask(self, tokens: Any) -> Prompted:
        """The carry of streams that ask for tokens [B, N], N up to ``config.length``.

        Raises:
          ValueError: not integers [B, N], or too many.
        """
        c, tokens = self.config, jnp.asarray(tokens)
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(f"a prompt is tokens [batch, length], got {list(tokens.shape)}")
        if tokens.shape[1] > c.length:
            raise ValueError(f"a prompt of {tokens.shape[1]} tokens, there is room for {c.length}")
        tokens = jnp.pad(tokens.astype(jnp.int32), ((0, 0), (0, c.length - tokens.shape[1])))
        text = jnp.zeros((*tokens.shape, c.dim), c.dtype)
        return Prompted(tokens, text, jnp.zeros(tokens.shape[:1], bool))

    @nn.nowrap
    def with_phrases(self, phrases: Sequence[str], tokenizer: Tokenizer) -> GroundingDINO:
        """The model whose fresh carry asks for these phrases.

        Raises:
          ValueError: phrases that :func:`~.phrases.prompt_tokens` refuses.
        """
        tokens = prompt_tokens(phrases, tokenizer, self.config.length)
        prompt = tuple(int(t) for t in tokens if t)
        return self.clone(config=dataclasses.replace(self.config, prompt=prompt))

    @nn.nowrap
    def own_tokenizer(self, weights: str) -> Tokenizer:
        """BERT's, uncased, of the installed ``minilm-l6/sentence``."""
        del weights
        return Tokenizer.read(Path(installed(model_card(VOCABULARY).source)).parent)

    def __call__(
        self, carry: Prompted, frames: Array, valid: Array | None = None
    ) -> tuple[Prompted, Detections]:
        """What is in T frames of B streams of what each stream's prompt names.

        Args:
          carry: of :meth:`init_carry` or :meth:`ask`.
          frames: [B, T, H, W, 3] RGB floats as the card says, of any size.
          valid: [B, T] bool, False for frames that never came.

        Returns:
          The carry, and leaves [B, T, slots, ...]; a label is the number of a phrase.

        Raises:
          ValueError: frames of the wrong shape or type, or the carry of another model.
        """
        check_frames(frames, 1, type(self).__name__)
        batch, steps, *shape = frames.shape
        check_carry(carry, lambda: self.init_carry(batch))
        came = jnp.ones(batch, bool) if valid is None else valid.any(axis=1)
        known = self.encoded(carry)
        every = lambda a: jnp.repeat(a, steps, axis=0)
        pictures = zero_invalid(frames, valid).reshape(batch * steps, *shape)
        size = fitted((shape[0], shape[1]), self.config.image_size)
        if size != (shape[0], shape[1]):
            pictures = jax.image.resize(pictures, (batch * steps, *size, 3), "bilinear")
        phrases = read_phrases(known.tokens)
        found = self.raw(pictures, every(known.text), Phrases(*map(every, phrases)))
        out = self.choose(found, every(phrases.label))
        out = jax.tree.map(lambda a: a.reshape(batch, steps, *a.shape[1:]), out)
        return hold(known, carry, came), jax.tree.map(lambda a: zero_invalid(a, valid), out)

    def encoded(self, carry: Prompted) -> Prompted:
        """With every prompt encoded; those that were before are not encoded again."""
        if self.is_initializing():
            return carry._replace(text=self.encode_text(carry.tokens))
        text = nn.cond(
            carry.read.all(),
            lambda _, carry: carry.text,
            lambda module, carry: hold(carry.text, module.encode_text(carry.tokens), carry.read),
            self,
            carry,
        )
        return carry._replace(text=text, read=jnp.ones_like(carry.read))

    def encode_text(self, tokens: Array) -> Array:
        """Prompts [B, N] -> [B, N, D]."""
        phrases = read_phrases(tokens)
        return self.words_out(self.words.encode(tokens, phrases.sees, phrases.place))

    def pyramid(self, pictures: Array) -> list[Array]:
        """Pictures [M, H, W, 3] -> L maps [M, h, w, D], the finest first."""
        trunk = self.trunk(pictures)
        maps: list[Array] = []
        for i in range(self.config.levels):
            below = trunk[i] if i < len(trunk) else trunk[-1] if i == len(trunk) else maps[-1]
            maps.append(getattr(self, f"level{i}_norm")(getattr(self, f"level{i}")(below)))
        return maps

    def raw(self, pictures: Array, text: Array, phrases: Phrases) -> Found:
        """All queries of pictures [M, H, W, 3] with encoded prompts [M, N, D]."""
        cells, text, sizes = self.fused(pictures, text, phrases)
        return self.decoded(cells, text, sizes, phrases)

    def fused(self, pictures: Array, text: Array, phrases: Phrases) -> tuple[Array, Array, Sizes]:
        """The cells [M, S, D] of all maps and the text [M, N, D] behind the encoder, and the
        sizes of the maps."""
        c, maps = self.config, self.pyramid(pictures)
        sizes = [(m.shape[1], m.shape[2]) for m in maps]
        places = [sine_positions(s, c.dim, c.temperature).reshape(-1, c.dim) for s in sizes]
        own = [place + self.level_places[i : i + 1] for i, place in enumerate(places)]
        positions = jnp.concatenate(own, axis=0).astype(c.dtype)
        cells = jnp.concatenate([m.reshape(m.shape[0], -1, c.dim) for m in maps], axis=1)
        for block in self.blocks:
            cells, text = block(cells, text, positions, sizes, phrases)
        return cells, text, sizes

    def decoded(self, cells: Array, text: Array, sizes: Sizes, phrases: Phrases) -> Found:
        """All queries, of what :meth:`fused` gives."""
        boxes = self.best_places(cells, text, phrases.valid, sizes)
        x = self.queries[None, : boxes.shape[1]].astype(self.config.dtype)
        x = jnp.broadcast_to(x, (*boxes.shape[:2], self.config.dim))
        x, boxes = self.decoder(x, boxes, text, phrases.valid, cells, sizes)
        return Found(alike(x, text, phrases.valid), boxes)

    def best_places(self, cells: Array, text: Array, valid: Array, sizes: Sizes) -> Array:
        """The boxes [M, Q, 4] of the cells that are most like a token of the prompt."""
        x, boxes = self.proposals(cells, sizes)
        count = min(self.config.queries, cells.shape[1])
        _, chosen = jax.lax.top_k(alike(x, text, valid).max(axis=-1), count)
        return nn.sigmoid(jnp.take_along_axis(boxes, chosen[..., None], axis=1))

    def proposals(self, cells: Array, sizes: Sizes) -> tuple[Array, Array]:
        """Of every cell [M, S, D] what tokens are compared with, and its box, logits [M, S, 4]."""
        wide = [np.full(h * w, 0.05 * 2.0**i) for i, (h, w) in enumerate(sizes)]
        start = np.stack([*centres(sizes).T, *[np.concatenate(wide)] * 2], axis=-1)
        inside = np.all((start > 0.01) & (start < 0.99), axis=-1)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            start = np.where(inside, np.log(start / (1 - start)), NOWHERE).astype(np.float32)
        x = self.propose_norm(self.propose(cells * jnp.asarray(inside[None], cells.dtype)))
        return x, self.propose_boxes(x) + start[None]

    @nn.nowrap
    def choose(self, found: Found, label: Array) -> Detections:
        """The surest queries of each frame, leaves [M, slots, ...]; ``label`` [M, N] of the
        tokens. A query's score is that of its best token, its label that of its best word."""
        c = self.config
        sure = nn.sigmoid(found.logits)
        words = jnp.where(label[:, None] >= 0, sure, -1.0).argmax(axis=-1)
        labels = jnp.take_along_axis(label, words, axis=1)
        scores, chosen = jax.lax.top_k(sure.max(axis=-1), min(c.slots, sure.shape[1]))
        boxes = jnp.take_along_axis(found.boxes, chosen[..., None], axis=1)
        middle, half = boxes[..., :2], boxes[..., 2:] / 2
        corners = jnp.clip(jnp.concatenate([middle - half, middle + half], axis=-1), 0.0, 1.0)
        valid = scores > c.threshold
        labels = jnp.maximum(jnp.take_along_axis(labels, chosen, axis=1), 0)
        empty = lambda a: zero_invalid(a, valid)
        out = Detections(empty(corners), empty(scores), empty(labels), valid)
        fill = lambda a: jnp.pad(a, ((0, 0), (0, c.slots - a.shape[1]), *[(0, 0)] * (a.ndim - 2)))
        return jax.tree.map(fill, out)


def alike(x: Array, text: Array, valid: Array) -> Array:
    """Products of queries [M, Q, D] and tokens [M, N, D], [M, Q, N]; -inf where no token is."""
    products = jnp.einsum("mqd,mnd->mqn", x, text).astype(jnp.float32)
    return jnp.where(valid[:, None], products, -jnp.inf)
