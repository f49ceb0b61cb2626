"""VGGT equals its project's own numbers; its stream is VGGT with a mask over time."""

import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.layers.geometry import pose_code
from streamzoo.zoo import create_model
from streamzoo.zoo.convert import convert, detect_converter
from streamzoo.zoo.trees import flatten
from streamzoo.zoo.weights import shapes_of
from tests.layers.compare import close

GOLDENS = Path(__file__).parents[3] / "shared/goldens/geometry"
needs_goldens = pytest.mark.skipif(not GOLDENS.is_dir(), reason="shared goldens are not there")
KEYS = GOLDENS / "vggt_full_keys.json"
MEAN, STD = (
    np.asarray([0.485, 0.456, 0.406], np.float32),
    np.asarray([0.229, 0.224, 0.225], np.float32),
)


@functools.cache
def tiny():
    z = dict(np.load(GOLDENS / "vggt_tiny.npz"))
    tensors = {k[2:]: v for k, v in z.items() if k.startswith("w:")}
    plan = detect_converter(tensors).plan(tensors, None)
    template = shapes_of(plan.model, **plan.overrides)
    variables = convert(tensors, plan.rules, ignore=plan.ignore, template=template)
    frames = (np.moveaxis(z["images"], 2, -1) - MEAN) / STD
    return z, plan, variables, frames


@needs_goldens
def test_vggt_is_its_projects():
    z, plan, variables, frames = tiny()
    model = create_model(plan.model, **plan.overrides)

    @jax.jit
    def run(variables, frames):
        read, last = model.apply(variables, frames, method="tokens")
        codes = model.apply(variables, last, method=lambda m, x: m.body.cameras(x[:, :, 0]))
        return read, last, codes, model.apply(variables, frames)

    read, last, codes, out = run(variables, frames)
    scaled = lambda name, got, want: close(name, got / want.std(), want / want.std(), 2e-5)
    scaled("first pair", read[0], z["tokens_first"])
    scaled("last pair", last, z["tokens_last"])
    for k, code in enumerate(codes):
        scaled(f"cameras, round {k}", code, z["pose_enc"][k])
    scaled("depth", out.depth, z["depth"][..., 0])
    scaled("certainty", out.certainty, z["depth_conf"])
    scaled("points", out.points, z["world_points"])
    scaled("their certainty", out.points_certainty, z["world_conf"])
    extrinsic, focal = pose_code.decode(out.camera, (42, 56))
    scaled("extrinsic", extrinsic, z["extrinsic"])
    # a field of view near 0 is a focal length near infinity
    close("focal", 1 / focal, 1 / z["intrinsic"][..., [0, 1], [0, 1]], 1e-5)
    other = model.apply(variables, frames[:, [1, 0, 2]], method="tokens")[1]
    scaled("views in another order", other, z["tokens_last_perm102"])


@needs_goldens
def test_codes_of_cameras_are_vggts():
    z = tiny()[0]
    extrinsic, focal = z["rt_extr"], z["rt_intr"][..., [0, 1], [0, 1]]
    close("code", pose_code.encode(jnp.asarray(extrinsic), jnp.asarray(focal), (42, 56)),
          z["rt_enc"], 1e-5)  # fmt: skip
    back, found = pose_code.decode(jnp.asarray(z["rt_enc"]), (42, 56))
    close("extrinsic", back, z["rt_extr2"], 1e-5)
    close("focal", found, z["rt_intr2"][..., [0, 1], [0, 1]], 1e-5)


@needs_goldens
def test_every_published_key_has_its_place():
    """By names and shapes: 1.26 billion parameters, of which the tracking head is left out."""
    tensors = {}
    for pattern, (count, shape) in json.loads(KEYS.read_text()).items():
        # the file has the shape of the first of a pattern only: widths differ among these
        for key, own in _expanded(pattern, count, shape):
            tensors[key] = np.broadcast_to(np.float32(0), own)
    plan = detect_converter(tensors).plan(tensors, None)
    assert plan.model == "vggt-l14" and not plan.overrides
    filled = set()
    for key in tensors:
        rules = [rule for rule in plan.rules if re.fullmatch(rule.pattern, key)]
        left_out = any(re.fullmatch(pattern, key) for pattern in plan.ignore)
        assert len(rules) == 1 - left_out, key
        filled |= {(rule.target, re.fullmatch(rule.pattern, key)["layer"]) if rule.stack
                   else (rule.target, None) for rule in rules}  # fmt: skip
    wanted = {path: leaf.shape for path, leaf in flatten(shapes_of("vggt-l14")).items()}
    assert {target for target, _ in filled} == set(wanted)
    for target, shape in wanted.items():
        rows = sum(one == target for one, _ in filled)
        assert rows in (1, shape[0]), target


WIDTHS = (256, 512, 1024, 1024)


def _expanded(pattern, count, shape):
    if ".projects.N" in pattern:
        return [(pattern.replace("N", str(i)), [WIDTHS[i], *shape[1:]]) for i in range(4)]
    if ".resize_layers.N" in pattern:
        size = lambda i: (
            [WIDTHS[i]] * min(len(shape), 2) + [{0: 4, 1: 2, 3: 3}[i]] * (len(shape) - 1 and 2)
        )
        return [(pattern.replace("N", str(i)), size(i)) for i in (0, 1, 3)]
    if ".output_conv2.N" in pattern:
        last = 2 if pattern.startswith("depth") else 4
        end = [last, 32, 1, 1] if len(shape) == 4 else [last]
        return [(pattern.replace("N", "0"), shape), (pattern.replace("N", "2"), end)]
    if "modulation.N" in pattern:
        return [(pattern.replace(".N.", ".1."), shape)]
    if ".N." in pattern:
        return [(pattern.replace(".N.", f".{i}."), shape) for i in range(count)]
    return [(pattern, shape)]


def stream(window):
    z, plan, variables, frames = tiny()
    name = plan.model.replace("vggt", "vggtstream")
    model = create_model(name, **{**plan.overrides, "window": window})
    more = np.random.default_rng(0).normal(size=(1, 6, 42, 56, 3)).astype(np.float32)
    return model, variables, np.concatenate([frames, more], axis=1)


@pytest.mark.slow
@needs_goldens
def test_a_stream_of_one_view_is_vggt():
    model, variables, frames = stream(3)
    _, plan, _, _ = tiny()
    offline = create_model(plan.model, **plan.overrides)
    _, out = jax.jit(model.apply)(variables, model.init_carry(1, (42, 56)), frames[:, :1])
    want = jax.jit(offline.apply)(variables, frames[:, :1])
    for name in ("depth", "certainty", "points", "camera", "confidence"):
        close(name, getattr(out, name), getattr(want, name), 1e-5)


@pytest.mark.slow
@needs_goldens
def test_a_stream_sees_the_first_frame_and_the_newest_ones():
    """What a frame's answer depends on, by changing one earlier frame at a time."""
    model, variables, frames = stream(3)
    apply = jax.jit(model.apply)
    carry = model.init_carry(1, (42, 56))
    depth = apply(variables, carry, frames)[1].depth[0]
    last = frames.shape[1] - 1
    # attention reaches back ``window`` frames per pair of blocks, so 4 x 3 frames, in all: with one
    # pair it would be 3. Frame 0 is always there.
    for changed in range(last + 1):
        other = frames.copy()
        other[:, changed] += 1
        got = apply(variables, carry, other)[1].depth[0]
        apart = np.abs(np.asarray(got - depth)).max(axis=(1, 2))
        assert not apart[:changed].any() and apart[changed] > 1e-4
        if changed == 0:
            assert (apart > 1e-5).all(), "the first frame is in every answer"


@pytest.mark.slow
@needs_goldens
def test_one_pair_reaches_back_by_its_window_only():
    z, plan, variables, _ = tiny()
    model, variables, frames = stream(2)
    one = {**plan.overrides, "depth": 1, "layers": (0, 0, 0, 0), "window": 2}
    model = create_model("vggtstream-l14", **one)
    cut = lambda path, a: a[:1] if "pairs" in str(path) else a
    variables = jax.tree_util.tree_map_with_path(cut, variables)
    apply, carry = jax.jit(model.apply), model.init_carry(1, (42, 56))
    depth = apply(variables, carry, frames)[1].depth[0]
    reaches = {}
    for changed in (0, 3):
        other = frames.copy()
        other[:, changed] += 1
        apart = np.abs(np.asarray(apply(variables, carry, other)[1].depth[0] - depth))
        reaches[changed] = np.flatnonzero(apart.max(axis=(1, 2)) > 1e-6).tolist()
    assert reaches == {0: list(range(9)), 3: [3, 4, 5]}


@pytest.mark.slow
@needs_goldens
def test_the_stream_holds_the_law():
    model, variables, _ = stream(2)
    shape = (42, 56)

    def frames(seed, batch, steps):
        return jax.random.normal(jax.random.key(seed), (batch, steps, *shape, 3))

    make = lambda batch: model.init_carry(batch, shape)
    subject = Subject.of(model, variables, frames, init_carry=make)
    contract.check_fixed_point(subject)
    contract.check_slots(subject)
    contract.check_gaps(subject, seeds=1)
    contract.check_chunking(subject, seeds=1)
