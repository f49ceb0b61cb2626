"""One operation, several implementations, chosen per platform when a program is lowered.

    Op("linear_scan", Backend("reference", reference), Backend("pallas", pallas, ("tpu", "cuda")))

``implementation=None`` takes, for each platform the program is lowered for, the first backend that
is automatic there and can take these arguments, and the reference elsewhere: under ``jit``,
``vmap``, ``shard_map`` and ``jax.export`` alike, also for a platform that this machine lacks. A
backend that is named is used, or the call fails and says why.

XLA cannot split a kernel over devices by itself: where the arrays are placed on a mesh, each device
runs it on its own streams and heads (``split``).
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from .cost import Cost, cost_of
from .split import Split, split_of

PLATFORMS = ("cpu", "tpu", "cuda")
# Before 0.11 a pallas_call on a GPU means another compiler (KERNELS of the CHANGELOG of Pallas).
GPU_PALLAS = tuple(int(n) for n in jax.__version__.split(".")[:2]) >= (0, 11)
# fp32 products of a kernel on a GPU: three on the tensor cores, nearly as exact. Plain ones use no
# tensor core, and those of a whole chunk of a recurrence take minutes to compile.
GPU_DOT: Any = jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3


_portable: ContextVar[tuple[str, ...] | None] = ContextVar("portable", default=None)


@contextmanager
def portable(*names: str) -> Iterator[None]:
    """Programs traced within hold no kernel: each operation takes its first backend of ``names``,
    or its reference.

    A kernel's custom call has a format of its own version and platform: a program that is stored,
    or read by another runtime, must do without. What is traced belongs into a function of its own,
    as ``jit`` keeps its traces.
    """
    token = _portable.set(names)
    try:
        yield
    finally:
        _portable.reset(token)


def is_portable() -> bool:
    """Whether what is traced here must run anywhere: :func:`portable`."""
    return _portable.get() is not None


@dataclass(frozen=True)
class Choice:
    """What one call of an operation takes on one platform.

    Attributes:
      op, platform, implementation: which operation, where, and the name of the backend.
      refused: backend that would have come before it, or that is named and does not run there ->
        why it cannot take the call.
      named: whether ``implementation=`` said so, and nothing was chosen.
      split: how a kernel is shared out over a mesh of devices; None for what XLA shares out.
      where, times: path of the module that calls, and how often, where several layers are scanned.
      program: what the call becomes, traced anew (:meth:`cost` reads it).
    """

    op: str
    platform: str
    implementation: str
    refused: Mapping[str, str]
    named: bool = False
    split: Split | None = None
    where: str = ""
    times: int = 1
    program: Callable[[], Any] | None = field(default=None, compare=False, repr=False)

    def cost(self) -> Cost | None:
        """Kernels, blocks, bytes and FLOPs of one call on one device; None if it does not run."""
        if self.program is None or (self.named and self.refused):
            return None
        return cost_of(self.program(), self.platform)


_recorded: ContextVar[list[Choice] | None] = ContextVar("recorded", default=None)


@contextmanager
def recording() -> Iterator[list[Choice]]:
    """The choices of all operations that are called within, in order, for each platform."""
    choices: list[Choice] = []
    token = _recorded.set(choices)
    try:
        yield choices
    finally:
        _recorded.reset(token)


# Which module calls, and how often what is traced within will run: for those who ask.
_place: ContextVar[str] = ContextVar("place", default="")
_times: ContextVar[int] = ContextVar("times", default=1)


@contextmanager
def place(where: str) -> Iterator[None]:
    """What is called within is called from the module of this path."""
    token = _place.set(where)
    try:
        yield
    finally:
        _place.reset(token)


@contextmanager
def repeated(times: int) -> Iterator[None]:
    """What is traced within runs so often, as the body of a scan does."""
    token = _times.set(_times.get() * times)
    try:
        yield
    finally:
        _times.reset(token)


class KernelError(ValueError):
    """An implementation that cannot take these arguments, or cannot run on this platform."""


@dataclass(frozen=True)
class Backend:
    """One implementation of an operation.

    Attributes:
      name: how a caller names it.
      run: the operation; same arguments and results as the reference.
      platforms: where it runs; others fail when they are lowered.
      automatic: where ``implementation=None`` takes it.
      unable: (the call's arguments) -> None, or the argument, its value and why it cannot be
        taken, e.g. ``"k has head width 48, which is no multiple of 128"``. Shapes and dtypes only.
      parts: of a kernel, which XLA cannot split: (the call's arguments) -> the number of its
        streams ("b") and heads ("h"). ``run`` is then given ``split``, to run the kernel by.
    """

    name: str
    run: Callable[..., Any]
    platforms: tuple[str, ...] = PLATFORMS
    automatic: tuple[str, ...] = ()
    unable: Callable[..., str | None] = lambda *args, **options: None
    parts: Callable[..., Mapping[str, int]] | None = None


class Op:
    """An operation and its backends; the first is the reference, the definition of correct."""

    def __init__(self, name: str, *backends: Backend):
        self.name = name
        self.backends = {backend.name: backend for backend in backends}
        self.reference = backends[0]

    def __call__(self, *arrays: Any, implementation: str | None = None, **options: Any) -> Any:
        """Runs the operation on ``arrays`` (pytrees, or None where one is optional).

        Raises:
          KernelError: ``implementation`` is unknown, or cannot take these arguments; or, when the
            program is lowered, does not run on that platform.
        """
        choices = [self._choose(p, arrays, options, implementation) for p in PLATFORMS]
        if (told := _recorded.get()) is not None:
            told.extend(self._told(choice, arrays, options) for choice in choices)
        if implementation is not None:
            return self._named(choices[0], arrays, options)
        chosen = {c.platform: self.backends[c.implementation] for c in choices}
        if len(set(chosen.values())) == 1:
            return chosen["cpu"].run(*arrays, **options)
        runs = {c.platform: self._bound(c, options) for c in choices}
        reference = runs.pop("cpu")
        runs = {p: run for p, run in runs.items() if chosen[p] is not self.reference}
        return lax.platform_dependent(*arrays, default=reference, **runs)

    def _told(self, choice: Choice, arrays: tuple, options: dict) -> Choice:
        known = choice.implementation in self.backends
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arrays)
        trace = lambda: jax.make_jaxpr(self._bound(choice, options))(*shapes)
        where, times = _place.get(), _times.get()
        return replace(choice, where=where, times=times, program=trace if known else None)

    def _bound(self, choice: Choice, options: dict) -> Callable[..., Any]:
        split = {} if choice.split is None else {"split": choice.split}
        return functools.partial(self.backends[choice.implementation].run, **options, **split)

    def _choose(self, platform: str, arrays: tuple, options: dict, named: str | None) -> Choice:
        """What runs these arguments on ``platform``, and why not what stands before it."""
        if named is not None:
            backend = self.backends.get(named)
            away = backend is not None and platform not in backend.platforms
            refused = {named: "and it does not run there"} if away else {}
            split = None
            if backend is not None and backend.parts is not None:
                found = self._split(backend, arrays, options)
                split = found if isinstance(found, Split) else None
            return Choice(self.name, platform, named, refused, True, split)
        if (names := _portable.get()) is not None:
            known = [n for n in names if n in self.backends]
            return Choice(self.name, platform, known[0] if known else self.reference.name, {})
        refused = {}
        for name, backend in self.backends.items():
            if platform not in backend.automatic:
                continue
            if platform == "cuda" and not GPU_PALLAS:
                reason = f"on a GPU jax >= 0.11 is wanted, and this is {jax.__version__}"
            else:
                reason = backend.unable(*arrays, **options)
            split = None
            if reason is None and backend.parts is not None:
                found = self._split(backend, arrays, options)
                split, reason = (None, found) if isinstance(found, str) else (found, None)
            if reason is None:
                return Choice(self.name, platform, name, refused, split=split)
            refused[name] = reason
        return Choice(self.name, platform, self.reference.name, refused)

    def _split(self, backend: Backend, arrays: tuple, options: dict) -> Split | str:
        assert backend.parts is not None
        return split_of(arrays, backend.parts(*arrays, **options))

    def able(self, *arrays: Any, **options: Any) -> list[str]:
        """Names of the backends that can take these arguments, on a platform of theirs."""
        return [
            name
            for name, backend in self.backends.items()
            if backend.unable(*arrays, **options) is None
        ]

    def _named(self, choice: Choice, arrays: tuple, options: dict[str, Any]) -> Any:
        name = choice.implementation
        backend = self.backends.get(name)
        if backend is None:
            near = difflib.get_close_matches(name, self.backends, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise KernelError(
                f"{self.name}: no implementation {name!r}: {hint}({', '.join(self.backends)})"
            )
        if reason := backend.unable(*arrays, **options):
            raise KernelError(
                f"{self.name}: implementation {name!r} cannot run: {reason}; "
                f"these can: {', '.join(self.able(*arrays, **options))}"
            )
        if backend.parts is not None and choice.split is None:
            reason = self._split(backend, arrays, options)
            raise KernelError(f"{self.name}: implementation {name!r} cannot run: {reason}")
        bound = self._bound(choice, options)
        if set(backend.platforms) == set(PLATFORMS):
            return bound(*arrays)
        others = [n for n, b in self.backends.items() if n != name and "cpu" in b.platforms]
        told = (self.name, name, backend.platforms, tuple(others))

        @jax.jit  # so that eager calls are lowered too
        def run(*arrays: Any) -> Any:
            leaves, tree = jax.tree.flatten(arrays)
            leaves[0] = _only_p.bind(leaves[0], told=told)
            return bound(*jax.tree.unflatten(tree, leaves))

        return run(*arrays)


# The identity, which cannot be lowered for a platform that its backend does not run on.
_only_p = Primitive("platform_only")
_only_p.def_abstract_eval(lambda x, **_: x)
ad.deflinear2(_only_p, lambda g, x, **_: [g])
batching.defvectorized(_only_p)


def _lower(context: Any, x: Any, *, told: tuple) -> Any:
    op, name, platforms, others = told
    targets = context.platforms or context.module_context.platforms
    targets = ["cuda" if t in ("gpu", "cuda", "rocm") else t for t in targets]
    if wrong := [t for t in targets if t not in platforms]:
        raise KernelError(
            f"{op}: implementation {name!r} does not run on {', '.join(wrong)}, only on "
            f"{', '.join(platforms)}; here these do: {', '.join(others)}"
        )
    return [x]


mlir.register_lowering(_only_p, _lower)
