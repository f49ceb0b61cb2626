"""An exported model over a video, with numpy alone: no JAX and no streamzoo. Copy it, it is yours.

    python loop.py model.json street.mp4

It needs numpy, PyAV (``av``) and ``onnxruntime``, ``openvino`` or ``ai-edge-litert``. The state of
the stream is a dictionary of arrays: outputs of one frame are inputs of the next, as the card says
under "state".
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

VERSION = 1  # of the card
Arrays = dict[str, np.ndarray]


class ArtefactError(ValueError):
    """An artefact, a carry or a frame that does not fit."""


def open_onnxruntime(model: str | bytes, precision: str = "fp32") -> Callable[[Arrays], Arrays]:
    """An ONNX file or its bytes in ONNX Runtime: arrays by name -> arrays by name."""
    try:
        import onnxruntime
    except ImportError:
        raise ArtefactError("ONNX Runtime is missing: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    wanted = {i.name for i in session.get_inputs()}

    def run(arrays: Arrays) -> Arrays:
        given = {k: v for k, v in arrays.items() if k in wanted}
        answers: Any = session.run(names, given)
        return dict(zip(names, answers, strict=True))

    return run


@functools.cache
def _openvino_core() -> Any:
    """The only one of this process, which never ends.

    Each sets a stack for signal handlers, and when it ends gives back the one before it, which may
    be that of another core that has ended already: the next signal, a Ctrl-C, is a crash then.
    """
    try:
        import openvino
    except ImportError:
        raise ArtefactError("OpenVINO is missing: pip install openvino") from None
    return openvino.Core()


def open_openvino(model: str | bytes, precision: str = "fp32") -> Callable[[Arrays], Arrays]:
    """An ONNX or OpenVINO file, or an ONNX file's bytes, in OpenVINO, as above.

    Products are in float32 unless ``precision`` is "bf16": OpenVINO's own choice is the narrower
    type wherever the processor has one, without saying so.
    """
    core = _openvino_core()
    hint = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
    if "a16" in precision:  # else it makes int8 of the activations, too
        hint["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "0"
    return _OpenVINO(core.compile_model(core.read_model(model), "CPU", hint))


class _OpenVINO:
    """A compiled model: called as the one of ONNX Runtime; states inside are read and written."""

    def __init__(self, compiled: Any):
        # a tensor may have several names
        self._inputs = [(i, i.get_names()) for i in compiled.inputs]
        self._outputs = [sorted(o.get_names()) for o in compiled.outputs]
        self._request, self._turn = compiled.create_infer_request(), threading.Lock()

    def __call__(self, arrays: Arrays) -> Arrays:
        given = {i: arrays[name] for i, names in self._inputs for name in names if name in arrays}
        with self._turn:
            found = self._request.infer(given, share_inputs=True, share_outputs=False)
            return {n: np.array(found[i]) for i, names in enumerate(self._outputs) for n in names}

    def read(self) -> Arrays:
        """The states inside, by name."""
        with self._turn:
            return {s.name: np.array(s.state.data) for s in self._request.query_state()}

    def write(self, states: Arrays) -> None:
        """Replaces the states of these names."""
        import openvino

        with self._turn:
            for state in self._request.query_state():
                state.state = openvino.Tensor(np.ascontiguousarray(states[state.name]))


def open_litert(model: str | bytes, precision: str = "fp32") -> Callable[[Arrays], Arrays]:
    """A LiteRT (TensorFlow Lite) file or its bytes, as above. Inputs and outputs have the names of
    their places, "i0", ... and "o0", ...: see :func:`_by_place`."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise ArtefactError("LiteRT is missing: pip install ai-edge-litert") from None
    given: Any = {"model_content": model} if isinstance(model, bytes) else {"model_path": model}
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    interpreter, turn = Interpreter(num_threads=threads, **given), threading.Lock()
    interpreter.allocate_tensors()
    # "serving_default_i3:0", or "i3"
    place = lambda d: d["name"].split(":")[0].rpartition("_")[2]
    inputs = {place(d): d["index"] for d in interpreter.get_input_details()}
    outputs = [d["index"] for d in interpreter.get_output_details()]

    def run(arrays: Arrays) -> Arrays:
        with turn:
            for name, index in inputs.items():
                interpreter.set_tensor(index, arrays[name])
            interpreter.invoke()
            return {f"o{k}": interpreter.get_tensor(index) for k, index in enumerate(outputs)}

    return run


def _by_place(run: Callable[[Arrays], Arrays], card: Mapping) -> Callable[[Arrays], Arrays]:
    """By the names of the card what takes and gives arrays by their places."""
    inputs = {i["name"]: f"i{k}" for k, i in enumerate(card["inputs"])}
    outputs = [o["name"] for o in card["outputs"]]

    def named(arrays: Arrays) -> Arrays:
        found = run({place: arrays[name] for name, place in inputs.items()})
        return {name: found[f"o{k}"] for k, name in enumerate(outputs)}

    return named


OPEN = {"onnxruntime": open_onnxruntime, "openvino": open_openvino, "litert": open_litert}
# kind of file -> runtimes that read it, the first by default
READS = {"onnx": ("onnxruntime", "openvino"), "openvino": ("openvino",), "litert": ("litert",)}


class Artefact:
    """An exported model: ``state = artefact.start()``, then ``state, out = artefact.step(...)``."""

    def __init__(self, card: str | Path, runtime: str | None = None):
        """card: the JSON file that lies beside the model. Raises ArtefactError."""
        path = Path(card)
        if path.suffix != ".json":
            path = path.with_suffix(".json")
        try:
            self.card = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ArtefactError(f"{path}: no card of an artefact ({error.strerror})") from None
        except ValueError:
            raise ArtefactError(f"{path}: not JSON, so no card of an artefact") from None
        if not isinstance(self.card, dict) or self.card.get("format") != "streamzoo artefact":
            raise ArtefactError(f"{path}: not the card of an artefact of streamzoo export")
        if self.card.get("version") != VERSION:
            raise ArtefactError(
                f"{path}: an artefact of version {self.card.get('version')}, and this program reads"
                f" {VERSION}; export the model again"
            )
        kind = self.card["kind"]
        if kind == "stablehlo":
            raise ArtefactError(
                f"{path}: a StableHLO program is for JAX and other XLA runtimes; export the model"
                " --to onnx, openvino or litert"
            )
        model = path.with_name(self.card["file"])
        for name, digest in self.card["sha256"].items():
            file = path.with_name(name)
            if not file.is_file():
                raise ArtefactError(f"{path}: its file {name} is missing; export the model again")
            if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
                raise ArtefactError(f"{file}: not the file of its card (its sha256 differs)")
        if kind not in READS:
            raise ArtefactError(f"{path}: of kind {kind!r}, which this program does not read")
        runtime = runtime or READS[kind][0]
        if runtime not in READS[kind]:
            raise ArtefactError(
                f"{path}: an artefact for {', '.join(READS[kind])}, which {runtime} does not read;"
                f" export the model --to {'litert' if runtime == 'litert' else 'onnx'}"
            )
        self._run: Any = OPEN[runtime](str(model), self.card["precision"])
        if runtime == "litert":
            self._run = _by_place(self._run, self.card)
        self._initial = np.load(path.with_name(self.card["initial"]))
        self.inputs = {i["name"]: i for i in self.card["inputs"]}
        self.batch, _, *self.size, _ = self.inputs["frames"]["shape"]  # "streams": any number

    def start(self, streams: int | None = None) -> Arrays:
        """The state of ``streams`` that have seen nothing (default: as many as the model has, or
        one). It is not zeros everywhere. A stateful artefact begins anew and returns nothing."""
        if not isinstance(self.batch, int):
            first = lambda a: np.repeat(a, streams or 1, axis=0)
        elif streams in (None, self.batch):
            first = lambda a: a
        else:
            raise ArtefactError(
                f"{streams} streams: this artefact has {self.batch}; export one with --batch"
                f" {streams}, or dynamic"
            )
        return self.go_on(
            {p["input"]: first(self._initial[p["input"]]) for p in self.card["state"]}
        )

    def go_on(self, state: Arrays) -> Arrays:
        """What to give :meth:`step` to go on from ``state``: itself, or nothing where a stateful
        artefact now holds it. Raises ArtefactError."""
        if not self.card.get("stateful"):
            return state
        self._check({k: v for k, v in self.inputs.items() if k.startswith("carry")}, state)
        self._run.write({self._variables()[name]: a for name, a in state.items()})
        return {}

    def snapshot(self, state: Arrays) -> Arrays:
        """The state itself, a stateful artefact's too."""
        if not self.card.get("stateful"):
            return state
        held = self._run.read()
        return {name: held[inside] for name, inside in self._variables().items()}

    def _variables(self) -> dict[str, str]:
        """Names of the states inside, by those of the inputs that they were."""
        names = [pair["input"] for pair in self.card["state"]]
        return dict(zip(names, self.card["variables"], strict=True))

    def step(
        self, state: Arrays, frames: np.ndarray, valid: np.ndarray | None = None, **more: np.ndarray
    ) -> tuple[Arrays, Arrays]:
        """frames uint8 [B, 1, h, w, 3] RGB, valid bool [B, 1] -> (new state, answers by name)."""
        given = {"frames": np.asarray(frames), **more, **state}
        inputs, inside = dict(self.inputs), bool(self.card.get("stateful"))
        if inside:
            inputs = {k: v for k, v in inputs.items() if not k.startswith("carry")}
        shape = lambda name: self._shape(inputs[name], given["frames"])
        given["valid"] = np.ones(shape("valid"), bool) if valid is None else valid
        for name in inputs:
            if name not in given:
                given[name] = np.broadcast_to(self._initial[name][:1], shape(name))
        self._check(inputs, given)
        if unknown := sorted(set(given) - set(inputs)):
            raise ArtefactError(f"no input {', '.join(unknown)}; there are {', '.join(inputs)}")
        out = self._run(given)
        names = [o["name"] for o in self.card["outputs"] if o["name"].startswith("out")]
        answers = {name: out[name] for name in names}
        return {} if inside else {p["input"]: out[p["output"]] for p in self.card["state"]}, answers

    @staticmethod
    def _shape(want: Mapping, frames: np.ndarray) -> list[int]:
        """The sizes of an input, those of the streams as ``frames`` has them."""
        return [n if isinstance(n, int) else len(frames) for n in want["shape"]]

    def _check(self, inputs: Mapping[str, Mapping], given: Arrays) -> None:
        frames = given.get("frames", next(iter(given.values())))
        for name, want in inputs.items():
            got, shape = given[name], self._shape(want, frames)
            if str(got.dtype) != want["dtype"] or list(got.shape) != shape:
                where = "this state is of another artefact: " if name.startswith("carry") else ""
                raise ArtefactError(
                    f"{where}{name} is {got.dtype}{list(got.shape)} and should be"
                    f" {want['dtype']}{shape}"
                )

    def save(self, path: str | Path, state: Arrays) -> None:
        """A stream's state, to go on later, in an explicit artefact or a stateful one."""
        named = {"artefact": np.array(self.card["carry"]), **self.snapshot(state)}
        np.savez(path, allow_pickle=False, **named)

    def load(self, path: str | Path) -> Arrays:
        """A state of :meth:`save`. Raises ArtefactError for that of another model or shape."""
        with np.load(path) as file:
            if str(file["artefact"]) != self.card["carry"]:
                raise ArtefactError(
                    f"{path}: a state of another artefact; take one that {self.card['model']} saved"
                )
            return self.go_on({pair["input"]: file[pair["input"]] for pair in self.card["state"]})

    def picture(self, image: np.ndarray) -> np.ndarray:
        """A frame uint8 RGB [H, W, 3] of any size as the model wants it, by the card's rule."""
        height, width = self.size
        rule = self.card["picture"]
        if image.shape[:2] == (height, width):
            return image
        if rule["filter"] or rule["fit"] != "stretch":
            raise ArtefactError(
                f"frames of {image.shape[0]}x{image.shape[1]} to {self.card['model']}, whose"
                f" pictures are made by {rule['fit']!r}: give {height}x{width}, or export with"
                " --size"
            )
        import av

        small = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
        return small.reformat(width, height, "rgb24", interpolation="BILINEAR").to_ndarray()


def frames_of(video: str) -> Iterator[tuple[float, np.ndarray]]:
    """(seconds, uint8 RGB [H, W, 3]) of a video file; of one that is cut, what there is."""
    import av
    from av.error import InvalidDataError

    count = 0
    with av.open(video) as container:
        try:
            for frame in container.decode(video=0):
                yield float(frame.time or 0.0), frame.to_ndarray(format="rgb24")
                count += 1
        except InvalidDataError:
            if not count:
                raise
            told = f"{video}: truncated or damaged: {count} frames decoded"
            print(f"warning: {told}", file=sys.stderr)


def classes_of(card: Mapping, logits: np.ndarray, top: int = 5) -> dict[str, float]:
    """The best classes of one frame's logits [C]."""
    x = logits.astype(np.float64)
    e = np.exp(x - x.max())
    scores = 0.5 * (1 + np.tanh(0.5 * x)) if card["multi_label"] else e / e.sum()
    names = card["classes"] or [f"class {i}" for i in range(len(x))]
    return {names[i]: round(float(scores[i]), 4) for i in np.argsort(-scores)[:top]}


def lines(artefact: Artefact, video: str, most: int | None = None) -> Iterator[dict]:
    """What the model says of every frame."""
    streams = artefact.batch if isinstance(artefact.batch, int) else 1
    state = artefact.start()
    for index, (moment, image) in enumerate(frames_of(video)):
        if index == most:
            return
        frames = np.repeat(artefact.picture(image)[None, None], streams, axis=0)
        start = time.perf_counter()
        state, out = artefact.step(state, frames)
        line = {"frame": index, "time": round(moment, 4)}
        line["ms"] = round(1e3 * (time.perf_counter() - start), 2)
        for name, value in out.items():
            if name == "out/logits":
                line["classes"] = classes_of(artefact.card, value[0, 0])
            elif value[0, 0].size <= 64:
                line[name] = np.round(value[0, 0].astype(float), 5).tolist()
        yield line


def main(words: list[str]) -> int:
    """``loop.py CARD VIDEO [FRAMES]``: a JSON line per frame."""
    if len(words) not in (2, 3):
        print("usage: loop.py CARD.json VIDEO [FRAMES]", file=sys.stderr)
        return 2
    try:
        most = int(words[2]) if len(words) == 3 else None
        for line in lines(Artefact(words[0]), words[1], most):
            print(json.dumps(line), flush=True)
    except (ArtefactError, OSError) as error:
        print(f"loop.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
