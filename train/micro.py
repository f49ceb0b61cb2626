"""Micro-batches: what a loss has to know of its step's other lanes to be the whole step's.

A mean over what is there (boxes, frames, visible objects) is a sum over a count, and the micro-
batches of a step differ in both: the mean of their means is another number. So the step first
asks all of them what the loss gathers (:func:`of_step`), which costs only what those figures
depend on, and then takes each one's gradient with the others' figures as constants. The mean over
the micro-batches of value and gradient is then the whole step's. Devices and processes need none
of it: a step's arrays are those of all of them, and so is every sum.

P micro-batches of B lanes each.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ..layers.streaming import Carry, Params
from .types import Batch, Loss

Array = jax.Array


@dataclasses.dataclass
class _Part:
    """The micro-batch that is being traced."""

    index: Array
    parts: int
    key: Array  # of the whole step
    asked: list[Array] = dataclasses.field(default_factory=list)
    known: list[Array] | None = None  # [P, ...] each, in the order of the calls


_now: contextvars.ContextVar[_Part | None] = contextvars.ContextVar("micro-batch", default=None)


def of_step(x: Array) -> Array:
    """What every micro-batch of the step has here: [...] -> [P, ...], P = 1 outside of one.

    Differentiable: the mean over the micro-batches of the gradients of a function of all P is the
    function's gradient. Every micro-batch has to ask the same things in the same order. What is
    asked must not depend on an earlier answer, nor be made inside a ``lax`` loop or branch (jax
    raises UnexpectedTracerError): ask before it, and give ``losses.masked_mean`` the count.
    """
    part = _now.get()
    if part is None:
        return x[None]
    part.asked.append(jax.lax.stop_gradient(x))
    if part.known is None:
        return jnp.broadcast_to(x, (part.parts, *x.shape))
    rest = part.known[len(part.asked) - 1]
    if _real(x):  # the gradient P times: the step takes the mean over the micro-batches
        x = x + (part.parts - 1) * (x - jax.lax.stop_gradient(x))
    return rest.at[part.index].set(x)


def per_part(count: Array, least: float = 1.0) -> Array:
    """What to divide a sum over this micro-batch by: the whole step's ``count``, at least
    ``least``, over P. The mean of such quotients over the micro-batches is the step's mean."""
    found = of_step(jax.lax.stop_gradient(count))
    return jnp.maximum(found.sum(axis=0), least) / len(found)


def step_key(key: Array) -> Array:
    """The key of the whole step: for what all lanes of it share, such as a size that is drawn."""
    part = _now.get()
    return key if part is None else part.key


def lane_keys(key: Array, lanes: int) -> Array:
    """A key per lane [B], the same however the step is cut."""
    part = _now.get()
    number = jnp.arange(lanes)
    if part is not None:  # as ``gradient`` deals them out: lane i goes to micro-batch i % P
        number = number * part.parts + part.index
    return jax.vmap(lambda i: jax.random.fold_in(step_key(key), i))(number)


def gradient(
    loss: Callable[..., Any], parts: int, place: Callable[[Array], Array]
) -> Callable[..., tuple[Loss, Params]]:
    """As ``jax.value_and_grad(loss, has_aux=True)`` of a task's loss, in ``parts`` micro-batches.

    place: puts arrays [P, B, ...] where they lie on the mesh.
    """
    slope = jax.value_and_grad(loss, has_aux=True)
    if parts == 1:
        return slope

    def split(a: Array) -> Array:
        # lane i goes to micro-batch i % parts: every device splits its own lanes
        return place(a.reshape(-1, parts, *a.shape[1:]).swapaxes(0, 1))

    def join(a: Array) -> Array:
        return a.swapaxes(0, 1).reshape(-1, *a.shape[2:])

    def run(
        params: Params, constants: Params, memory: Carry, key: Array, batch: Batch
    ) -> tuple[Loss, Params]:
        def ask(_: None, given: Any) -> Any:
            index, memory, batch = given
            with _inside(_Part(index, parts, key)) as part:
                loss(params, constants, memory, jax.random.fold_in(key, index), batch)
            return None, part.asked

        def take(total: Any, given: Any) -> Any:
            index, memory, batch = given
            with _inside(_Part(index, parts, key, known=known)):
                own = jax.random.fold_in(key, index)
                (value, (memory, figures)), grad = slope(params, constants, memory, own, batch)
            total = jax.tree.map(lambda a, b: a + b / parts, total, grad)
            return total, (memory, value, figures)

        zero = jax.tree.map(jnp.zeros_like, params)
        given = jnp.arange(parts), *jax.tree.map(split, (memory, batch))
        known = jax.lax.scan(ask, None, given)[1]
        # Devices must meet in one order: first for the counts, then for the gradients.
        known, params = jax.lax.optimization_barrier((known, params))
        grad, (memory, value, figures) = jax.lax.scan(take, zero, given)
        memory, figures = jax.tree.map(join, memory), jax.tree.map(lambda v: v.mean(0), figures)
        return (value.mean(), (memory, figures)), grad

    return run


@contextlib.contextmanager
def _inside(part: _Part) -> Iterator[_Part]:
    token = _now.set(part)
    try:
        yield part
    finally:
        _now.reset(token)


def _real(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)
