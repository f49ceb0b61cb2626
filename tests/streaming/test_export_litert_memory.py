"""What LiteRT writes over while it is still read (MoveNet's points were wrong by it)."""

import numpy as np
import pytest

ROWS = 17
RNG = np.random.default_rng(0)


def program():
    """b = 2 x + y; s = reshape(b) + z; t = b + number[s]: the runtime adds z in the memory of b."""
    onnx = pytest.importorskip("onnx", reason="the lowering writes ONNX")
    node = onnx.helper.make_node
    wide = lambda name, kind, *shape: onnx.helper.make_tensor_value_info(name, kind, shape)
    whole, real = onnx.TensorProto.INT32, onnx.TensorProto.FLOAT
    held = {
        "two": np.int32(2), "tall": np.int64([1, ROWS, 1]), "flat": np.int64([1, ROWS]),
        "number": np.arange(500)[::-1].copy() % 50, "table": np.arange(500, dtype=np.float32),
    }  # fmt: skip
    held["number"] = held["number"].astype(np.int32)
    graph = onnx.helper.make_graph(
        [
            node("Mul", ["x", "two"], ["a"]), node("Add", ["a", "y"], ["b"]),
            node("Reshape", ["b", "tall"], ["r"]), node("Add", ["r", "z"], ["s"]),
            node("Gather", ["number", "s"], ["n"]), node("Reshape", ["n", "flat"], ["m"]),
            node("Add", ["b", "m"], ["t"]),
            node("Gather", ["table", "s"], ["p"]), node("Gather", ["table", "t"], ["q"]),
        ],
        "over",
        [wide("x", whole, 1, ROWS), wide("y", whole, 1, ROWS), wide("z", whole, 1, ROWS, 1)],
        [wide("p", real, 1, ROWS, 1), wide("q", real, 1, ROWS)],
        [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in held.items()],
    )  # fmt: skip
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    return onnx.shape_inference.infer_shapes(model)


def test_a_tensor_is_not_written_over_while_it_is_read():
    pytest.importorskip("tensorflow", reason="the converter is an extra")
    pytest.importorskip("ai_edge_litert", reason="the runtime is an extra")
    from streamzoo.streaming.export import litert, litert_memory, loop

    x, y, z = (RNG.integers(0, 90, (1, ROWS), np.int32) for _ in range(3))
    both = 2 * x + y
    file = litert.converted(program(), "fp32")
    found = loop.open_litert(file)({"i0": x, "i1": y, "i2": z[..., None]})
    np.testing.assert_array_equal(found["o0"], (both + z)[..., None])
    np.testing.assert_array_equal(found["o1"], both + (499 - both - z) % 50)
    assert litert_memory.apart(file) == file  # once is enough
