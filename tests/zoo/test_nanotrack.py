"""NanoTrack: networks are the published graphs, the stream the authors' tracker, and the law."""

import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject, verify_contract
from streamzoo.streaming.sources import open_source
from streamzoo.zoo import create_model
from streamzoo.zoo.convert import ConvertError, convert_checkpoint
from streamzoo.zoo.segment.nanotrack.model import LEAST, NanoTrack, NanoTrackConfig
from streamzoo.zoo.segment.nanotrack.network import Head, Trunk
from streamzoo.zoo.segment.stream import ABSENT_LOGIT, no_prompts

from ..layers.compare import close

SHARED = Path(__file__).parents[3] / "shared" / "data"
HEAD = SHARED / "weights" / "nanotrackv2_head.onnx"
TRUNK = SHARED / "weights" / "nanotrackv2_backbone.onnx"
GOLDEN = json.loads((Path(__file__).parent / "data" / "nanotrack.json").read_text())
needs_files = pytest.mark.skipif(not HEAD.is_file(), reason=f"{HEAD.name} is not beside the tree")
SMALL = NanoTrackConfig(image_size=(32, 48), template=31, search=63, objects=2, points=2)


@functools.cache
def loaded():
    pytest.importorskip("onnx")
    plan, variables = convert_checkpoint(HEAD)
    assert plan.model == "nanotrack-v2"
    return variables


def shown(box, objects=1, points=4, slot=0):
    """Prompts of one frame: a box in a slot."""
    prompts = no_prompts(1, 1, objects, points)
    prompts.points[0, 0, slot, :2] = np.asarray(box, np.float32).reshape(2, 2)
    prompts.labels[0, 0, slot, :2] = 2, 3
    prompts.pointed[0, 0, slot] = True
    return prompts


@needs_files
def test_networks_are_the_published_graphs():
    runtime = pytest.importorskip("onnxruntime")
    x = np.random.default_rng(0).integers(0, 256, (1, 255, 255, 3)).astype(np.float32)
    run = lambda file, **inputs: runtime.InferenceSession(str(file)).run(None, inputs)
    params = loaded()["params"]
    first = lambda a: np.asarray(a).transpose(0, 3, 1, 2)
    (want,) = run(TRUNK, input=x[..., ::-1].transpose(0, 3, 1, 2))
    close("trunk", first(jax.jit(Trunk().apply)({"params": params["trunk"]}, x)), want, 2e-5)
    template = want[:, :, 4:12, 4:12]
    wants = run(HEAD, input1=template, input2=want)
    back = lambda a: a.transpose(0, 2, 3, 1)
    found = jax.jit(Head(64).apply)({"params": params["head"]}, back(template), back(want))
    for got, other in zip(found, wants, strict=True):
        close("head", first(got), other, 2e-5)


@pytest.mark.slow
@needs_files
@pytest.mark.parametrize("file", GOLDEN["clips"])
def test_stream_is_the_authors_tracker(file):
    clip, row = SHARED / "clips" / file, GOLDEN["clips"][file]
    if not clip.is_file():
        pytest.skip(f"{file} is not beside the tree")
    many = 1 + len(row["found"])
    with open_source(clip, size=tuple(row["size"])) as source:
        frames = [f.image for _, f in zip(range(row["first"] + many), source, strict=False)]
    frames = np.stack(frames[row["first"] :]).astype(np.float32)[None]
    model = create_model("nanotrack-v2", image_size=tuple(row["size"]), objects=1)
    step, params = jax.jit(model.apply), loaded()
    carry, out = step(params, model.init_carry(1), frames[:, :1], None, shown(row["box"]))
    assert out.scores[0, 0, 0] > 0
    for t, want in enumerate(row["found"], 1):
        quiet = no_prompts(1, 1, 1, 4)
        carry, out = step(params, carry, frames[:, t : t + 1], None, quiet)
        box = np.concatenate([carry.centre[0, 0], carry.size[0, 0]])
        np.testing.assert_allclose(box, want[:4], atol=0.05)  # pixels; 0.005 seen
        np.testing.assert_allclose(jax.nn.sigmoid(out.scores[0, 0, 0]), want[4], atol=1e-3)
        inside = np.asarray(out.masks[0, 0, 0] > 0)  # the box, at a quarter of the size
        assert abs(16 * inside.sum() / (want[2] * want[3]) - 1) < 0.25


@needs_files
def test_either_file_leads_to_both(tmp_path):
    pytest.importorskip("onnx")
    _, variables = convert_checkpoint(TRUNK)
    same = jax.tree.map(np.array_equal, variables, loaded())
    assert all(jax.tree.leaves(same))
    alone = shutil.copy(HEAD, tmp_path)
    with pytest.raises(ConvertError, match="two files.*'head' in its name.*'backbone'"):
        convert_checkpoint(alone)


@functools.cache
def small():
    module = NanoTrack(SMALL)
    frames = jnp.zeros((1, 1, *SMALL.image_size, 3))
    variables = jax.jit(lambda: module.init(jax.random.key(0), module.init_carry(1), frames))()
    return module, variables, jax.jit(module.apply)


def film(seed, batch, steps):
    frames = jax.random.uniform(jax.random.key(seed), (batch, steps, *SMALL.image_size, 3))
    return 255 * frames


def prompted_film(seed, batch, steps):
    """Two objects shown by boxes, the second one anew in the second frame."""
    prompts = no_prompts(batch, steps, 2, 2)
    for t, slot, box in ((0, 0, (8, 4, 24, 20)), (min(1, steps - 1), 1, (20, 8, 40, 30))):
        prompts.points[:, t, slot] = np.asarray(box, np.float32).reshape(2, 2)
        prompts.labels[:, t, slot] = 2, 3
        prompts.pointed[:, t, slot] = True
    return jax.tree.map(jnp.asarray, (film(seed, batch, steps), prompts))


@functools.cache
def subject():
    module, variables, _ = small()

    def step(carry, x, valid):
        return module.apply(variables, carry, x[0], valid, x[1])

    return Subject(module.init_carry, step, prompted_film, atol=1e-3)


FAST = (contract.check_slots,)  # the others take long to compile
LAWS = [pytest.param(law, marks=[pytest.mark.slow] * (law not in FAST)) for law in contract.LAWS]


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_contract(law):
    verify_contract(subject(), (law,))


@pytest.mark.slow
def test_a_mask_is_its_box_and_points_alone_are_absent():
    module, variables, step = small()
    box = (8, 4, 24, 20)
    carry, out = step(variables, module.init_carry(1), film(0, 1, 1), None, shown(box, 2, 2))
    prompts = no_prompts(1, 1, 2, 2, SMALL.image_size)
    prompts.masks[0, 0, 0, 4:20, 8:24] = True
    prompts.masked[0, 0, 0] = True
    other, again = step(variables, module.init_carry(1), film(0, 1, 1), None, prompts)
    np.testing.assert_array_equal(again.masks, out.masks)
    jax.tree.map(np.testing.assert_array_equal, other, carry)
    assert carry.centre[0, 0].tolist() == [15.5, 11.5] and carry.size[0, 0].tolist() == [16, 16]
    lone = no_prompts(1, 1, 2, 2)
    lone.points[0, 0, 0, 0], lone.labels[0, 0, 0, 0], lone.pointed[0, 0, 0] = (16, 12), 1, True
    carry, out = step(variables, module.init_carry(1), film(0, 1, 1), None, lone)
    assert out.active[0, 0, 0] and out.scores[0, 0, 0] == ABSENT_LOGIT
    assert not carry.active.any()


@pytest.mark.slow
def test_what_is_lost_is_not_shown_and_boxes_stay_in_the_frame():
    module, variables, step = small()
    strict = NanoTrack(NanoTrackConfig(**vars(SMALL) | {"lost": 1.0}))
    carry, _ = step(
        variables, module.init_carry(1), film(0, 1, 1), None, shown((8, 4, 24, 20), 2, 2)
    )
    _, out = jax.jit(strict.apply)(variables, carry, film(1, 1, 1))
    assert (out.masks == ABSENT_LOGIT).all() and out.active[0, 0, 0]
    assert out.scores[0, 0, 0] > ABSENT_LOGIT
    far = carry.replace(centre=carry.centre + 1000.0, size=carry.size * 0 + 1.0)
    carry, _ = step(variables, far, film(1, 1, 1))
    height, width = SMALL.image_size
    assert (carry.centre[0, 0] <= jnp.asarray([width, height])).all()
    assert (carry.size[0, 0] >= LEAST).all()
    removed = no_prompts(1, 1, 2, 2)
    removed.remove[0, 0, 0] = True
    carry, out = step(variables, carry, film(2, 1, 1), None, removed)
    assert not out.active.any() and not carry.active.any()
