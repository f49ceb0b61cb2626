"""Signal layers in the contract kit: their frames at the inputs that completed them.

The kit's laws are about one output per input. A layer with a stride gives its frames at some
inputs, one that upsamples gives several at one: here each input has as many places as a single one
can fill, zeros where nothing came.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ..contract import LAWS, check_causality
from ..contract_subject import Subject
from ..gaps import compact
from ..streaming import Params
from .emitted import Emitted

Array = jax.Array


def subject(module: Any, variables: Params, make_input: Any, *, atol: float = 1e-5) -> Subject:
    """A signal layer as a subject of the kit; make_input: (seed, batch, steps) -> [B, T, ...]."""

    def places() -> int:
        x = jax.eval_shape(lambda: make_input(0, 1, 1))
        carry = jax.eval_shape(lambda: module.init_carry(1))
        out = jax.eval_shape(lambda c, x: module.apply(variables, c, x), carry, x)[1]
        return out.valid.shape[1]

    room = places()

    def placed(out: Emitted, steps: int) -> Array:
        same = (out.at[:, :, None] == out.at[:, None]) & out.valid[:, None]
        rank = jnp.tril(same, -1).sum(axis=-1)
        row = jnp.arange(out.at.shape[0])[:, None]
        y = jnp.zeros((out.at.shape[0], steps, room, *out.x.shape[2:]), out.x.dtype)
        return y.at[row, jnp.where(out.valid, out.at, steps), rank].set(out.x, mode="drop")

    def step(carry, x, valid):
        carry, out = module.apply(variables, carry, x, valid)
        return carry, placed(out, x.shape[1])

    def flush(carry):
        """Each frame where the stream would have given it, had it gone on."""
        batch = jax.tree.leaves(carry)[0].shape[0]
        silence = jnp.zeros_like(make_input(0, batch, module.latency))
        _, ahead = module.apply(variables, carry, silence)
        after, rest = module.apply(variables, carry, method="flush")
        ahead, rest = compact(ahead.at, ahead.valid), compact(rest.x, rest.valid)
        frames = min(ahead.x.shape[1], rest.x.shape[1])
        here = jnp.arange(frames)[None] < jnp.minimum(ahead.fresh, rest.fresh)[:, None]
        out = Emitted(rest.x[:, :frames], here, ahead.x[:, :frames])
        return after, placed(out, module.latency)

    late = module.latency
    return Subject(module.init_carry, step, make_input, late, flush if late else None, atol)


def verify_signal(module: Any, variables: Params, make_input: Any, *, atol: float = 1e-5) -> None:
    """Every law of the kit; raises AssertionError that names the one that is broken."""
    s = subject(module, variables, make_input, atol=atol)
    steps = next(
        n
        for n in range(max(5, module.latency + 2), 10_000)
        if module.emitted(n) > module.emitted(n - 1)  # the last input completes a frame
    )
    for law in LAWS:
        law(s, **({"steps": steps} if law is check_causality else {}))
