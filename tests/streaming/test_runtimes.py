"""One step in several runtimes: the same answers, the same laws of the carry."""

import asyncio
import copy
import json
import pickle
import re
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest

from streamzoo.layers.install import how_to_install
from streamzoo.layers.mixers import mix
from streamzoo.streaming import Session, Slots, Step
from streamzoo.streaming import precision as precisions
from streamzoo.streaming.cli import main
from streamzoo.streaming.engine import Engine
from streamzoo.streaming.precision import RuntimeRefused, check
from streamzoo.streaming.slim import slim
from streamzoo.zoo import preprocess
from streamzoo.zoo.action import CausalViT, StudentConfig
from streamzoo.zoo.registry import Card
from streamzoo.zoo.weights import init_params

from . import tiny

SIZE = (32, 48)
MIXERS = {
    "tsa": (mix("shift"),),
    "dsta": (mix("lstm"),),
    "swa": (mix("none"), mix("window", window=3, sinks=1)),
    "gdn": (mix("none"), mix("gated_delta")),
}
RUNTIMES = ("onnxruntime", "openvino")
RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (7, *SIZE, 3), np.uint8)
OTHER = RNG.integers(0, 256, (7, *SIZE, 3), np.uint8)
HERE = np.ones((1, 1), bool)


@pytest.fixture(scope="module", autouse=True)
def converted(tmp_path_factory):
    """Where converted models are kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMZOO_HOME", str(tmp_path_factory.mktemp("home")))
        yield


MADE = {}


def step_of(kind, runtime, **more):
    """A step of a tiny student with this memory; made once."""
    if runtime != "jax":
        pytest.importorskip("onnx", reason="conversion writes ONNX")
        pytest.importorskip(runtime, reason="the runtime is an extra")
    key = (kind, runtime, *more.items())
    if key not in MADE:
        config = StudentConfig(
            image_size=SIZE, dim=32, depth=2, heads_per_block=2, num_classes=3, max_boxes=3,
            person_threshold=0.0, temporal=MIXERS[kind],
        )  # fmt: skip
        model = CausalViT(config)
        first = (model.init_carry(1), np.zeros((1, 1, *SIZE, 3), np.float32))
        params = jax.jit(model.init)(jax.random.key(1), *first)
        card = Card(f"{kind}-test16", input_size=SIZE, classes=("a", "b", "c"))
        MADE[key] = Step(model, params, card, runtime=runtime, **more)
    return MADE[key]


def near(a, b, tolerance=2e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype and x.shape == y.shape
        if x.dtype.kind in "biu":
            np.testing.assert_array_equal(x, y)
        else:
            np.testing.assert_allclose(x, y, atol=tolerance, rtol=tolerance)


def stream(step, frames, carry=None, valid=None):
    """Frame by frame: the last carry and the answers."""
    carry, answers = step.init_carry(1) if carry is None else carry, []
    for k, frame in enumerate(frames):
        here = HERE if valid is None else valid[k].reshape(1, 1)
        carry, out = step(carry, frame[None, None], here)
        answers.append(jax.device_get(slim(out)))
    return carry, answers


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", MIXERS)
def test_answers_and_carries_are_those_of_jax(kind, runtime):
    carry, answers = stream(step_of(kind, runtime), FRAMES)
    wanted, known = stream(step_of(kind, "jax"), FRAMES)
    near(answers, known)
    near(carry, wanted)
    assert any(
        np.abs(a.logits - b.logits).max() > 1e-4 for a, b in zip(known, known[1:], strict=False)
    )


@pytest.mark.parametrize(
    ("kind", "runtime"),
    [
        # three programs each: of OpenVINO, whose programs are made of the same files, one memory
        pytest.param(k, r, marks=[pytest.mark.slow] * (r == "openvino" and k != "swa"))
        for k in MIXERS
        for r in RUNTIMES
    ],
)
def test_the_laws_of_the_carry(kind, runtime):
    """Frame by frame is the clip; a frame that never came leaves no trace; streams of one batch do
    not notice each other; a snapshot goes on, in either runtime."""
    step, exact = step_of(kind, runtime), step_of(kind, "jax")
    model, params = exact.model, exact.params
    clip = preprocess(FRAMES[None], exact.card)
    _, whole = jax.jit(model.apply)(params, model.init_carry(1), clip)
    carry, answers = stream(step, FRAMES)
    got = np.concatenate([a.logits for a in answers], axis=1)
    np.testing.assert_allclose(got, whole.logits, atol=3e-5)

    # gaps
    there = np.array([1, 1, 0, 1, 0, 0, 1], bool)
    noisy = np.where(there[:, None, None, None], FRAMES, OTHER)
    left, gapped = stream(step, noisy, valid=there)
    kept, plain = stream(step, FRAMES[there])
    near(left, kept)
    near([a for a, t in zip(gapped, there, strict=False) if t], plain)

    # slots: two streams, one admitted late
    slots = Slots(step, 2)
    slots.admit("a")
    alone: dict[Any, Any] = {}
    both: dict[Any, Any] = {}
    for k in range(3):
        alone = slots.step({"a": FRAMES[k]})
    slots.admit("b")
    for k in range(3):
        both = slots.step({"a": FRAMES[3 + k], "b": OTHER[k]})
    near(both["a"].logits, answers[5].logits[0, 0], 5e-5)
    near(both["b"].logits, stream(step, OTHER[:3])[1][2].logits[0, 0], 5e-5)
    near(alone["a"].logits, answers[2].logits[0, 0], 5e-5)

    # snapshots, from one runtime to the other
    middle, _ = stream(step, FRAMES[:4])
    saved = jax.device_get(middle)
    near(stream(exact, FRAMES[4:], carry=jax.device_put(saved))[1], answers[4:], 5e-5)
    begun = jax.device_get(stream(exact, FRAMES[:4])[0])
    near(stream(step, FRAMES[4:], carry=begun)[1], answers[4:], 5e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_session_peeks_resets_and_is_pickled(runtime):
    session = Session(step_of("swa", runtime))
    assert session.frame_shape == SIZE
    first = [session.push(f).output for f in FRAMES[:3]]
    seen = session.peek(FRAMES[3]).output
    twin = copy.deepcopy(session)
    again = pickle.loads(pickle.dumps(session))
    assert again._step.runtime == runtime
    near(session.push(FRAMES[3]).output, seen, 0)
    near(twin.push(FRAMES[3]).output, seen, 0)
    near(again.push(FRAMES[3]).output, seen, 1e-6)
    session.reset()
    near([session.push(f).output for f in FRAMES[:3]], first, 1e-6)


@pytest.mark.parametrize(
    ("runtime", "precision"),
    [
        ("onnxruntime", "int8"), ("openvino", "int8"), ("openvino", "bf16"),
        ("onnxruntime", "w8a16-g32"), ("onnxruntime", "w4a16-g32"), ("openvino", "w4a16-g32"),
    ],
)  # fmt: skip
def test_narrower_precisions_are_near_and_not_equal(runtime, precision):
    if precision in precisions.FAST and not precisions.FAST[precision] & precisions.processor():
        pytest.skip(f"this processor has no {precision}")
    _, known = stream(step_of("tsa", "jax"), FRAMES[:3])
    _, answers = stream(step_of("tsa", runtime, precision=precision), FRAMES[:3])
    gap = max(np.abs(a.logits - b.logits).max() for a, b in zip(answers, known, strict=False))
    size = max(np.abs(a.logits).max() for a in known)
    assert 1e-5 < gap < (0.3 if "w4" in precision else 0.1) * size


def test_bf16_in_jax_is_the_models_own_compute_type():
    step = step_of("tsa", "jax", precision="bf16")
    assert step.model.config.dtype == "bfloat16"
    _, known = stream(step_of("tsa", "jax"), FRAMES[:2])
    _, answers = stream(step, FRAMES[:2])
    assert 1e-5 < np.abs(answers[1].logits - known[1].logits).max() < 0.3


def test_what_cannot_be_had_says_why(monkeypatch):
    for given, words in {
        ("tpu", None): "runtime 'tpu': choose from jax, onnxruntime, openvino",
        ("jax", "int3"): "precision 'int3': choose from bf16, fp32, int8, w4a16-g128",
        ("jax", "int8"): "int8 is taken by onnxruntime, openvino",
        ("onnxruntime", "bf16"): "bf16 is taken by jax, openvino",
    }.items():
        with pytest.raises(RuntimeRefused, match=words):
            check(*given)
    monkeypatch.setattr(precisions.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        RuntimeRefused, match=re.escape(f"needs onnx: {how_to_install('openvino')}")
    ):
        check("openvino", None)
    monkeypatch.setattr(precisions.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(precisions, "processor", lambda: frozenset({"avx2"}))
    with pytest.raises(RuntimeRefused, match="bf16: this processor has none of .*avx512_bf16"):
        check("openvino", "bf16")
    with pytest.warns(UserWarning, match="int8: this processor has none of .*no faster"):
        check("onnxruntime", "int8")


def test_a_model_without_a_compute_type_says_what_would_do(home):
    class Still:
        config = None

    _, params = init_params(tiny.NAME)
    with pytest.raises(RuntimeRefused, match="no compute type to choose.*openvino"):
        Step(Still(), params, tiny.CARD, precision="bf16")


@pytest.mark.slow
def test_the_bench_compares_every_runtime(home, capsys):
    for module in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(module, reason="the runtimes are extras")
    assert main(["bench", tiny.NAME, "--runtimes", "--repeats", "2"]) == 0
    rows = [r.split("|")[1:-1] for r in capsys.readouterr().out.splitlines() if r[:2] == "| "][1:]
    gaps = {(r[0].strip(), r[1].strip()): float(r[5]) for r in rows}
    assert gaps["jax", "fp32"] == 0 and 0 < gaps["onnxruntime", "fp32"] < 1e-4
    assert 0 < gaps["openvino", "fp32"] < 1e-4 < gaps["jax", "bf16"]


@pytest.mark.parametrize("command", ["watch", "serve"])
def test_commands_refuse_a_precision_before_anything_slow(home, command, capsys, tmp_path):
    file = video(tmp_path / "clip.mp4", FRAMES)
    words = [command, str(file)] if command == "watch" else [command]
    more = ["--no-video", "--out", str(tmp_path)] if command == "watch" else []
    given = ["--model", tiny.NAME, "--runtime", "onnxruntime", "--precision", "bf16"]
    assert main([*words, *more, *given]) == 2
    assert "bf16 in onnxruntime: it takes fp32, int8" in capsys.readouterr().err


def test_watch_and_the_engine_in_another_runtime(home, tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="the runtime is an extra")
    file = video(tmp_path / "clip.mp4", FRAMES)
    lines = {}
    for runtime in ("jax", "onnxruntime"):
        out = tmp_path / runtime
        words = ["watch", str(file), "--model", tiny.NAME, "--no-video", "--out", str(out)]
        assert main([*words, "--runtime", runtime]) == 0
        rows = [json.loads(t) for t in (out / "clip.jsonl").read_text().splitlines()]
        lines[runtime] = [r["classes"] for r in rows]
    assert len(lines["jax"]) == len(FRAMES)
    for a, b in zip(lines["jax"], lines["onnxruntime"], strict=True):
        assert a == pytest.approx(b, abs=2e-4)

    async def served(step):
        async with Engine(step, slots=2) as engine:
            stream = engine.add("cam", fps=5, policy="lossless", check=False)
            found = []
            for frame in FRAMES[:3]:
                await stream.push(frame)
                found.append((await anext(aiter(stream))).result.output.logits)
            return found

    got = asyncio.run(served(step_of("tsa", "onnxruntime")))
    _, known = stream(step_of("tsa", "jax"), FRAMES[:3])
    near(got, [a.logits[0, 0] for a in known])


def video(path, frames):
    """A lossless MP4."""
    import av

    with av.open(str(path), "w") as container:
        out = container.add_stream("libx264rgb", rate=10, options={"crf": "0"})
        out.width, out.height, out.pix_fmt = frames.shape[2], frames.shape[1], "rgb24"
        for frame in frames:
            container.mux(out.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(out.encode())
    return path


@pytest.mark.slow
def test_a_signal_after_models_are_gone_is_caught(tmp_path):
    """OpenVINO's cores swap the stack that signal handlers run on; the last must not be freed."""
    pytest.importorskip("openvino", reason="the runtime is an extra")
    onnx = pytest.importorskip("onnx", reason="conversion writes ONNX")
    make, of = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [make("x", of, [4])], [make("y", of, [4])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 10
    onnx.save(model, tmp_path / "g.onnx")
    program = f"""if True:
        import gc, os, signal
        import numpy as np
        from streamzoo.streaming.export.loop import open_openvino
        signal.signal(signal.SIGINT, lambda *_: print("caught"))
        one, two = (open_openvino({str(tmp_path / "g.onnx")!r}) for _ in range(2))
        assert one({{"x": np.ones(4, np.float32)}})["y"].sum() == 4
        del one
        gc.collect()
        del two
        gc.collect()
        os.kill(os.getpid(), signal.SIGINT)
    """
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "caught\n"), ran.stderr[-500:]
