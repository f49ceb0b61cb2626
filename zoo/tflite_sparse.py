"""Tensors that TensorFlow Lite stores without their zeros.

Source: ``tensorflow/lite/schema/schema.fbs``, ``SparsityParameters``: a tree whose levels are the
tensor's axes, and the axes inside of blocks after them, in the order of ``traversal_order``. A
dense level has every child; a compressed one lists those that there are.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def dense(tflite: Any, sparsity: Any, values: np.ndarray, shape: list[int]) -> np.ndarray:
    """``values`` of a tensor of ``shape`` at the places that ``sparsity`` tells, zeros elsewhere.

    Raises ValueError where their count is not that of the places.
    """
    order = sparsity.TraversalOrderAsNumpy()
    blocks = sparsity.BlockMapAsNumpy() if sparsity.BlockMapLength() else np.zeros(0, int)
    node = np.zeros(1, np.int64)  # the number of each node in its level
    places = np.zeros((1, len(order)), np.int64)
    sizes = np.ones(len(order), np.int64)
    for level, axis in enumerate(order):
        told = sparsity.DimMetadata(level)
        if told.Format() == tflite.DimensionType.DENSE:
            size = told.DenseSize()
            sizes[axis] = size
            children, parent = np.tile(np.arange(size), len(node)), np.repeat(node, size)
            node, rows = parent * size + children, np.repeat(np.arange(len(node)), size)
        else:
            segments, listed = (
                _vector(tflite, kind, table)
                for kind, table in (
                    (told.ArraySegmentsType(), told.ArraySegments()),
                    (told.ArrayIndicesType(), told.ArrayIndices()),
                )
            )
            counts = segments[node + 1] - segments[node]
            rows = np.repeat(np.arange(len(node)), counts)
            start = np.repeat(segments[node], counts)
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            node = start + within
            children = listed[node]
        places = places[rows]
        places[:, axis] = children
    if len(places) != values.size:
        raise ValueError(f"{values.size} values for {len(places)} places")
    at = places[:, : len(shape)]
    for number, axis in enumerate(blocks):  # the axes inside of blocks
        inner = len(shape) + number
        at[:, axis] = at[:, axis] * sizes[inner] + places[:, inner]
    out = np.zeros(shape, values.dtype)
    out[tuple(at.T)] = values.reshape(-1)
    return out


def _vector(tflite: Any, kind: int, table: Any) -> np.ndarray:
    types = {
        tflite.SparseIndexVector.Int32Vector: tflite.Int32Vector,
        tflite.SparseIndexVector.Uint16Vector: tflite.Uint16Vector,
        tflite.SparseIndexVector.Uint8Vector: tflite.Uint8Vector,
    }
    vector = types[kind]()
    vector.Init(table.Bytes, table.Pos)
    return vector.ValuesAsNumpy().astype(np.int64)
