"""The types of streaming: arrays, carries, parameters, and what a streaming module tells.

Axis letters, everywhere: B streams (or pictures), T frames, H x W pixels, h x w cells, N tokens,
D channels, K boxes, C classes, O objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np

Array: TypeAlias = jax.Array
AnyArray: TypeAlias = jax.Array | np.ndarray  # on the device or on the host
DType: TypeAlias = jax.typing.DTypeLike  # jnp.bfloat16, "bfloat16", np.dtype("bfloat16")
Carry: TypeAlias = Any  # a tree of arrays [B, ...]; each module has its own
Params: TypeAlias = Mapping[str, Any]  # linen variables {"params": tree}, or such a tree by name
Tapped: TypeAlias = dict[str, Any]  # intermediates by name: an array, or a tuple of arrays
Fields: TypeAlias = dict[str, Any]  # of a config, by name
Json: TypeAlias = dict[str, Any]  # an object as json reads and writes it
Input = Literal["frames", "features", "audio", "tokens", "prompts", "latents", "elapsed"]


@runtime_checkable
class StreamingModule(Protocol):
    """A module that answers frame by frame: ``apply(params, carry, x, valid) -> (carry, out)``.

    Attributes:
      latency: frames until an output is final; the outputs for the last ones come from ``flush``.
      cross_stream: it looks across the streams of its batch, so all of them must be in it.
      inputs: what it takes after the carry, the first by position, e.g. ("frames", "prompts").
    """

    @property
    def latency(self) -> int: ...

    @property
    def cross_stream(self) -> bool: ...

    @property
    def inputs(self) -> tuple[Input, ...]: ...

    def init_carry(self, batch: int, frame_shape: tuple[int, int] | None = None) -> Carry:
        """The state of ``batch`` streams that have seen nothing; frame_shape (height, width)."""
        ...

    def apply(self, variables: Params, *args: Any, **kwargs: Any) -> Any:
        """Runs the module with its parameters."""
        ...


@runtime_checkable
class _Stateful(Protocol):
    def init_carry(self, *args: Any, **kwargs: Any) -> Carry: ...


@runtime_checkable
class _Late(Protocol):
    @property
    def latency(self) -> int: ...


@runtime_checkable
class _Flushing(Protocol):
    def flush(self, carry: Carry) -> Any: ...


def keeps_state(module: object) -> bool:
    """True for a module with a carry, whatever else it says of itself."""
    return isinstance(module, _Stateful)


def latency_of(module: object) -> int:
    """Frames until an output is final: 0 for a module that does not say."""
    return module.latency if isinstance(module, _Late) else 0


def flushes(module: object) -> bool:
    """True for a module that has more to say when its stream ends (``flush``)."""
    return isinstance(module, _Flushing)


def takes_elapsed(module: object) -> bool:
    """True if the module moves on by several frames at once: ``elapsed`` int32 [B, T], frame
    intervals since the stream's frame before, 1 where none was skipped."""
    return isinstance(module, StreamingModule) and "elapsed" in module.inputs


def looks_across(module: object) -> bool:
    """True if the module reads the other streams of its batch; a module of another library that
    does not say is taken for one that does not."""
    return isinstance(module, StreamingModule) and module.cross_stream
