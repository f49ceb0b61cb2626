"""ONNX of any number of streams, and OpenVINO with the state inside."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

pytest.importorskip("onnx", reason="the format is an extra")
pytest.importorskip("onnxruntime", reason="the runtime is an extra")

from streamzoo.streaming.cli import main
from streamzoo.streaming.export import export, onnx_batch, onnx_program
from streamzoo.streaming.export.loop import OPEN, Artefact, ArtefactError
from streamzoo.streaming.export.onnx_graph import UnsupportedOperation
from streamzoo.streaming.export.unroll import flat
from streamzoo.streaming.precision import RuntimeRefused

from . import tiny
from .test_export_operations import counted
from .test_runtimes import FRAMES, OTHER, near, step_of, stream


def joined(f, *shapes, dtype=np.float32):
    """The model of ``f`` for any number of rows of these shapes."""

    def make(rows):
        program, out = flat(f, *(jax.ShapeDtypeStruct((rows, *s), dtype) for s in shapes))
        names = ["frames", *(f"in/{k}" for k in range(1, len(shapes)))]
        given = [f"out/{k}" for k in range(len(jax.tree.leaves(out)))]
        return onnx_program.model(program, names, given, "case", least=0)

    return onnx_batch.for_any_batch(make).SerializeToString()


def turns(x):
    """Rows that end a loop each at a turn of its own."""
    return jax.vmap(counted)(0.02 * x, jnp.argmax(x[:, 0], -1).astype(jnp.int32))


CASES = {
    "places": lambda x: (jnp.take_along_axis(x, jnp.argsort(x, 1)[:, ::-1], 1), lax.top_k(x, 3)),
    "written": lambda x: x.at[jnp.arange(len(x)), jnp.argmax(x[:, :, 0], 1)].set(7.0),
    "sizes": lambda x: (x.reshape(-1, 6) @ jnp.ones((6, 2)), x.reshape(len(x), -1),
                        jnp.broadcast_to(x[:, None], (len(x), 2, 5, 6)).reshape(-1, 3),
                        x.transpose(1, 0, 2).reshape(5, -1)),
    "numbers": lambda x: (jnp.arange(len(x)) * 3, x + jnp.arange(len(x) * 2.0).reshape(-1, 2, 1)[
        :, :1], jnp.full(len(x), len(x)), x.mean(0) * len(x), jnp.ones((len(x), 2), bool)),
    "loop": turns,
}  # fmt: skip


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("case", CASES)
def test_one_model_for_any_number_of_rows(case, runtime):
    pytest.importorskip(runtime, reason="the runtime is an extra")
    run = OPEN[runtime](joined(CASES[case], (5, 6)))
    for rows in (1, 4):
        x = np.random.default_rng(rows).normal(size=(rows, 5, 6)).astype(np.float32)
        wanted, found = jax.tree.leaves(jax.jit(CASES[case])(x)), run({"frames": x})
        for k, want in enumerate(wanted):
            want, got = np.asarray(want), found[f"out/{k}"]
            assert want.shape == got.shape and want.dtype == got.dtype
            np.testing.assert_allclose(got, want, rtol=3e-5, atol=3e-6, err_msg=f"result {k}")


@pytest.mark.parametrize(
    ("f", "words"),
    [
        (lambda x: lax.map(lambda r: r.sum(), x), "loop over the streams"),
        (lambda x: x * (1 / len(x)), "a number that the streams decide"),
        (lambda x: x * jnp.arange(float(len(x)))[:, None, None] ** 2, "that the streams decide"),
        (lambda x: x.reshape(1, -1, 6) @ jnp.eye(6)[None] + len(x) ** 2, "the streams decide"),
    ],
)
def test_a_program_of_its_number_of_rows_is_refused(f, words):
    with pytest.raises(UnsupportedOperation, match=words):
        joined(f, (5, 6))


@pytest.mark.slow
def test_a_model_for_any_number_of_streams(tmp_path):
    """Over 30 frames of two streams it is JAX; three streams do not notice each other, and one that
    begins anew is a new one."""
    step = step_of("swa", "jax")
    wrote = export(step.model, step.params, step.card, tmp_path, to="onnx", batch=None)
    assert wrote.difference is not None and 0 < wrote.difference.answers < 1e-4
    assert wrote.difference.state < 1e-4 < wrote.difference.change
    card = json.loads(wrote.card.read_text())
    assert {x["shape"][0] for x in [*card["inputs"], *card["outputs"]]} == {"streams"}
    artefact = Artefact(wrote.card)
    both = np.stack([FRAMES, OTHER, FRAMES], axis=1)[:, :, None]
    state, fresh = artefact.start(3), artefact.start(1)
    known, other = (stream(step, frames)[1] for frames in (FRAMES, OTHER))
    for k in range(5):
        if k == 2:
            state = {n: np.concatenate([a[:2], fresh[n]]) for n, a in state.items()}
        state, out = artefact.step(state, both[k])
        near(out["out/logits"][0], known[k].logits[0], 3e-5)
        near(out["out/logits"][1], other[k].logits[0], 3e-5)
        alone = stream(step, FRAMES[2 * (k > 1) : k + 1])[1][-1]
        near(out["out/logits"][2, 0], alone.logits[0, 0], 3e-5)
    with pytest.raises(ArtefactError, match=r"should be.*\[2, "):
        artefact.step(state, both[0][:2])


@pytest.mark.slow
def test_a_state_inside_is_the_explicit_one(tmp_path):
    """Over 30 frames it is JAX; a snapshot goes on in the other form; a start begins anew."""
    pytest.importorskip("openvino", reason="the runtime is an extra")
    step = step_of("swa", "jax")  # whose counters do not begin with zeros
    go = lambda folder, **k: export(step.model, step.params, step.card, tmp_path / folder,
                                    to="openvino", **k)  # fmt: skip
    wrote, plain = go("in", stateful=True), go("out", pictures=None)
    assert wrote.difference is not None and 0 < wrote.difference.answers < 1e-4
    assert wrote.difference.state < 1e-4 < wrote.difference.change
    inside, explicit = Artefact(wrote.card), Artefact(plain.card)
    state, frames = explicit.start(), FRAMES[:, None, None]
    _, known = stream(step, FRAMES[:5])
    nothing = inside.start()
    for k in range(3):
        nothing, out = inside.step(nothing, frames[k])
        state, _ = explicit.step(state, frames[k])
        near(out["out/logits"], known[k].logits)
    assert nothing == {}
    near(inside.snapshot(nothing), state)
    inside.save(tmp_path / "state.npz", nothing)
    near(explicit.step(explicit.load(tmp_path / "state.npz"), frames[3])[1]["out/logits"],
         known[3].logits)  # fmt: skip
    inside.start()
    near(inside.step({}, frames[0])[1]["out/logits"], known[0].logits)
    inside.load(tmp_path / "state.npz")
    near(inside.step({}, frames[3])[1]["out/logits"], known[3].logits)
    with pytest.raises(ArtefactError, match="no input carry"):
        inside.step(state, frames[0])
    with pytest.raises(ArtefactError, match="2 streams: this artefact has 1; export one with"):
        inside.start(2)


def test_what_cannot_be_stateful_or_dynamic_says_why(tmp_path, home, capsys):
    step = step_of("tsa", "jax")
    given: dict[str, Any]
    for given, words in (
        (dict(to="onnx", stateful=True), "--stateful to onnx: OpenVINO alone"),
        (dict(to="openvino", stateful=True, batch=None), "a state inside has one size"),
    ):
        with pytest.raises(RuntimeRefused, match=words):
            export(step.model, step.params, step.card, tmp_path, **given)
    assert main(["export", tiny.NAME, "--stateful"]) == 2
    assert "--stateful is for models" in capsys.readouterr().err
