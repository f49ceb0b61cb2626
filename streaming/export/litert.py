"""An ONNX model of ours as a LiteRT (TensorFlow Lite) file: its nodes as TensorFlow's operations,
then TensorFlow's converter.

LiteRT has no error function, no bfloat16 and little int64: erf is a quotient of polynomials (3e-7
away at most), bfloat16 is float32 rounded to its digits, int64 is int32.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from ...layers.install import how_to_install
from ..precision import RuntimeRefused
from .litert_memory import apart
from .litert_ops import Values  # from there: its import fills the table of what runs a node
from .onnx_graph import UnsupportedOperation


def tensorflow() -> Any:
    """The module. Raises RuntimeRefused: it is missing."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow
    except ImportError:
        raise RuntimeRefused(
            f"export to litert needs TensorFlow's converter: {how_to_install('litert')}"
        ) from None
    return tensorflow


def converted(model: Any, precision: str) -> bytes:
    """The file of an ONNX model; inputs named by their places ("i0"), outputs in order.
    int8 is the converter's dynamic range: weights on 8 bits, activations as they come.

    Raises:
      RuntimeRefused: TensorFlow is missing.
      UnsupportedOperation: an operation, or a number of axes, that LiteRT lacks.
    """
    tf = tensorflow()
    graph = model.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    specs = [
        tf.TensorSpec([d.dim_value for d in i.type.tensor_type.shape.dim], tf.as_dtype(_dtype(i)),
                      name=f"i{k}")
        for k, i in enumerate(graph.input)
    ]  # fmt: skip

    def run(*given: Any) -> list[Any]:
        values = Values(tf, constants)
        for info, x in zip(graph.input, given, strict=True):
            values.set(info.name, tf.cast(x, tf.int32) if x.dtype == tf.int64 else x)
        values.run(graph.node)
        kinds = [tf.as_dtype(_dtype(info)) for info in graph.output]
        return [
            tf.cast(tf.identity(values[info.name]), kind)
            for info, kind in zip(graph.output, kinds, strict=True)
        ]

    traced = tf.function(run, input_signature=specs, autograph=False)
    program = traced.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([program], traced)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if precision == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    try:
        file = converter.convert()
    except Exception as error:  # the converter has a class of its own for each of its stages
        told = " ".join(str(error).split())
        raise UnsupportedOperation(f"TensorFlow's converter: {told[:300]}") from None
    return apart(file)


def _dtype(info: Any) -> np.dtype:
    return helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
