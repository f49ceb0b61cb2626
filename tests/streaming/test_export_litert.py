"""LiteRT files: node by node against ONNX Runtime, and whole steps against JAX."""

import json
import sys

import numpy as np
import pytest

from streamzoo.layers.install import how_to_install
from streamzoo.streaming.export import artefact, export
from streamzoo.streaming.export.compare import Difference
from streamzoo.streaming.export.loop import Artefact, ArtefactError
from streamzoo.streaming.precision import RuntimeRefused

from .test_runtimes import FRAMES, step_of, stream

RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def whole(high, *shape):
    return RNG.integers(0, high, shape)


def node(kind, inputs, count=1, fixed=(), **fields):
    """An ONNX model of one node; ``fixed``: places of inputs that are constants."""
    onnx = pytest.importorskip("onnx", reason="the lowering writes ONNX")
    from streamzoo.streaming.export.onnx_graph import info

    names = [f"a{i}" for i in range(len(inputs))]
    outs = [f"b{i}" for i in range(count)]
    given = [info(n, a.dtype, a.shape) for i, (n, a) in enumerate(zip(names, inputs, strict=True))
             if i not in fixed]  # fmt: skip
    held = [onnx.numpy_helper.from_array(np.asarray(inputs[i]), names[i]) for i in fixed]
    made = onnx.helper.make_node(kind, names, outs, **fields)
    empty = [onnx.ValueInfoProto(name=n) for n in outs]
    graph = onnx.helper.make_graph([made], "one", given, empty, held)
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    return onnx.shape_inference.infer_shapes(model)


NODES = {
    "Erf": (dict(inputs=[np.linspace(-6, 6, 400, dtype=np.float32)]), 4e-7),
    "Div": (dict(inputs=[np.int32([7, -7, 7, -7, 6]), np.int32([2, 2, -2, -2, 3])]), 0),
    "Sign": (dict(inputs=[np.float32([-2.5, 0, 3, -0.0])]), 0),
    "Mod": (dict(inputs=[np.float32([5.5, -5.5, 5]), np.float32([2, 2, -3])], fmod=1), 1e-6),
    "Round": (dict(inputs=[np.float32([0.5, 1.5, -0.5, 2.4, -2.6])]), 0),
    "Cast": (dict(inputs=[np.float32([0.0, -3.7, 2.0, 1e-9])], to=9), 0),  # bool
    "Squeeze": (dict(inputs=[floats(1, 3, 1), np.int64([0, 2])], fixed=(1,)), 0),
    "Transpose": (dict(inputs=[floats(2, 3, 4)], perm=[2, 0, 1]), 0),
    "Expand": (dict(inputs=[floats(3, 1), np.int64([2, 3, 4])], fixed=(1,)), 0),
    "Split": (dict(inputs=[floats(4, 5), np.int64([2, 3])], fixed=(1,), count=2, axis=1), 0),
    "Slice": (dict(inputs=[floats(4, 9), *(np.int64([n]) for n in (1, 8, 1, 2))],
                   fixed=(1, 2, 3, 4)), 0),
    "Pad": (dict(inputs=[floats(2, 3), np.int64([1, 0, 0, 2]), np.float32(7)],
                 fixed=(1, 2)), 0),
    "Gather": (dict(inputs=[floats(3, 5, 2), whole(5, 2, 3)], axis=1), 0),
    "GatherElements": (dict(inputs=[floats(3, 5, 2), whole(5, 3, 4, 2)], axis=1), 0),
    "ScatterElements": (dict(inputs=[floats(6), np.int64([4, 0, 3]), floats(3)], axis=0,
                             reduction="none"), 0),
    "TopK": (dict(inputs=[floats(3, 6, 2), np.int64([4])], fixed=(1,), count=2, axis=1,
                  largest=0), 0),
    "ArgMin": (dict(inputs=[np.float32([[3, 1, 1], [0, 2, 0]])], axis=1, keepdims=0), 0),
    "ReduceProd": (dict(inputs=[floats(3, 4), np.int64([1])], fixed=(1,), keepdims=0), 1e-6),
    "CumSum": (dict(inputs=[floats(3, 4), np.int64(1)], fixed=(1,), reverse=1), 1e-6),
    "MaxPool": (dict(inputs=[floats(1, 3, 6, 7)], kernel_shape=[3, 2], strides=[2, 1],
                     pads=[1, 0, 1, 1]), 0),
    "AveragePool": (dict(inputs=[floats(1, 3, 8)], kernel_shape=[3], strides=[2], pads=[1, 0],
                         count_include_pad=1), 1e-6),
}  # fmt: skip
CONV = {
    "dense": ((2, 3, 9, 8), (4, 3, 3, 2), 1, [2, 1], [1, 1]),
    "dilated": ((1, 3, 9, 8), (4, 3, 3, 3), 1, [1, 1], [2, 2]),
    "of one axis": ((2, 3, 9), (4, 3, 3), 1, [2], [1]),
    "depthwise": ((1, 4, 9, 8), (8, 1, 3, 3), 4, [1, 1], [1, 1]),
    "grouped": ((1, 4, 9, 8), (6, 2, 3, 3), 2, [1, 1], [1, 1]),
}


def same_as_onnxruntime(model, arrays, tolerance):
    """LiteRT's answers are those of ONNX Runtime, whatever width their whole numbers have."""
    pytest.importorskip("tensorflow", reason="the converter is an extra")
    pytest.importorskip("ai_edge_litert", reason="the runtime is an extra")
    onnxruntime = pytest.importorskip("onnxruntime", reason="to compare with")
    from streamzoo.streaming.export import litert, loop

    shape = lambda i: [d.dim_value for d in i.type.tensor_type.shape.dim]
    arrays = arrays or [floats(*shape(i)) for i in model.graph.input]
    run = loop.open_litert(litert.converted(model, "fp32"))
    found = run({f"i{k}": a for k, a in enumerate(arrays)})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    named = dict(zip([i.name for i in session.get_inputs()], arrays, strict=True))
    for k, want in enumerate(session.run(None, named)):
        got = found[f"o{k}"]
        assert got.shape == want.shape and got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", NODES)
def test_a_node_gives_what_onnxruntime_gives(kind):
    given, tolerance = NODES[kind]
    given = dict(given)
    arrays = [a for i, a in enumerate(given["inputs"]) if i not in given.get("fixed", ())]
    same_as_onnxruntime(node(kind, **given), arrays, tolerance)


def test_bfloat16_is_rounded_as_it_rounds():
    onnx = pytest.importorskip("onnx", reason="the lowering writes ONNX")
    x = np.float32([1.0, 1.00390625, 1.01171875, -3.3e-5, 7.7e8, 0.0, 1 / 3, 65535.0])
    model = node("Cast", [x], to=16)
    model.graph.node.append(onnx.helper.make_node("Cast", ["b0"], ["c0"], to=1))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("c0", 1, x.shape))
    same_as_onnxruntime(model, [x], 0)


@pytest.mark.parametrize("kind", CONV)
def test_a_convolution_gives_what_onnxruntime_gives(kind):
    x, w, group, strides, dilations = CONV[kind]
    x, w = floats(*x), floats(*w)
    pads = [1] * (2 * len(strides))
    model = node("Conv", [x, w], group=group, strides=strides, dilations=dilations, pads=pads,
                 kernel_shape=list(w.shape[2:]), fixed=(1,))  # fmt: skip
    same_as_onnxruntime(model, [x], 2e-5)


@pytest.mark.parametrize("kind", ["tsa", "dsta", "swa", "gdn"])
def test_a_step_over_thirty_frames_is_that_of_jax(kind, tmp_path):
    pytest.importorskip("tensorflow", reason="the converter is an extra")
    pytest.importorskip("ai_edge_litert", reason="the runtime is an extra")
    step = step_of(kind, "jax")
    wrote = export(step.model, step.params, step.card, tmp_path, to="litert", batch=2)
    found = wrote.difference
    assert found is not None
    assert found.answers < 1e-4 < found.change and found.state < 1e-4
    # each of two streams is itself, and a stream that starts anew is a new one
    artefact = Artefact(wrote.card)
    state, both = artefact.start(), np.stack([FRAMES, FRAMES[::-1]], axis=1)[:, :, None]
    _, known = stream(step, FRAMES[:3])
    for k in range(5):
        if k == 2:
            new = artefact.start()
            state = {n: np.stack([new[n][0], a[1]]) for n, a in state.items()}
        state, out = artefact.step(state, both[k if k < 2 else k - 2])
        np.testing.assert_allclose(
            out["out/logits"][0], known[k if k < 2 else k - 2].logits[0], atol=5e-5
        )


def test_int8_is_smaller_and_near(tmp_path):
    pytest.importorskip("tensorflow", reason="the converter is an extra")
    pytest.importorskip("ai_edge_litert", reason="the runtime is an extra")
    step = step_of("tsa", "jax")
    go = lambda precision: export(
        step.model, step.params, step.card, tmp_path, to="litert", precision=precision
    )
    full, small = go("fp32"), go("int8")
    assert small.bytes < 0.6 * full.bytes
    assert full.difference.answers < small.difference.answers < 0.1
    card = json.loads(small.card.read_text())
    assert card["precision"] == "int8" and card["file"].endswith(".tflite")


def test_what_litert_cannot_have_says_why(tmp_path, monkeypatch):
    step = step_of("tsa", "jax")
    pytest.importorskip("onnx", reason="the lowering writes ONNX")
    go = lambda **k: export(step.model, step.params, step.card, tmp_path, to="litert", **k)
    with pytest.raises(RuntimeRefused, match="its sizes are fixed; give a number of streams"):
        go(batch=None)
    with pytest.raises(RuntimeRefused, match="w4a16-g32 to litert: it takes fp32, int8"):
        go(precision="w4a16-g32")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(RuntimeRefused) as error:
        go()
    assert how_to_install("litert") in str(error.value)


def test_an_artefact_that_answers_otherwise_is_not_left_behind(tmp_path, monkeypatch):
    step = step_of("tsa", "jax")
    file = tmp_path / "step.tflite"

    def lowered(*_):
        file.write_bytes(b"TFL3")
        return [file], [], [], {}

    monkeypatch.setattr(artefact, "_onnx", lowered)
    say = lambda answers, change: lambda *_: Difference(answers, 0.0, change, 30, False)
    go = lambda **k: export(step.model, step.params, step.card, tmp_path, **k)
    monkeypatch.setattr(artefact, "compare", say(0.5, 3.0))
    with pytest.raises(RuntimeRefused, match=r"difference from JAX 0.5 over 30.*--to onnx"):
        go(to="litert")
    assert [f.name for f in tmp_path.iterdir()] == []
    assert go(to="litert", precision="int8").card.is_file()  # rounded: it may
    monkeypatch.setattr(artefact, "compare", say(0.02, 3.0))
    assert go(to="litert").card.is_file()


def test_a_runtime_reads_the_files_that_are_its_own(tmp_path):
    pytest.importorskip("onnxruntime", reason="the runtime is an extra")
    step = step_of("tsa", "jax")
    wrote = export(step.model, step.params, step.card, tmp_path, to="onnx", pictures=None)
    with pytest.raises(ArtefactError, match="which litert does not read; export the model --to li"):
        Artefact(wrote.card, "litert")
    card = json.loads(wrote.card.read_text())
    wrote.card.write_text(json.dumps(card | {"kind": "other"}))
    with pytest.raises(ArtefactError, match="kind 'other', which this program does not read"):
        Artefact(wrote.card)


def wide():
    """Two arrays whose product has seven axes that broadcast in turns, so that none may be one."""
    return [floats(*(2 if i % 2 == side else 1 for i in range(7))) for side in (0, 1)]


def test_more_axes_than_a_kernel_takes_are_refused_or_made_fewer():
    pytest.importorskip("tensorflow", reason="the converter is an extra")
    from streamzoo.streaming.export import litert
    from streamzoo.streaming.export.onnx_graph import UnsupportedOperation

    same_as_onnxruntime(node("Mul", [floats(2, 1, 3, 2, 1, 2, 2), floats(2, 2, 1)]), None, 1e-6)
    same_as_onnxruntime(node("Neg", [floats(2, 2, 1, 2, 1, 1, 2)]), None, 0)
    same_as_onnxruntime(
        node("Transpose", [floats(2, 2, 1, 2, 1, 1, 2)], perm=[5, 6, 0, 1, 2, 3, 4]), None, 0
    )
    with pytest.raises(UnsupportedOperation, match="of 7 axes: LiteRT takes 6"):
        litert.converted(node("Mul", wide()), "fp32")
