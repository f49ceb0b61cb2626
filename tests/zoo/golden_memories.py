"""Writes ``data/memories_*.npz``: what the authors' trackers answer, with weights drawn at random.

python -m tests.zoo.golden_memories xmem FOLDER [full]    # FOLDER: hkchengrex/XMem, cloned
python -m tests.zoo.golden_memories deva FOLDER [full]    # hkchengrex/Tracking-Anything-with-DEVA
python -m tests.zoo.golden_memories cutie FOLDER [full]   # hkchengrex/Cutie

Their networks have fixed widths; all are divided by eight and their trunks cut to one block a
stage, in a copy of the sources (``full``: as they are, nothing is written, ours is compared). Kept
are the checkpoint's names and shapes, and the probabilities of some pixels; neither code nor
weights nor frames.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parent / "data"
SIZE, STEPS, EVERY = (48, 64), 24, 8  # of the pixels, every eighth is kept
OBJECTS = 3
MEMORY: dict[str, int] = dict(every=2, frames=5, kept=3, prototypes=5, long=17, nearest=7)
SPARE = 2  # of Cutie
LATER = 5  # the frame in which the third object comes
WIDTHS = {"key": 8, "value": 64, "sensory": 8}


def drawn(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """A checkpoint's tensors by their names and shapes."""
    out = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if name.endswith("num_batches_tracked"):
            out[name] = np.zeros(shape, np.int64)
        elif name.endswith("running_var"):
            out[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        elif len(shape) <= 1:  # gains of norms lie around one, all else around zero
            gain = name.endswith("weight")
            out[name] = rng.normal(float(gain), 0.1, shape).astype(np.float32)
        else:
            fan = np.prod(shape[1:])
            out[name] = (rng.normal(0, 1, shape) / np.sqrt(fan)).astype(np.float32)
    for name, a in out.items():  # so that objects differ, and are neither everywhere nor nowhere
        if name.endswith("encoder.conv1.weight") and a.shape[1] > 3:
            a[:, 3:] *= 8
        if name.endswith("pred.weight") and a.shape[0] == 1:
            a[:] = 6 * (a - a.mean())
    return out


def frames() -> np.ndarray:
    """[T, H, W, 3]: a picture that moves, normalised, with noise."""
    rng = np.random.default_rng(1)
    big = np.kron(rng.normal(size=(10, 12, 3)), np.ones((8, 8, 1)))
    h, w = SIZE
    still = [big[t % 9 : t % 9 + h, (2 * t) % 17 : (2 * t) % 17 + w] for t in range(STEPS)]
    return (np.stack(still) + 0.1 * rng.normal(size=(STEPS, h, w, 3))).astype(np.float32)


def masks() -> dict[int, dict[int, np.ndarray]]:
    """Frame -> object -> the mask that shows it."""
    one, two, three = (np.zeros(SIZE, bool) for _ in range(OBJECTS))
    one[4:30, 6:28], two[20:44, 36:60], three[2:14, 40:62] = True, True, True
    return {0: {0: one, 1: two}, LATER: {2: three}}


def narrowed(folder: Path, to: Path, files: list[str]) -> None:
    """A copy of the checkout with an eighth of every width that ``files`` spell out."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns(".git"))
    for name in files:
        text = (to / name).read_text()
        text = re.sub(r"\b(64|128|256|512|1024)\b", lambda m: str(int(m[1]) // 8), text)
        (to / name).write_text(text)


def xmem(full: bool) -> tuple[Any, Any]:
    """(network, frame, masks of objects or None -> probabilities [1 + objects, H, W])."""
    import torch

    _trunks(importlib.import_module("model.resnet"), full)
    config: dict[str, Any] = {} if full else {f"{k}_dim": v for k, v in WIDTHS.items()}
    config = {k.replace("sensory", "hidden"): v for k, v in config.items()}
    network = importlib.import_module("model.network").XMem(config).eval()
    m = MEMORY
    config |= {
        "top_k": m["nearest"], "mem_every": m["every"], "deep_update_every": -1,
        "enable_long_term": True, "enable_long_term_count_usage": True,
        "max_mid_term_frames": m["frames"], "min_mid_term_frames": m["kept"],
        "num_prototypes": m["prototypes"], "max_long_term_elements": m["long"],
    }  # fmt: skip
    core = importlib.import_module("inference.inference_core").InferenceCore(network, config)

    def step(frame: Any, told: dict[int, np.ndarray] | None) -> Any:
        if told is None:
            return core.step(frame)
        core.set_all_labels([i + 1 for i in range(len(told))])
        return core.step(frame, torch.from_numpy(np.stack([*told.values()])).float(),
                         core.all_labels)  # fmt: skip

    return network, step


def _labelled(told: dict[int, np.ndarray]) -> tuple[Any, list[int]]:
    """Masks of objects -> (one map of their numbers, from 1 on, the numbers)."""
    import torch

    labels = np.zeros(SIZE, np.int64)
    for i, mask in told.items():
        labels[mask] = i + 1
    return torch.from_numpy(labels), [i + 1 for i in told]


def deva(full: bool) -> tuple[Any, Any]:
    """As :func:`xmem`; the third object comes later."""

    _trunks(importlib.import_module("deva.model.resnet"), full)
    m, wide = MEMORY, 512 if full else 64
    config: dict[str, Any] = {
        "key_dim": 64 if full else 8, "value_dim": wide, "pix_feat_dim": wide,
        "top_k": m["nearest"], "mem_every": m["every"], "chunk_size": -1,
        "enable_long_term": True, "enable_long_term_count_usage": True,
        "max_mid_term_frames": m["frames"], "min_mid_term_frames": m["kept"],
        "num_prototypes": m["prototypes"], "max_long_term_elements": m["long"],
    }  # fmt: skip
    network = importlib.import_module("deva.model.network").DEVA(config).eval()
    core = importlib.import_module("deva.inference.inference_core").DEVAInferenceCore(
        network, config
    )

    def step(frame: Any, told: dict[int, np.ndarray] | None) -> Any:
        if told is None:
            return core.step(frame)
        return core.step(frame, *_labelled(told))

    return network, step


def cutie(full: bool) -> tuple[Any, Any]:
    """As :func:`xmem`; of the long-term memory two more entries are freed each time."""
    from omegaconf import OmegaConf  # pyright: ignore[reportMissingImports]

    _trunks(importlib.import_module("cutie.model.utils.resnet"), full)
    where = Path(importlib.import_module("cutie").__path__[0]) / "config" / "model" / "base.yaml"
    m, config = MEMORY, OmegaConf.create({"model": OmegaConf.load(where)})
    if not full:  # not widths, or not spelt out
        config.model.pixel_pe_temperature, config.model.object_transformer.ff_dim = 128, 64
    config |= {
        "mem_every": m["every"], "stagger_updates": m["every"], "top_k": m["nearest"],
        "chunk_size": -1, "max_internal_size": -1, "flip_aug": False, "save_aux": False,
        "use_long_term": True, "max_mem_frames": 5,
        "long_term": {
            "count_usage": True, "max_mem_frames": m["frames"], "min_mem_frames": m["kept"],
            "num_prototypes": m["prototypes"], "max_num_tokens": m["long"], "buffer_tokens": SPARE,
        },
    }  # fmt: skip
    network = importlib.import_module("cutie.model.cutie").CUTIE(config).eval()
    core = importlib.import_module("cutie.inference.inference_core").InferenceCore(network, config)

    def step(frame: Any, told: dict[int, np.ndarray] | None) -> Any:
        # it normalises for itself
        frame = frame * network.pixel_std + network.pixel_mean
        if told is None:
            return core.step(frame)
        return core.step(frame, *_labelled(told))

    return network, step


def aligned(network: Any) -> np.ndarray:
    """DEVA's masks of the first frame as they lie in the eighth: [1 + 2, H, W]."""
    import torch

    part = importlib.import_module("deva.inference.consensus_associated")
    store = importlib.import_module("deva.inference.image_feature_store").ImageFeatureStore(network)
    seen = torch.from_numpy(frames()[[0, 7]]).permute(0, 3, 1, 2)
    told = torch.from_numpy(np.stack([*masks()[0].values()])).float()
    config = {"value_dim": WIDTHS["value"], "chunk_size": -1, "top_k": MEMORY["nearest"]}
    with torch.no_grad():
        found = part.spatial_alignment(0, seen[0], told, 7, seen[1], network, store, config)
    return found[0].numpy()


def votes(seed: int) -> np.ndarray:
    """Detections of three frames, as numbers of segments [3, H, W], 0 for none: squares that move
    a little, of which some are missed, and others seen once."""
    rng = np.random.default_rng(seed)
    out = np.zeros((3, *SIZE), int)
    where = rng.integers(0, [[30, 44]], (5, 2))
    for frame in out:
        for i, (y, x) in enumerate(where):
            if rng.random() < 0.7:
                y, x, h, w = y + rng.integers(3), x + rng.integers(3), *rng.integers(9, 15, 2)
                frame[y : y + h, x : x + w] = i + 1
    return out


def associated() -> dict[str, np.ndarray]:
    """What DEVA's consensus makes of :func:`votes` where frames lie as they are: maps of numbers,
    counted from the first segment of the first frame."""
    import torch

    part = importlib.import_module("deva.inference.consensus_automatic")
    info = importlib.import_module("deva.inference.object_info").ObjectInfo
    frame = importlib.import_module("deva.inference.frame_utils").FrameInfo

    def stay(ti, image, mask, *rest):
        return torch.cat([torch.full_like(mask[:1], 0.5), mask])[None]

    part.spatial_alignment = stay
    out = []
    for seed in range(8):
        told = []
        for t, numbers in enumerate(votes(seed)):
            those = [info(int(i)) for i in np.unique(numbers) if i]
            told.append(frame(torch.zeros(3, *SIZE), torch.from_numpy(numbers), those, t, {}))
        _, found, _ = part.find_consensus_auto_association(
            told, "last", network=None, store=None, config=None
        )
        out.append(found.numpy())
    return {"agreed": np.stack(out).astype(np.uint8)}


def _trunks(resnet: Any, full: bool) -> None:
    """Trunks without pretrained weights, and with one block a stage."""
    for name, block, layers in (("18", "BasicBlock", [2] * 4), ("50", "Bottleneck", [3, 4, 6, 3])):
        kind = getattr(resnet, block)
        layers = layers if full else [1] * 4

        def make(pretrained=True, extra_dim=0, model_dir=None, kind=kind, layers=layers):
            return resnet.ResNet(kind, layers, extra_dim)

        setattr(resnet, f"resnet{name}", make)


FILES = {
    "xmem": ["model/resnet.py", "model/modules.py", "model/network.py"],
    "cutie": ["cutie/model/utils/resnet.py", "cutie/config/model/base.yaml"],
    "deva": [f"deva/model/{name}.py" for name in ("resnet", "big_modules", "modules")],
}
NETWORKS = {"xmem": xmem, "deva": deva, "cutie": cutie}


def shown(name: str) -> dict[int, dict[int, np.ndarray]]:
    """Prompts of a family. XMem's own consolidation takes no objects that come later, and in Cutie
    at inference those that came with different frames do not compete in the object transformer."""
    told = masks()
    return told if name == "deva" else {0: told[0]}


def main(name: str, folder: str, full: bool = False) -> None:
    import torch

    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "source"
        narrowed(Path(folder), source, [] if full else FILES[name])
        sys.path.insert(0, str(source))
        network, step = NETWORKS[name](full)
    own = network.state_dict()
    shapes = {k: list(t.shape) for k, t in own.items() if not k.endswith("inv_freq")}
    tensors = drawn(shapes)
    network.load_state_dict(own | {k: torch.from_numpy(v) for k, v in tensors.items()})
    told, found = shown(name), []
    for t, frame in enumerate(frames()):
        with torch.no_grad():
            prob = step(torch.from_numpy(frame).permute(2, 0, 1), told.get(t))
        prob = prob.numpy()
        rest = np.zeros((1 + OBJECTS - len(prob), *SIZE), np.float32)
        found.append(np.concatenate([prob, rest]))
        print(t, [f"{p.mean():.3f} +- {p.std():.3f}" for p in prob])
    some = np.stack(found).astype(np.float32)
    if full:
        from .test_memories import followed

        got = followed(name, tensors)
        print("largest difference, frame by frame:", np.abs(got - some).max((1, 2, 3)))
        return
    file = DATA / f"memories_{name}.npz"
    kept = {"shapes": np.asarray(json.dumps(shapes)), "prob": some[:, :, ::EVERY, ::EVERY]}
    if name == "deva":
        kept |= {"aligned": aligned(network)[:, ::EVERY, ::EVERY]} | associated()
    np.savez_compressed(file, **kept)
    print(file, file.stat().st_size, "bytes")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], "full" in sys.argv[3:])
