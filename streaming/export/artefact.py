"""Writing artefacts: the model, its initial state, its card, and the loop that runs them."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from ...layers.install import how_to_install
from ...layers.streaming import Fields, Params, looks_across
from ...zoo.registry import Card
from ...zoo.streams import as_stream
from ..precision import TAKES, RuntimeRefused, in_precision
from . import loop, stablehlo
from .compare import FRAMES, Difference, compare, nothing, plain
from .traced import Leaf, leaves, trace

FORMATS = {
    "stablehlo": TAKES["jax"],
    "onnx": TAKES["onnxruntime"],
    "openvino": TAKES["openvino"],
    "litert": ("fp32", "int8"),  # int8 is its dynamic range: activations as they come
}
# Formats that are asked for and not written, and what serves there.
ELSEWHERE = {
    "coreml": "its files are compiled and tried on macOS alone; take --to onnx, which ONNX Runtime"
    " runs there with its CoreML provider, or --to litert, which has a Core ML delegate"
}
VERSIONED = ("streamzoo", "jax", "flax", "onnx", "onnxruntime", "openvino", "tensorflow",
             "tensorflow-cpu", "ai-edge-litert")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written, and how far it is from JAX.

    Attributes:
      card: the JSON card; the model lies beside it.
      bytes: of the model, weights included.
      difference: from JAX; None if not measured.
    """

    card: Path
    bytes: int
    difference: Difference | None


def arguments(model: Any, card: Card, batch: int, size: tuple[int, int]) -> tuple:
    """Shapes of a step's (carry, frames, valid, extras) for one frame of ``batch`` streams."""
    shape = jax.ShapeDtypeStruct
    if model.inputs[0] != "frames":
        raise RuntimeRefused(
            f"{card.name} takes {model.inputs[0]}; exports are of models that take frames"
        )
    carry = jax.eval_shape(lambda: model.init_carry(batch, size))
    extras: Fields = {}
    if "prompts" in model.inputs:
        extras["prompts"] = jax.tree.map(lambda a: shape(a.shape, a.dtype), nothing(model, batch))
    if looks_across(model):
        extras["active"] = shape((batch,), np.bool_)
    frames = shape((batch, 1, *size, 3), np.uint8)
    return carry, frames, shape((batch, 1), np.bool_), extras


def export(
    model: Any,
    params: Params,
    card: Card,
    out: str | Path,
    *,
    to: str,
    precision: str = "fp32",
    batch: int | None = 1,
    stateful: bool = False,
    size: tuple[int, int] | None = None,
    pictures: Iterable[np.ndarray] | None = (),
    say: Callable[[str], None] = lambda _: None,
) -> Written:
    """Writes a step of one frame to the folder ``out``.

    Args:
      to: one of :data:`FORMATS`.
      batch: streams; None for any number.
      stateful: for OpenVINO, the state inside of the model, which then takes frames alone.
      size: (height, width) of the frames, default the card's.
      pictures: uint8 RGB [h, w, 3] of a video, of that size; the first 30 are shown to the artefact
        and to JAX, and the card states the difference. Too few are filled up with noise, in which
        a detector finds nothing; None measures nothing.

    Raises:
      RuntimeRefused: a format, precision or batch that cannot be had.
      UnsupportedOperation: an operation without an ONNX form.
    """
    if to in ELSEWHERE:
        raise RuntimeRefused(f"--to {to}: {ELSEWHERE[to]}")
    if to not in FORMATS:
        raise RuntimeRefused(f"--to {to}: choose from {', '.join(FORMATS)}")
    if precision not in FORMATS[to]:
        able = [name for name, known in FORMATS.items() if precision in known]
        where = f"; {precision} is taken by {', '.join(able)}" if able else ""
        raise RuntimeRefused(
            f"--precision {precision} to {to}: it takes {', '.join(FORMATS[to])}{where}"
        )
    if stateful and to != "openvino":
        raise RuntimeRefused(
            f"--stateful to {to}: OpenVINO alone keeps a state inside; in {to} it is an input and"
            " an output"
        )
    if stateful and batch is None:
        raise RuntimeRefused(
            "--stateful with --batch dynamic: a state inside has one size; give a number of streams"
        )
    if to == "litert" and batch is None:
        raise RuntimeRefused(
            "--to litert with --batch dynamic: its sizes are fixed; give a number of streams"
        )
    model = as_stream(model, card)
    height, width = size or card.input_size
    args = arguments(model, card, batch or 1, (height, width))
    if stateful and not jax.tree.leaves(args[0]):
        raise RuntimeRefused(f"--stateful: {card.name} keeps no state; leave it away")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    many = "dynamic" if batch is None else f"b{batch}"
    stem = f"{card.name.replace('/', '.')}.{precision}.{many}.{height}x{width}.{to}"
    stem += ".stateful" if stateful else ""
    say(f"tracing {card.name}")
    if to == "stablehlo":
        files, inputs, outputs, extra = _stablehlo(
            in_precision(model, card, precision), params, card, args, folder, stem, batch is None
        )
    else:
        shapes = args if batch else None
        files, inputs, outputs, extra = _onnx(
            model, params, card, shapes, (height, width), folder, stem, to, precision, stateful, say
        )
    initial = folder / f"{stem}.initial.npz"
    start = _initial(model, batch or 1, (height, width), args)
    np.savez(initial, allow_pickle=False, **start)
    files.append(initial)
    state = [x for x in inputs if x.name.startswith("carry")]
    told: Fields = {
        "format": "streamzoo artefact",
        "version": loop.VERSION,
        "model": card.name,
        "kind": to,
        "file": files[0].name,
        "precision": precision,
        "initial": initial.name,
        "stateful": stateful,
        "inputs": [_described(x) for x in inputs],
        "outputs": [_described(x) for x in outputs],
        "state": [
            {"input": x.name, "output": y.name, "zeros": not np.any(start[x.name])}
            for x, y in zip(state, outputs, strict=False)
        ],
        "carry": _signature(card, state, params),
        "picture": {
            "fit": card.fit, "short_side": card.short_side, "filter": card.filter,
            "size": [height, width], "normalised": "inside the model: frames are uint8 RGB",
        },
        "task": card.task,
        "classes": list(card.classes),
        "multi_label": card.multi_label,
        "latency": model.latency,
        "licence": card.licence,
        "versions": _versions(*VERSIONED),
        "sha256": {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files},
        **extra,
    }  # fmt: skip
    path = folder / f"{stem}.json"
    path.write_text(json.dumps(told, indent=1) + "\n")
    shutil.copyfile(str(loop.__file__), folder / "loop.py")
    difference = None
    if pictures is not None and to != "stablehlo":
        say(f"comparing with JAX over {FRAMES} frames")
        shown = args if batch else arguments(model, card, 2, (height, width))
        difference = compare(path, model, params, card, shown, pictures)
        if wrong(to, precision, difference):
            for file in (*files, path, folder / "loop.py"):
                file.unlink(missing_ok=True)
            raise RuntimeRefused(
                f"--to {to}: {card.name} answers otherwise there (largest difference from JAX"
                f" {difference.answers:.2g} over {FRAMES} frames), so nothing is written; take"
                " --to onnx or --to openvino"
            )
        told["difference"] = {
            "frames": FRAMES,
            "largest of answers": difference.answers,
            "of the state": difference.state,
            "largest change of answers from frame to frame": difference.change,
            "frames of a video": difference.pictures,
            "an object was prompted": difference.prompted,
        }
        path.write_text(json.dumps(told, indent=1) + "\n")
    return Written(path, sum(f.stat().st_size for f in files), difference)


def wrong(to: str, precision: str, difference: Difference) -> bool:
    """True if an artefact in full precision is another function than the model.

    LiteRT alone is held to it: its converter makes another program of it, and its runtime computed
    MoveNet's points in memory that was still read (``litert_memory.py``), saying nothing."""
    full = to == "litert" and precision == "fp32"
    return full and difference.answers > 1e-2 * max(1.0, difference.change)


def _stablehlo(model, params, card, args, folder, stem, dynamic):
    program, weights, inputs, outputs = stablehlo.lower(model, params, card, args, dynamic=dynamic)
    path, stored = folder / f"{stem}.bin", folder / f"{stem}.safetensors"
    path.write_bytes(program.serialize())
    arrays = [np.asarray(a) for a in jax.tree.leaves(params)]
    save_file(
        {x.name: np.ascontiguousarray(a) for x, a in zip(weights, arrays, strict=False)}, stored
    )
    extra = {
        "platforms": list(program.platforms),
        "calling_convention": program.calling_convention_version,
        "weights": [_described(x) for x in weights],
    }
    return [path, stored], inputs, outputs, extra


def _onnx(model, params, card, args, size, folder, stem, to, precision, stateful, say):
    from . import onnx_batch, onnx_program, quantised
    from .onnx_graph import UnsupportedOperation

    def program(args: tuple, **options: Any) -> Any:
        traced = trace(model, params, card, *args)
        say(f"writing {len(traced.program.eqns)} operations")
        names = [x.name for x in traced.inputs], [x.name for x in traced.outputs]
        made = onnx_program.model(traced.program, *names, card.name, **options)
        return made, traced.inputs, traced.outputs

    if args is not None:
        made, inputs, outputs = program(args)
    else:
        tried = [program(arguments(model, card, b, size), least=0) for b in onnx_batch.SIZES]
        each = iter(made for made, *_ in tried)
        try:
            made = onnx_batch.for_any_batch(lambda size: next(each))
        except UnsupportedOperation as error:
            raise RuntimeRefused(
                f"--batch dynamic: {error}; give a number of streams, or export --to stablehlo"
            ) from None
        inputs, outputs = (
            [
                Leaf(same[0].name, onnx_batch.sized([x.shape for x in same]), same[0].dtype)
                for same in zip(*lists, strict=True)
            ]
            for lists in zip(*(leaves for _, *leaves in tried), strict=True)
        )
    if to != "litert":  # whose converter does so by itself
        runtime = "onnxruntime" if to == "onnx" else to
        made = quantised.quantised(made, precision, runtime)
    border = lambda xs: [Leaf(x.name, x.shape, onnx_program.border(x.dtype)) for x in xs]
    inputs, outputs = border(inputs), border(outputs)
    extra: dict[str, Any] = {"opset": made.opset_import[0].version}
    if to == "litert":
        from . import litert

        path = folder / f"{stem}.tflite"
        say("converting with TensorFlow")
        path.write_bytes(litert.converted(made, precision))
        return [path], inputs, outputs, extra
    path = folder / f"{stem}.onnx"
    path.write_bytes(made.SerializeToString())
    files = [path]
    if to == "openvino":
        try:
            import openvino
        except ImportError:
            raise RuntimeRefused(
                f"export to openvino needs it: {how_to_install('openvino')}"
            ) from None
        target = folder / f"{stem}.xml"
        read = openvino.Core().read_model(str(path))
        if stateful:
            extra["variables"] = _keep_state(read, inputs, outputs)
        openvino.save_model(read, target, compress_to_fp16=False)
        path.unlink()
        files = [target, target.with_suffix(".bin")]
    return files, inputs, outputs, extra


def _keep_state(model: Any, inputs: list[Leaf], outputs: list[Leaf]) -> list[str]:
    """Makes each carry/NAME and carry_out/NAME of an OpenVINO model a variable; their names."""
    from openvino._offline_transformations import apply_make_stateful_transformation

    names: list[str] = []
    carried = [x.name for x in inputs if x.name.startswith("carry")]
    for name, out in zip(carried, outputs, strict=False):
        apply_make_stateful_transformation(model, {name: out.name})
        names += {v.get_info().variable_id for v in model.get_variables()} - set(names)
    return names


def _initial(model: Any, batch: int, size: tuple[int, int], args: tuple) -> dict[str, np.ndarray]:
    """The first state by name, and inputs that say nothing."""
    carry = jax.jit(lambda: model.init_carry(batch, size))()
    names = [x.name for x in leaves(args[0], "carry")]
    start = {n: plain(a) for n, a in zip(names, jax.tree.leaves(carry), strict=True)}
    start["valid"] = np.ones((batch, 1), bool)
    if "prompts" in args[3]:
        said = nothing(model, batch)
        names = [x.name for x in leaves(said, "prompts")]
        start |= dict(zip(names, jax.tree.leaves(said), strict=True))
    if "active" in args[3]:
        start["active"] = np.ones(batch, bool)
    return start


def _described(x: Leaf) -> Fields:
    shape = [n if isinstance(n, int) else str(n) for n in x.shape]
    return {"name": x.name, "dtype": str(x.dtype), "shape": shape}


def _signature(card: Card, state: list[Leaf], params: Params) -> str:
    """Tells the states of two models, weights or shapes apart."""
    digest = hashlib.sha256(repr([card.name, [(*x[:2], str(x.dtype)) for x in state]]).encode())
    for a in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(np.asarray(a)).tobytes())
    return digest.hexdigest()


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
