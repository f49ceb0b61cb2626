"""A decoder-only language model as a stream: T tokens at a time with a memory of constant size.

Sources: Touvron et al., "LLaMA" (arXiv 2302.13971); Yang et al., "Qwen2" (arXiv 2407.10671) and
"Qwen3" (arXiv 2505.09388); Allal et al., "SmolLM2" (arXiv 2502.02737). The numbers are those of
transformers' classes of these names.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ....layers.gaps import zero_invalid
from ....layers.memory import Reader, Rotary, Slots, empty_slots, store
from ....layers.policies import Layered, Policy, Retrieves, policy
from ....layers.streaming import Array, DType
from ....layers.transformer import BlockConfig, BlockStack, rms_norm
from ...ranges import Checked, Count, Positive, Whole


@dataclasses.dataclass(frozen=True)
class RopeScaling(Checked):
    """Llama 3's longer contexts: slow angles turn ``factor`` times slower (transformers' "llama3").

    Attributes:
      factor: of the angles whose wave is longer than original / low positions.
      low, high: between original / high and original / low the factor fades in.
      original: positions that the model saw before it was trained further.
    """

    factor: Positive = 32.0
    low: Positive = 1.0
    high: Positive = 4.0
    original: Count = 8192

    def __call__(self, rates: np.ndarray) -> np.ndarray:
        """The scaled rates [Dh / 2]."""
        wave = 2 * math.pi / rates
        share = np.clip((self.original / wave - self.low) / (self.high - self.low), 0.0, 1.0)
        return (1 - share) * rates / self.factor + share * rates


SINKS = ("none", "zero", "learned")


@dataclasses.dataclass(frozen=True)
class DecoderConfig(Checked):
    """Shapes of a language model, and what its memory keeps.

    Attributes:
      vocabulary: tokens.
      dim, hidden: width of a token, and of the MLPs.
      depth: blocks.
      heads, kv_heads, head_dim: of the queries; of keys and values; width of one.
      biased: which of queries, keys and values have a bias ("qkv" for Qwen2, else "").
      normed: queries and keys are normed per head (Qwen3).
      tied: the head is the embedding.
      theta: base of the rotary angles.
      scaling: of the angles, for longer contexts; None for none.
      unturned: every so many layers one has no rotary embedding (SmolLM3: 4); 0 for none.
      sections: pairs of a head that turn with (time, height, width); () for positions of one axis.
      interleaved: the sections take turns (t, h, w, t, h, w, ...) and are not blocks (Qwen3-VL).
      eps: of the norms.
      start, end: tokens before and after a text.
      context: slots of the memory.
      policy: what the memory keeps, a value of ``layers.policies`` or the name of one.
      sink: where attention goes that has nowhere to go: "none", or "zero", a key of zeros (softmax
        off by one), or "learned", a token of its own that a stream begins with
        (:meth:`Decoder.begin`), for a policy that keeps the first tokens.
      dtype: compute type, and that of keys and values.

    Raises:
      ValueError: a number out of its range, sections that do not add up to half a head, an unknown
        policy or sink, or a zero sink under a policy that reads by itself.
    """

    vocabulary: Count = 49_152
    dim: Count = 576
    hidden: Count = 1536
    depth: Count = 30
    heads: Count = 9
    kv_heads: Count = 3
    head_dim: Count = 64
    biased: str = ""
    normed: bool = False
    tied: bool = True
    theta: Positive = 10_000.0
    scaling: RopeScaling | None = None
    unturned: Whole = 0
    sections: tuple[Count, ...] = ()
    interleaved: bool = False
    eps: Positive = 1e-5
    start: Whole = 1
    end: Whole = 2
    context: Count = 1024
    policy: Policy | str = "full"
    sink: str = "none"
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sections and sum(self.sections) != self.head_dim // 2:
            raise ValueError(
                f"sections {self.sections} are not {self.head_dim // 2} pairs of a head"
            )
        if self.sink not in SINKS:
            raise ValueError(f"sink {self.sink!r}: choose from {SINKS}")
        own = isinstance(self.keeps, (Layered, Retrieves))  # fails early
        if self.sink == "zero" and own:
            raise ValueError(f"{self.keeps} reads in a way of its own: it has no zero sink")

    @property
    def keeps(self) -> Policy:
        """The policy as a value."""
        return policy(self.policy, self.context) if isinstance(self.policy, str) else self.policy

    @property
    def axes(self) -> int:
        """Axes of a position."""
        return len(self.sections) or 1

    @property
    def block(self) -> BlockConfig:
        """Of every block."""
        return BlockConfig(
            self.dim,
            self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            biased=self.biased,
            out_bias=False,
            mlp_bias=False,
            qk_norm="head" if self.normed else None,
            causal=True,
            mlp_ratio=self.hidden / self.dim,
            activation="silu",
            gated=True,
            norm="rms",
            eps=self.eps,
            dtype=self.dtype,
        )

    @property
    def rotary(self) -> Rotary:
        """Angles of the pairs of a head."""
        pairs = self.head_dim // 2
        rates = self.theta ** (-np.arange(pairs) / pairs)
        if self.scaling is not None:
            rates = self.scaling(rates)
        axis = np.repeat(np.arange(self.axes), self.sections or (pairs,))
        if self.interleaved:
            # height and width take every third pair while theirs last, time has the rest
            axis = np.zeros(pairs, int)
            for place in range(1, self.axes):
                axis[place : self.axes * self.sections[place] : self.axes] = place
        return Rotary(rates.astype(np.float32), axis)

    @property
    def turned(self) -> np.ndarray:
        """[L] bool: layers with a rotary embedding."""
        layers = np.arange(1, self.depth + 1)
        return layers % self.unturned != 0 if self.unturned else np.ones(self.depth, bool)


class Decoder(nn.Module):
    """(carry, tokens [B, T]) -> (carry, logits [B, T, V] of the tokens that follow each).

    Any T: a text at once and token by token give the same numbers. ``features`` [B, T, D] may take
    the place of tokens (what a camera shows, in a model that sees).
    """

    config: DecoderConfig
    task = "text"
    inputs = ("tokens",)
    latency = 0
    cross_stream = False

    def setup(self):
        c = self.config
        self.embed = nn.Embed(c.vocabulary, c.dim, dtype=c.dtype)
        self.blocks = BlockStack(c.block, c.depth)
        self.norm = rms_norm(c.eps, c.dtype)
        if c.sink == "learned":
            self.sink = self.param("sink", nn.initializers.normal(0.02), (c.dim,))
        if not c.tied:
            self.head = nn.Dense(c.vocabulary, use_bias=False, dtype=c.dtype)

    @nn.nowrap
    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> Slots:
        """The memory of ``batch`` streams that heard nothing. ``frame_shape`` does not matter."""
        c = self.config
        keeps, shape = c.keeps, (c.kv_heads, c.head_dim)
        fresh = empty_slots(batch, c.depth, keeps.capacity, *shape, keeps.notes(c.axes), c.dtype)
        if not isinstance(keeps, Layered):
            return fresh
        return dataclasses.replace(fresh, layered=keeps.layered(fresh.keys, c.heads, c.axes))

    def __call__(
        self,
        carry: Slots,
        tokens: Array | None,
        valid: Array | None = None,
        *,
        features: Array | None = None,
        told: Mapping[str, Array] | None = None,
    ) -> tuple[Slots, Array]:
        """Reads T tokens.

        Args:
          carry: what the streams remember, of :meth:`init_carry`.
          tokens: [B, T] int32, or None with ``features``.
          valid: [B, T] bool, tokens that are there; the others leave no trace, their logits are 0.
          features: [B, T, D] in the place of embedded tokens.
          told: notes of the tokens, as the policy reads them (``place`` [B, T, axes]: positions).

        Returns:
          (carry, logits [B, T, V] in fp32).

        Raises:
          ValueError: neither tokens nor features, or tokens that are no integers.
        """
        carry, x = self.read(carry, tokens, valid, features=features, told=told)
        return carry, zero_invalid(self.say(x), valid)

    def read(
        self,
        carry: Slots,
        tokens: Array | None,
        valid: Array | None = None,
        *,
        features: Array | None = None,
        told: Mapping[str, Array] | None = None,
        added: Array | None = None,
    ) -> tuple[Slots, Array]:
        """As the call, without the head: (carry, the last block's features [B, T, D], normed).

        ``added`` [S, B, T, D] is added to the tokens after each of the first S blocks (DeepStack).
        """
        c = self.config
        x = self._embedded(tokens, features, valid)
        there = jnp.ones(x.shape[:2], bool) if valid is None else valid
        keeps, turned = c.keeps, jnp.asarray(c.turned)
        arrival = keeps.arrive(carry, there, c.axes, told or {})
        if isinstance(keeps, Layered):
            memories = keeps.memories(carry, arrival, there, c.rotary, turned)
        else:
            rest = c.sink == "zero"
            memories = Reader.of(carry.keys, carry.values, arrival.view, c.rotary, turned, rest)
        some = added if added is not None and added.shape[0] else None
        more = None if some is None else some[:, :, None].astype(x.dtype)
        _, x, found = self.blocks(((),), x[:, None], memories=memories, added=more)
        if isinstance(keeps, Layered):
            after = keeps.settle(carry, arrival, found["keys"], found["values"])
        else:
            keys, values = (found[name].swapaxes(0, 1) for name in ("keys", "values"))
            after = store(carry, keys, values, arrival.notes, arrival.slot)
        after = dataclasses.replace(after, seen=arrival.seen, next=arrival.next)
        return after, self.norm(x[:, 0])

    def begin(self, carry: Slots) -> Slots:
        """The memory of a stream whose first token is the learned sink.

        Raises:
          TypeError: the model has none.
        """
        if self.config.sink != "learned":
            raise TypeError(f"a model with sink={self.config.sink!r} begins with its first token")
        first = jnp.broadcast_to(self.sink, (carry.seen.shape[0], 1, self.config.dim))
        return self.read(carry, None, features=first)[0]

    def ask(
        self, carry: Slots, tokens: Array, valid: Array | None = None, room: int = 64
    ) -> tuple[Slots, Array]:
        """Reads a question with what suits it (``layers.policies.ReKV`` and ``LiveVLM``).

        ``carry`` does not change: what is returned is a memory of its own, of the question and what
        it found, with ``room`` tokens for an answer. It is of the same model with the policy
        ``config.keeps.answer(T + room)``.

        Args:
          carry: what the streams remember.
          tokens: [B, T] int32.
          valid: [B, T] bool, tokens that are there.
          room: tokens of the answer.

        Returns:
          (memory of the answer, logits [B, T, V]).

        Raises:
          TypeError: the policy does not retrieve.
        """
        c = self.config
        keeps = c.keeps
        if not isinstance(keeps, Retrieves):
            raise TypeError(f"a model that keeps {keeps} retrieves nothing; use policy=ReKV(...)")
        x = self._embedded(tokens, None, valid)
        there = jnp.ones(x.shape[:2], bool) if valid is None else valid
        memories = keeps.recall(carry, there, c.rotary, jnp.asarray(c.turned))
        _, x, found = self.blocks(((),), x[:, None], memories=memories)
        own = jax.tree.map(lambda a: a.swapaxes(0, 1), found)
        keys, values = own["keys"], own["values"]
        answer = keeps.begin_answer(carry, keys, values, there, room)
        return answer, zero_invalid(self.say(self.norm(x[:, 0])), valid)

    def say(self, x: Array) -> Array:
        """Features [..., D] of :meth:`read` -> logits [..., V] in fp32."""
        logits = self.embed.attend(x) if self.config.tied else self.head(x)
        return logits.astype(jnp.float32)

    def _embedded(self, tokens: Array | None, features: Array | None, valid: Array | None) -> Array:
        if features is not None:
            return zero_invalid(features, valid).astype(self.config.dtype)
        if tokens is None:
            raise ValueError("a language model reads tokens [B, T], or features [B, T, D]")
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(f"tokens are integers [B, T], got {tokens.dtype} {list(tokens.shape)}")
        return self.embed(zero_invalid(tokens, valid))
