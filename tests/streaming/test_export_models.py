"""Models as artefacts: what is written, what it computes, and what is refused."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export as jax_export
from safetensors.numpy import load_file

from streamzoo.layers.kernels.dispatch import Backend, Op, portable
from streamzoo.streaming.cli import main
from streamzoo.streaming.export import export, stablehlo
from streamzoo.streaming.export.artefact import arguments
from streamzoo.streaming.export.compare import pictures_of
from streamzoo.streaming.export.loop import Artefact, ArtefactError
from streamzoo.streaming.precision import RuntimeRefused
from streamzoo.zoo import create_model, list_models, load, model_card, preprocess
from streamzoo.zoo.encode.efficientnet.model import EfficientNetLiteConfig, Stage
from streamzoo.zoo.registry import Card
from streamzoo.zoo.segment.propagate.model import PropagateConfig, Propagator
from streamzoo.zoo.weights import shapes_of

from . import tiny
from .test_runtimes import FRAMES, near, step_of, stream, video

# repeats, width, expansion, stride
STAGES = (1, 4, 1, 1), (1, 6, 2, 2), (1, 8, 2, 2), (1, 10, 2, 2), (2, 12, 2, 1), (1, 14, 2, 2)
TRACKER = PropagateConfig(
    image_size=(48, 64), dim=8, values=3, points=3, memories=2, reach=2, nearest=5,
    trunk=EfficientNetLiteConfig(
        stem=4, stages=tuple(Stage(3, *x) for x in STAGES), head=0, num_classes=0
    ),
    memory_dtype="float32",
)  # fmt: skip

WITHOUT = """
import sys
for name in ("jax", "flax", "streamzoo"):
    sys.modules[name] = None  # importing them fails
sys.path.insert(0, sys.argv[1])
import loop
import numpy as np

artefact = loop.Artefact(sys.argv[2])
frames, state, answers = np.load(sys.argv[3]), artefact.start(), []
for frame in frames:
    state, out = artefact.step(state, frame[None, None])
    answers.append(out["out/logits"])
np.savez(sys.argv[4], logits=np.concatenate(answers), **state)
"""


@pytest.fixture(scope="module")
def written(home, tmp_path_factory):
    """(folder, artefact) of the tiny student, exported to ONNX by the command."""
    pytest.importorskip("onnx", reason="the format is an extra")
    pytest.importorskip("onnxruntime", reason="the runtime is an extra")
    folder = tmp_path_factory.mktemp("exported")
    assert main(["export", tiny.NAME, "--to", "onnx", "--out", str(folder)]) == 0
    return folder, next(folder.glob("*.json"))


def test_the_card_says_what_a_program_needs(written):
    folder, path = written
    card = json.loads(path.read_text())
    assert card["state"][0]["input"].startswith("carry/")
    assert [i["name"] for i in card["inputs"]][-2:] == ["frames", "valid"]
    assert card["classes"] == list(tiny.CLASSES) and card["multi_label"] is False
    assert card["difference"]["frames"] == 30
    assert 0 < card["difference"]["largest of answers"] < 1e-4
    assert set(card["sha256"]) == {card["file"], card["initial"]}


def test_without_jax_the_answers_are_those_of_jax(written, tmp_path):
    folder, path = written
    frames = np.random.default_rng(1).integers(0, 256, (5, *tiny.SIZE, 3), np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    words = [str(folder), str(path), str(tmp_path / "frames.npy"), str(tmp_path / "out.npz")]
    done = subprocess.run([sys.executable, "-c", WITHOUT, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model, params = load(tiny.NAME)
    clip = preprocess(frames[None], tiny.CARD)
    carry, out = jax.jit(model.apply)(params, model.init_carry(1), clip)
    found = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(found["logits"][:, 0], out.logits[0], atol=2e-5)
    for a, name in zip(
        jax.tree.leaves(carry), [n for n in found if n.startswith("carry")], strict=False
    ):
        np.testing.assert_allclose(found[name], a, atol=2e-5)


def test_a_state_that_does_not_begin_with_zeros_is_on_the_card(tmp_path):
    """The window's ring counts from -1: an artefact that began with zeros would see a frame that
    never was."""
    pytest.importorskip("onnxruntime", reason="the runtime is an extra")
    step = step_of("swa", "jax")
    wrote = export(step.model, step.params, step.card, tmp_path, to="onnx", batch=2)
    card = json.loads(wrote.card.read_text())
    assert not all(pair["zeros"] for pair in card["state"])
    artefact = Artefact(wrote.card)
    state = artefact.start()
    both = np.stack([FRAMES, FRAMES[::-1]], axis=1)[:, :, None]
    _, known = stream(step, FRAMES[:4])
    for k in range(4):
        state, out = artefact.step(state, both[k])
        np.testing.assert_allclose(out["out/logits"][0], known[k].logits[0], atol=3e-5)
    artefact.save(tmp_path / "state.npz", state)
    near(artefact.load(tmp_path / "state.npz"), state, 0)


def test_openvino_files_give_the_same(tmp_path):
    pytest.importorskip("openvino", reason="the runtime is an extra")
    step = step_of("tsa", "jax")
    wrote = export(step.model, step.params, step.card, tmp_path, to="openvino")
    assert wrote.card.name.endswith(".openvino.json")
    found = wrote.difference
    assert found is not None
    assert 0 < found.answers < 1e-4 < found.change and found.state < 1e-4


def test_the_difference_is_that_of_the_video(home, tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="the runtime is an extra")
    file = video(tmp_path / "clip.mp4", FRAMES)
    np.testing.assert_array_equal(list(pictures_of(file, tiny.SIZE)), FRAMES)
    words = ["export", tiny.NAME, "--to", "onnx", "--out", str(tmp_path / "out")]
    assert main([*words, "--video", str(file)]) == 0
    assert f"over 30 frames (7 of {file})" in capsys.readouterr().out
    told = json.loads(next((tmp_path / "out").glob("*.json")).read_text())["difference"]
    assert told["frames of a video"] == len(FRAMES)
    assert told["largest change of answers from frame to frame"] > 1e-3


@pytest.mark.slow
def test_a_tracker_is_compared_with_an_object(tmp_path):
    """Without a prompt every answer is that of nothing, and equal in any two programs."""
    pytest.importorskip("onnxruntime", reason="the runtime is an extra")
    model = Propagator(TRACKER)
    first = (model.init_carry(1), np.zeros((1, 1, *TRACKER.image_size, 3), np.float32))
    params = jax.jit(model.init)(jax.random.key(0), *first)
    card = Card("tracker-test", task="track", input_size=TRACKER.image_size)
    found = export(model, params, card, tmp_path, to="onnx", pictures=()).difference
    assert found is not None and found.prompted and found.pictures == 0
    assert found.answers < 1e-4 and found.state < 1e-4 and 1e-2 < found.change < np.inf


@pytest.mark.parametrize("kind", ["swa", "gdn"])
def test_stablehlo_is_for_three_platforms_and_any_batch(kind, tmp_path):
    step = step_of(kind, "jax")
    wrote = export(step.model, step.params, step.card, tmp_path, to="stablehlo", batch=None)
    card = json.loads(wrote.card.read_text())
    assert card["platforms"] == ["cpu", "cuda", "tpu"]
    program = jax_export.deserialize(bytearray((tmp_path / card["file"]).read_bytes()))
    weights = load_file(next(tmp_path.glob("*.safetensors")))
    frames = FRAMES[:3, None]  # three streams
    given = [weights[w["name"]] for w in card["weights"]]
    carry = jax.tree.leaves(step.model.init_carry(3))
    out = program.call([*given, *carry, frames, np.ones((3, 1), bool)])
    wanted = step(step.init_carry(3), frames, np.ones((3, 1), bool))
    named = dict(zip([o["name"] for o in card["outputs"]], out, strict=True))
    np.testing.assert_allclose(named["out/logits"], wanted[1].logits, atol=2e-5)


def lowered(name):
    """The StableHLO program of a registered model, for any number of streams."""
    model, card = create_model(name), model_card(name)
    size = tuple(getattr(model.config, "image_size", card.input_size))
    args = arguments(model, card, 1, size)
    return stablehlo.lower(model, shapes_of(name), card, args, dynamic=True)[0]


# Their batch is a number: memory is read in blocks of a size that depends on it.
FIXED = ("sam2", "edgetam", "efficienttam")
SMALL = ("tracker-lite0", "movenet-single")
# The same program as another name's with other numbers in it.
SIZES = ("-s16", "-b16", "-l16", "-h16", "-mi16", "-palm", "-a1", "-a2")


NAMES = [
    name
    for name in list_models(streaming=True)
    if not ("/" in name or name.startswith(FIXED) or name.endswith(SIZES))
    and create_model(name).inputs[0] == "frames"
]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in SMALL else [pytest.mark.slow]) for n in NAMES]
)
def test_every_name_lowers_for_three_platforms_and_any_batch(name):
    program = lowered(name)
    assert program.platforms == ("cpu", "cuda", "tpu")
    text = program.mlir_module()
    assert not any(kernel in text for kernel in ("tpu_custom_call", "triton", "cudnn"))
    assert not all(isinstance(n, int) for a in program.in_avals for n in a.shape)


def test_in_a_portable_program_no_kernel_is_traced():
    op = Op(
        "mix",
        Backend("reference", lambda a: a + 1),
        Backend("pallas", lambda a: a - 1, ("tpu", "cuda"), ("tpu", "cuda")),
        Backend("convolution", lambda a: a * 2),
    )
    text = lambda: jax.jit(lambda a: op(a)).trace(np.float32(1)).lower(
        lowering_platforms=("tpu",)
    ).as_text()  # fmt: skip
    assert "stablehlo.subtract" in text()
    with portable():
        assert "stablehlo.add" in text() and "stablehlo.subtract" not in text()
        with portable("convolution"):
            assert "stablehlo.multiply" in text()
    assert "stablehlo.subtract" in text()


def test_what_cannot_be_exported_says_why(tmp_path):
    step = step_of("tsa", "jax")
    go = lambda **k: export(step.model, step.params, step.card, tmp_path, **k)
    for given, words in (
        (dict(to="tflite"), "--to tflite: choose from stablehlo, onnx, openvino"),
        (dict(to="coreml"), "macOS alone; take --to onnx, .* or --to litert, which has a Core ML"),
        (dict(to="onnx", precision="bf16"), "bf16 to onnx: .*taken by stablehlo, openvino"),
        (dict(to="stablehlo", precision="int8"), "int8 is taken by onnx, openvino"),
        (dict(to="stablehlo", precision="w4a16-g32"), "w4a16-g32 is taken by onnx, openvino"),
    ):
        with pytest.raises(RuntimeRefused, match=words):
            go(**given)


def test_wrong_artefacts_states_and_frames_are_refused(written, tmp_path):
    folder, path = written
    artefact = Artefact(path)
    state = artefact.start()
    frame = np.zeros((1, 1, *tiny.SIZE, 3), np.uint8)
    with pytest.raises(ArtefactError, match="of another artefact: carry/.* should be"):
        artefact.step({k: v[:, :, :1] for k, v in state.items()}, frame)
    with pytest.raises(ArtefactError, match=r"frames is uint8\[1, 1, 8, 8, 3\] and should be"):
        artefact.step(state, frame[:, :, :8, :8])
    np.savez(tmp_path / "other.npz", **{"artefact": np.array("another"), **state})
    with pytest.raises(ArtefactError, match="a state of another artefact"):
        artefact.load(tmp_path / "other.npz")
    card = json.loads(path.read_text())
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    copy = tmp_path / path.name
    for change, words in (
        ({"version": 0}, "version 0, and this program reads 1; export the model again"),
        ({"format": "other"}, "not the card of an artefact"),
        ({"kind": "stablehlo"}, "for JAX and other XLA runtimes"),
    ):
        copy.write_text(json.dumps(card | change))
        with pytest.raises(ArtefactError, match=words):
            Artefact(copy)
    copy.write_text(json.dumps(card))
    with open(tmp_path / card["file"], "ab") as file:
        file.write(b"x")
    with pytest.raises(ArtefactError, match="sha256 differs"):
        Artefact(copy)
    (tmp_path / card["file"]).unlink()
    with pytest.raises(ArtefactError, match="is missing; export the model again"):
        Artefact(copy)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["export", tiny.NAME, "--to", "onnx", "--batch", "many"], "--batch many: give a number"),
        (["export", tiny.NAME, "--batch", "2"], "--batch is for models: say the format too"),
        (["export", "tsa-s16", "--to", "onnx"], "tsa-s16 has no weights"),
        (["run", "nothing.json", "nothing.mp4"], "nothing.json: no card of an artefact"),
    ],
)
def test_wrong_words_are_one_line(home, words, told, capsys):
    assert main(words) == 2
    err = capsys.readouterr().err.strip()
    assert told in err and "\n" not in err
