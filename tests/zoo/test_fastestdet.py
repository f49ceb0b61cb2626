"""FastestDet: equal to its own runtime on real frames, boxes too, and the law."""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.streaming.sources import open_source
from streamzoo.train.data.yolox import greedy
from streamzoo.zoo import create_model
from streamzoo.zoo.convert import ConvertError, convert_checkpoint

from ..layers.compare import close
from .drawn import drawn

SHARED = Path(__file__).parents[3] / "shared" / "data"
ONNX = SHARED / "weights" / "fastestdet_coco_352.onnx"
STREET = SHARED / "clips" / "vtest_pedestrians_480x360.mp4"
needs_onnx = pytest.mark.skipif(
    not (ONNX.is_file() and STREET.is_file()), reason=f"{ONNX.name} is not beside the tree"
)


def plain(raw, threshold, iou):
    """[(label, score, box)] of the exported network's answer [22, 22, 85] by the authors'
    postprocess (``handle_preds``), cell by cell."""
    rows, cols, _ = raw.shape
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    boxes, scores, labels = [], [], []
    for y, x in np.ndindex(rows, cols):
        cell = raw[y, x]
        score = cell[0] ** 0.6 * cell[5:].max() ** 0.4
        if score > threshold:
            cx, cy = (np.tanh(cell[1]) + x) / cols, (np.tanh(cell[2]) + y) / rows
            w, h = sigmoid(cell[3]), sigmoid(cell[4])
            boxes.append((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
            scores.append(score)
            labels.append(int(cell[5:].argmax()))
    boxes, scores, labels = np.asarray(boxes), np.asarray(scores), np.asarray(labels)
    kept = []
    for label in set(labels.tolist()):
        mine = np.flatnonzero(labels == label)
        kept += [mine[i] for i in greedy(boxes[mine], scores[mine], iou)]
    kept = sorted(kept, key=lambda i: -scores[i])
    return [(labels[i], scores[i], np.clip(boxes[i], 0, 1)) for i in kept]


@needs_onnx
def test_raw_answers_and_detections_are_those_of_onnxruntime():
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(ONNX), providers=["CPUExecutionProvider"])
    plan, params = convert_checkpoint(ONNX)
    assert (plan.model, dict(plan.overrides)) == ("fastestdet-tiny", {})
    model = create_model(plan.model)
    with open_source(STREET, size=(352, 352)) as source:
        images = np.stack([f.image for _, f in zip(range(81), source, strict=False)][::40])
    x = images.astype(np.float32) / 255
    raws = jax.jit(functools.partial(model.apply, method="raw"))(params, x)
    _, out = jax.jit(model.apply)(params, (), x[None])
    found = jax.tree.map(lambda a: np.asarray(a)[0], out)
    assert found.valid.sum() >= 6 and (found.labels[found.valid] == 0).sum() >= 4  # walkers
    for t, image in enumerate(x):
        bgr = image[None, :, :, ::-1].transpose(0, 3, 1, 2)
        want = session.run(None, {"input.1": bgr})[0][0].transpose(1, 2, 0)
        close("raw", raws[t], want, 1e-5)
        listed = plain(want, 0.65, 0.45)
        n = int(found.valid[t].sum())
        assert [label for label, _, _ in listed] == found.labels[t, :n].tolist()
        np.testing.assert_allclose([s for _, s, _ in listed], found.scores[t, :n], atol=1e-4)
        np.testing.assert_allclose([b for _, _, b in listed], found.boxes[t, :n], atol=1e-4)
        assert not found.valid[t, n:].any() and not found.boxes[t, n:].any()


@functools.cache
def subject():
    shape = dict(
        image_size=(64, 64), stem=4, widths=(8, 12, 16), repeats=(2, 1, 2), classes=3, slots=4,
        threshold=0.0,
    )  # fmt: skip
    params = drawn("fastestdet-tiny", 0.3, **shape)
    frames = lambda seed, batch, steps: jax.random.uniform(
        jax.random.key(seed), (batch, steps, 48, 80, 3)
    )
    model = create_model("fastestdet-tiny", **shape)
    return Subject.of(model, params, frames, atol=1e-4)


FAST = (contract.check_gaps,)  # it has no memory: a frame that never came says most
LAWS = [pytest.param(law, marks=[pytest.mark.slow] * (law not in FAST)) for law in contract.LAWS]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_carry_law(law):
    law(subject())


@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="no weights beside the tree")
def test_another_graph_is_not_taken_for_it():
    pytest.importorskip("onnx")
    with pytest.raises(ConvertError, match="are not those of FastestDet"):
        convert_checkpoint(SHARED / "weights" / "yolox_nano_coco_416.onnx", "fastestdet-onnx")
