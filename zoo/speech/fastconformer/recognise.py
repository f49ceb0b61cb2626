"""What is said, while it is said: the best token after the other, of a CTC head or a transducer.

A token that was said stays. What the frames of an unfinished chunk would say if the stream ended
now is ``peek``'s answer: it may change, and nothing is remembered of it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from ....layers.exportable import exportable
from ....layers.signal.emitted import Emitted
from ....layers.streaming import Array, Carry, Params
from .model import STRIDE, FastConformer

Head = Literal["ctc", "transducer"]


@exportable
class Said(NamedTuple):
    """Tokens of the frames of one call, and when they were said."""

    tokens: Array  # [B, F, S] int32; those from ``counts`` on are the blank
    counts: Array  # [B, F] int32
    frame: Array  # [B, F] int32, the number of the frame in its stream: 80 ms each

    def of(self, stream: int = 0) -> list[tuple[int, float]]:
        """(token, seconds) of one stream; its frame begins at that time."""
        tokens, count, frame = (jax.device_get(a[stream]) for a in self)
        second = STRIDE / 16_000
        return [
            (int(token), int(number) * second)
            for row, n, number in zip(tokens, count, frame, strict=True)
            for token in row[:n]
        ]


@dataclasses.dataclass(frozen=True)
class Recogniser:
    """Tokens of B streams of audio.

        carry = recogniser.init_carry(1)
        carry, said = recogniser(params, carry, audio)   # final
        maybe = recogniser.peek(params, carry)           # provisional
        carry, rest = recogniser.flush(params, carry)    # the end

    Attributes:
      model: with this head.
      head: ``ctc`` or ``transducer``.

    Raises:
      ValueError: a head that the model has not.
    """

    model: FastConformer
    head: Head = "transducer"

    def __post_init__(self):
        c = self.model.config
        if not {"ctc": c.ctc, "transducer": c.layers > 0}.get(self.head, False):
            own = [name for name, has in (("ctc", c.ctc), ("transducer", c.layers)) if has]
            raise ValueError(f"head {self.head!r}: this model has {' and '.join(own)}")

    def init_carry(self, batch: int) -> dict[str, Carry]:
        """The state of ``batch`` streams that have heard nothing."""
        blank = jnp.full((batch,), self.model.config.blank, jnp.int32)
        states = self.model.said_nothing(batch) if self.head == "transducer" else ()
        heard = self.model.init_carry(batch)
        return {"heard": heard, "said": {"last": blank, "states": states},
                "frame": jnp.zeros((batch,), jnp.int32)}  # fmt: skip

    def __call__(
        self, params: Params, carry: dict[str, Carry], audio: Array, valid: Array | None = None
    ) -> tuple[dict[str, Carry], Said]:
        """audio [B, T] as of the model -> (carry, what is final now)."""
        return _hear(self, params, carry, audio, valid)

    def peek(self, params: Params, carry: dict[str, Carry]) -> Said:
        """What would be final had the stream ended here."""
        return _end(self, params, carry)[1]

    def flush(self, params: Params, carry: dict[str, Carry]) -> tuple[dict[str, Carry], Said]:
        """(carry, the last tokens); nothing is heard after them."""
        return _end(self, params, carry)

    def decode(self, params: Params, carry: dict[str, Carry], out: Emitted):
        """Features -> (carry, Said)."""
        step = transducer_tokens if self.head == "transducer" else ctc_tokens
        said, tokens, count = step(self.model, params, carry["said"], out)
        place = jnp.cumsum(out.valid, axis=1, dtype=jnp.int32)
        frame = carry["frame"][:, None] + jnp.maximum(place - 1, 0)
        total = carry["frame"] + place[:, -1]
        return carry | {"said": said, "frame": total}, Said(tokens, count, frame)


@jax.jit(static_argnums=0)
def _hear(own: Recogniser, params: Params, carry: dict[str, Carry], audio: Array, valid: Any):
    apply: Any = own.model.apply
    heard, out = apply(params, carry["heard"], audio, valid)
    return own.decode(params, carry | {"heard": heard}, out)


@jax.jit(static_argnums=0)
def _end(own: Recogniser, params: Params, carry: dict[str, Carry]):
    apply: Any = own.model.apply
    heard, out = apply(params, carry["heard"], method="flush")
    return own.decode(params, carry | {"heard": heard}, out)


def ctc_tokens(model: FastConformer, params: Params, said: dict[str, Carry], out: Emitted):
    """The best token of each frame, but not the same twice in a row without a blank between.

    Returns:
      (said, tokens [B, F, 1], count [B, F]).
    """
    blank = model.config.blank
    apply: Any = model.apply
    best = jnp.argmax(apply(params, out.x, method="ctc"), -1).astype(jnp.int32)

    def step(last: Array, now: tuple[Array, Array]):
        best, here = now
        new = here & (best != blank) & (best != last)
        return jnp.where(here, best, last), new

    last, new = jax.lax.scan(step, said["last"], (best.T, out.valid.T))
    tokens = jnp.where(new.T, best, blank)[..., None]
    return said | {"last": last}, tokens, new.T.astype(jnp.int32)


def transducer_tokens(model: FastConformer, params: Params, said: dict[str, Carry], out: Emitted):
    """At each frame the best tokens until the blank is better, at most ``config.most`` of them.

    Returns:
      (said, tokens [B, F, most], count [B, F]).
    """
    c = model.config
    apply: Any = model.apply
    row = jnp.arange(out.x.shape[0])

    def predict(said: dict[str, Carry]):
        states, y = apply(params, said["states"], said["last"][:, None], method="predict")
        return states, y[:, 0]

    def frame(loop: Any, now: tuple[Array, Array]):
        heard, here = now

        def going(state: Any) -> Array:
            return jnp.any(state[-1])

        def say(state: Any):
            said, (after, y), tokens, count, active = state
            best = jnp.argmax(apply(params, heard, y, method="join"), -1).astype(jnp.int32)
            new = active & (best != c.blank)
            tokens = tokens.at[row, count].set(jnp.where(new, best, c.blank), mode="drop")
            count = count + new
            keep = lambda a, b: jnp.where(new.reshape(-1, *(1,) * (a.ndim - 1)), a, b)
            said = {
                "last": keep(best, said["last"]),
                "states": jax.tree.map(keep, after, said["states"]),
            }
            return said, predict(said), tokens, count, new & (count < c.most)

        tokens = jnp.full((len(row), c.most), c.blank, jnp.int32)
        state = (*loop, tokens, jnp.zeros(len(row), jnp.int32), here)
        said, after, tokens, count, _ = jax.lax.while_loop(going, say, state)
        return (said, after), (tokens, count)

    heard = apply(params, out.x, method="heard").swapaxes(0, 1)
    (said, _), (tokens, count) = jax.lax.scan(frame, (said, predict(said)), (heard, out.valid.T))
    return said, tokens.swapaxes(0, 1), count.T
