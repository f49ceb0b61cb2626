"""Streams that threads may share, and that can be pickled (Ray, multiprocessing) and copied."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import ClassVar, TypeVar

import jax

from ..layers.streaming import Json

Method = TypeVar("Method", bound=Callable)


def in_turn(method: Method) -> Method:
    """A method of a :class:`Portable` that one thread at a time is in."""

    @functools.wraps(method)
    def wrapped(self, *args, **kwargs):
        with self._lock:
            return method(self, *args, **kwargs)

    return wrapped  # type: ignore[return-value]


class Portable:
    """A stream with a carry: methods marked :func:`in_turn` are for any thread; a pickle or a
    deep copy is a second stream that goes on from the same frame.

    Compiled programs do not travel: :meth:`_prepare` makes them anew on the other side (a deep copy
    shares those of its original). A subclass calls ``super().__init__()`` first.
    """

    CARRIES: ClassVar[tuple[str, ...]] = ("_carry",)  # attributes that hold device arrays
    REMADE: ClassVar[tuple[str, ...]] = ()  # attributes that _prepare makes

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._began = time.monotonic()

    def _prepare(self) -> None:
        """Makes what ``REMADE`` names and compiles what the next frame needs."""

    def __getstate__(self) -> Json:
        with self._lock:
            state = {k: v for k, v in self.__dict__.items() if k not in ("_lock", *self.REMADE)}
            # clocks of two processes have nothing in common: the age of the stream has
            state["_began"] = time.monotonic() - self._began
            return state | {k: jax.device_get(state[k]) for k in self.CARRIES}

    def __setstate__(self, state: Json) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()
        self._began = time.monotonic() - state["_began"]
        for name in self.CARRIES:
            setattr(self, name, jax.device_put(state[name]))
        self._prepare()
