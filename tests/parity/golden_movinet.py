"""The published graph of a MoViNet-Stream in its own runtime, with and without 8-bit arithmetic."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).parents[3] / "shared/data/weights/movinet_a0_stream_cattle7_dynamic.tflite"


def with_float_weights(data: bytes) -> bytes:
    """The same graph with its 8-bit weights as the floats that they stand for.

    Its runtime then computes in float32. As it is, it rounds what meets 8-bit weights to 8 bits.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.ModelT.InitFromPackedBuf(data, 0)
    for tensor in model.subgraphs[0].tensors:
        if tensor.type != schema.TensorType.INT8:
            continue
        told = tensor.quantization
        assert not np.any(told.zeroPoint)
        stored = np.asarray(model.buffers[tensor.buffer].data, np.uint8).view(np.int8)
        shape = np.ones(len(tensor.shape), int)
        shape[told.quantizedDimension] = len(told.scale)
        scale = np.asarray(told.scale, np.float32).reshape(shape)
        array = stored.reshape(tensor.shape).astype(np.float32) * scale
        model.buffers[tensor.buffer].data = np.frombuffer(array.tobytes(), np.uint8)
        tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def answers(
    data: bytes, frames: np.ndarray
) -> Iterator[tuple[np.ndarray, dict[tuple[str, str], np.ndarray]]]:
    """Of float frames [T, h, w, 3] one by one: (logits [C], {(block, kind): state after it})."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=data)
    runner.allocate_tensors()
    # a state's input and output have one name in the signature, and none in the graph
    call = runner.get_signature_runner("call")
    states = {
        name: np.zeros(told["shape"], told["dtype"])
        for name, told in call.get_input_details().items()
        if name != "image"
    }
    for frame in frames:
        out = call(image=frame[None, None].astype(np.float32), **states)
        (logits,) = (value for name, value in out.items() if name not in states)
        states = {name: out[name] for name in states}
        yield logits[0], {_place(name): value.copy() for name, value in states.items()}


def _place(name: str) -> tuple[str, str]:
    found = re.fullmatch(r"state_(.+?)_(pool_buffer|pool_frame_count|stream_buffer)", name)
    assert found, name
    return found[1], found[2]


def state_differences(config: Any, carry: Any, states: dict) -> dict[tuple[str, str], float]:
    """How far our carry of one stream is from the graph's states: of each the largest difference.

    The graph keeps sums and a count in each block; sums are compared as means.
    """
    found, tails, means = {}, iter(carry.tails), iter(carry.means)
    kernels = {
        f"block{s}_layer{i}": frames
        for s, stage in enumerate(config.stages)
        for i, (frames, _) in enumerate(stage.kernels)
    }
    count = int(carry.seen[0])
    for block, frames in {**kernels, "head": 1}.items():
        mine = {"pool_buffer": np.asarray(next(means)), "pool_frame_count": np.asarray([count])}
        if frames > 1:
            mine["stream_buffer"] = np.asarray(next(tails))
        for kind, ours in mine.items():
            theirs = states[block, kind] / (count if kind == "pool_buffer" else 1)
            found[block, kind] = float(np.abs(ours - theirs.reshape(ours.shape)).max())
    return found
