"""RoIAlign against a sample-by-sample form and against torchvision."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamzoo.layers import roi_align as module

roi_align = jax.jit(module.roi_align, static_argnames=("size", "sampling_ratio", "aligned"))

KINDS = [(2, True), (2, False), (3, True), (0, True), (0, False)]


def brute_force(features, boxes, size, ratio, aligned):
    """One sample at a time, with floor and four neighbours, in float64. Also: is any sample or
    sample count so close to a jump of the definition that fp32 may fall on its other side?"""
    h, w, depth = features.shape
    rows, cols = size
    out = np.zeros((len(boxes), rows, cols, depth))
    touchy = False
    for k, (x1, y1, x2, y2) in enumerate(np.asarray(boxes, np.float64)):
        shift = 0.5 if aligned else 0.0
        left, top = x1 * w - shift, y1 * h - shift
        wide, high = (x2 - x1) * w, (y2 - y1) * h
        if not aligned:
            wide, high = max(wide, 1.0), max(high, 1.0)
        ny = ratio if ratio > 0 else math.ceil(high / rows)
        nx = ratio if ratio > 0 else math.ceil(wide / cols)
        if ratio <= 0:
            for step in (high / rows, wide / cols):
                touchy |= step > -1e-4 and 1e-9 < abs(step - round(step)) < 1e-4
        for p in range(rows):
            for q in range(cols):
                for i in range(ny):
                    for j in range(nx):
                        y = top + (p + (i + 0.5) / ny) * high / rows
                        x = left + (q + (j + 0.5) / nx) * wide / cols
                        touchy |= min(abs(y + 1), abs(y - h), abs(x + 1), abs(x - w)) < 1e-4
                        if y < -1 or y > h or x < -1 or x > w:
                            continue
                        out[k, p, q] += bilinear(features, y, x) / (ny * nx)
    return out, touchy


def bilinear(features, y, x):
    h, w, _ = features.shape
    y, x = max(y, 0.0), max(x, 0.0)
    y0, x0 = int(y), int(x)
    y1, x1 = y0 + 1, x0 + 1
    if y0 >= h - 1:
        y0 = y1 = h - 1
        y = float(y0)
    if x0 >= w - 1:
        x0 = x1 = w - 1
        x = float(x0)
    dy, dx = y - y0, x - x0
    top = (1 - dx) * features[y0, x0] + dx * features[y0, x1]
    low = (1 - dx) * features[y1, x0] + dx * features[y1, x1]
    return (1 - dy) * top + dy * low


def random_features(seed, shape=(5, 6, 3)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


SPECIAL = np.array(
    [
        [0.0, 0.0, 1.0, 1.0],  # the whole image
        [0.3, 0.4, 0.3, 0.4],  # a point
        [0.7, 0.6, 0.2, 0.1],  # turned inside out
        [-0.613, -0.527, 0.411, 0.317],  # partly outside
        [0.823, 0.719, 1.637, 1.941],
        [1.531, 1.557, 1.903, 1.808],  # wholly outside
        [0.117, 0.233, 0.529, 0.973],
    ],
    np.float32,
)


@pytest.mark.parametrize("ratio, aligned", KINDS)
@pytest.mark.parametrize("size", [7, (3, 5), 1])
def test_special_boxes_equal_the_brute_force_form(size, ratio, aligned):
    features = random_features(0)
    pair = (size, size) if isinstance(size, int) else size
    want, touchy = brute_force(features, SPECIAL, pair, ratio, aligned)
    assert not touchy, "choose other boxes"
    got = roi_align(features[None], SPECIAL[None], size=size, sampling_ratio=ratio, aligned=aligned)
    assert got.shape == (1, len(SPECIAL), *pair, 3)
    np.testing.assert_allclose(got[0], want, atol=3e-5)
    assert np.abs(want).max() > 0.1


edge = st.floats(-0.75, 1.75, width=32)


@pytest.mark.parametrize("ratio, aligned", KINDS)
@settings(max_examples=25, deadline=None)
@given(box=st.tuples(edge, edge, edge, edge), seed=st.integers(0, 99))
def test_random_boxes_equal_the_brute_force_form(ratio, aligned, box, seed):
    x1, y1, x2, y2 = box
    if ratio == 0:  # exact up to twice the image's side
        x2, y2 = min(x2, x1 + 1.99), min(y2, y1 + 1.99)
    features = random_features(seed)
    boxes = np.array([[x1, y1, x2, y2]], np.float32)
    want, touchy = brute_force(features, boxes, (3, 2), ratio, aligned)
    if not touchy:
        got = roi_align(
            features[None], boxes[None], size=(3, 2), sampling_ratio=ratio, aligned=aligned
        )
        np.testing.assert_allclose(got[0], want, atol=3e-5)


@pytest.mark.parametrize("ratio, aligned", [(2, True), (0, False)])
def test_masked_boxes_give_zeros_and_leak_no_nan(ratio, aligned):
    rule = dict(sampling_ratio=ratio, aligned=aligned)
    features = jnp.asarray(random_features(1))[None]
    boxes = jnp.asarray(SPECIAL)[None].at[0, 1].set(jnp.nan).at[0, 4].set(jnp.inf)
    mask = jnp.ones(boxes.shape[:2], bool).at[0, 1].set(False).at[0, 4].set(False)
    out = roi_align(features, boxes, mask=mask, **rule)
    assert not out[0, 1].any() and not out[0, 4].any()
    kept = np.array(mask[0])
    plain = roi_align(features, jnp.asarray(SPECIAL)[None], **rule)
    np.testing.assert_allclose(out[0, kept], plain[0, kept], atol=1e-6)

    def loss(features, boxes):
        return (roi_align(features, boxes, mask=mask, **rule) ** 2).sum()

    to_features, to_boxes = jax.grad(loss, argnums=(0, 1))(features, boxes)
    assert jnp.isfinite(to_features).all() and jnp.isfinite(to_boxes).all()
    assert not to_boxes[0, 1].any() and jnp.abs(to_boxes[0, 6]).max() > 0


def test_gradient_to_features_is_the_transpose_of_the_pooling():
    """The pooling is linear in the features: <g, A f> = <A' g, f> with A' from autodiff, and A f
    itself is proved above."""
    features = jnp.asarray(random_features(2))[None]
    boxes = jnp.asarray(SPECIAL)[None]
    out, pull = jax.vjp(lambda f: roi_align(f, boxes), features)
    g = jnp.asarray(np.random.default_rng(3).normal(size=out.shape), jnp.float32)
    (back,) = pull(g)
    assert jnp.isfinite(back).all()
    np.testing.assert_allclose((g * out).sum(), (back * features).sum(), rtol=1e-4)


def test_mean_over_cells_is_one_cell_with_more_samples():
    features, boxes = random_features(4)[None], SPECIAL[None]
    one = roi_align(features, boxes, size=1, sampling_ratio=14)[:, :, 0, 0]
    np.testing.assert_allclose(one, roi_align(features, boxes).mean((2, 3)), atol=1e-5)


def test_images_of_a_batch_do_not_mix():
    features = np.stack([random_features(5), random_features(6)])
    boxes = np.stack([SPECIAL, SPECIAL[::-1]])
    both = roi_align(features, boxes)
    for i in range(2):
        alone = roi_align(features[i : i + 1], boxes[i : i + 1])
        np.testing.assert_allclose(both[i], alone[0], atol=1e-6)


def test_features_keep_their_type():
    features = jnp.asarray(random_features(7), jnp.bfloat16)[None]
    out = roi_align(features, jnp.asarray(SPECIAL)[None])
    assert out.dtype == jnp.bfloat16
    full = roi_align(features.astype(jnp.float32), jnp.asarray(SPECIAL)[None])
    np.testing.assert_allclose(out.astype(jnp.float32), full, atol=0.04)


@pytest.mark.parametrize(
    "features, boxes, mask",
    [((6, 9, 3), (1, 2, 4), None), ((1, 6, 9, 3), (2, 2, 4), None), ((1, 6, 9, 3), (1, 2, 5), None),
     ((1, 6, 9, 3), (1, 2, 4), (1, 3))],
)  # fmt: skip
def test_wrong_shapes_are_named(features, boxes, mask):
    with pytest.raises(ValueError, match=r"\["):
        roi_align(jnp.zeros(features), jnp.zeros(boxes), mask=mask and jnp.ones(mask, bool))


@pytest.mark.parametrize("ratio, aligned", KINDS)
def test_equals_torchvision(ratio, aligned):
    """Boxes within the image only: without its compiled kernels torchvision runs a Python form
    that leaves out its own rule for samples beyond [-1, size]."""
    torch = pytest.importorskip("torch")
    try:
        from torchvision.ops import roi_align as reference
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"torchvision does not import here: {error}")
    rng = np.random.default_rng(8)
    features = rng.normal(size=(2, 14, 14, 8)).astype(np.float32)
    corners = np.sort(rng.uniform(0, 1, size=(2, 40, 2, 2)), axis=2).reshape(2, 40, 4)
    boxes = np.concatenate([[SPECIAL[:3]] * 2, corners], axis=1).astype(np.float32)
    maps, pixels = torch.from_numpy(features).permute(0, 3, 1, 2), torch.from_numpy(boxes) * 224
    with torch.compiler.set_stance("force_eager"):
        want = reference(maps, list(pixels), 7, 1 / 16, ratio, aligned)
    want = want.permute(0, 2, 3, 1).reshape(2, -1, 7, 7, 8).numpy()
    got = roi_align(features, boxes, sampling_ratio=ratio, aligned=aligned)
    print("max abs diff to torchvision", np.abs(got - want).max())
    np.testing.assert_allclose(got, want, atol=1e-5)
