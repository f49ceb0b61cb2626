"""The nodes of an ONNX graph, run one by one as TensorFlow's operations: tensors by name, and the
table of what runs which kind of node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import helper

from .onnx_graph import UnsupportedOperation

RANK = 6  # the highest that LiteRT's kernels on a CPU take


def check_rank(rank: int, what: str) -> None:
    if rank > RANK:
        raise UnsupportedOperation(f"{what} of {rank} axes: LiteRT takes {RANK}")


class Values:
    """Tensors by name, while the nodes run."""

    def __init__(self, tf: Any, constants: dict[str, np.ndarray], outer: Values | None = None):
        self.tf, self._constants, self._outer = tf, constants, outer
        self._tensors: dict[str, Any] = {}
        # name -> (tensor, order): it is that tensor transposed, so that two turns may cancel out
        self._turned: dict[str, tuple[Any, tuple[int, ...]]] = {}

    def set(self, name: str, x: Any) -> None:
        self._tensors[name] = x

    def constant(self, name: str) -> np.ndarray | None:
        return self._constants.get(name)

    def __getitem__(self, name: str) -> Any:
        if name in self._tensors:
            return self._tensors[name]
        if name in self._constants:
            a = self._constants[name]
            return self.tf.constant(a.astype(np.int32) if a.dtype == np.int64 else a)
        if self._outer is None:
            raise KeyError(name)
        return self._outer[name]

    def turned(self, name: str, order: Sequence[int]) -> Any:
        """The tensor transposed."""
        base, before = self._turned.get(name, (None, ()))
        if base is None:
            return self._transposed(self[name], order)
        both = [before[i] for i in order]
        return base if both == sorted(both) else self._transposed(base, both)

    def _transposed(self, x: Any, order: Sequence[int]) -> Any:
        """On as few axes as there have to be: those that stay together are one."""
        runs: list[list[int]] = []
        for i in order:
            if runs and (i == runs[-1][-1] + 1):
                runs[-1].append(i)
            else:
                runs.append([i])
        check_rank(len(runs), "a Transpose")
        first = sorted(runs)
        size = lambda run: int(np.prod([x.shape[i] for i in run], dtype=int))
        y = self.tf.reshape(x, [size(r) for r in first]) if len(runs) < len(order) else x
        y = self.tf.transpose(y, [first.index(r) for r in runs])
        return self.tf.reshape(y, [x.shape[i] for i in order]) if len(runs) < len(order) else y

    def run(self, nodes: Any) -> None:
        """Every node in turn."""
        for node in nodes:
            if node.op_type not in RUN:
                raise UnsupportedOperation(f"{node.op_type} has no LiteRT form here")
            fields = {f.name: helper.get_attribute_value(f) for f in node.attribute}
            found = RUN[node.op_type](self, node, fields)
            found = found if isinstance(found, list) else [found]
            for name, x in zip(node.output, found, strict=True):
                if node.op_type not in MERGED:
                    check_rank(x.shape.rank, node.op_type)
                self.set(name, x)

    def body(self, graph: Any, given: Sequence[Any]) -> list[Any]:
        """A body's results."""
        inner = Values(self.tf, self._constants, self)
        for info, x in zip(graph.input, given, strict=True):
            inner.set(info.name, x)
        inner.run(graph.node)
        return [inner[info.name] for info in graph.output]


Run = Callable[[Values, Any, dict[str, Any]], Any]
RUN: dict[str, Run] = {}
MERGED: set[str] = {"Reshape", "Squeeze", "Identity", "Cast", "Expand", "Transpose"}  # of any rank


def runs(*names: str) -> Callable[[Run], Run]:
    """Registers what runs nodes of these kinds."""

    def register(run: Run) -> Run:
        RUN.update(dict.fromkeys(names, run))
        return run

    return register
