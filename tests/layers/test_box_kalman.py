"""The filter of boxes: four small ones are the 8 x 8 one of the textbook."""

import jax.numpy as jnp
import numpy as np

from streamzoo.layers import box_kalman as kalman

MOTION = np.eye(8) + np.eye(8, k=4)
OBSERVED = np.eye(4, 8)


def matrices(mean, share_position, share_velocity):
    size = np.tile(mean[2:4], 2)
    return np.diag(np.concatenate([share_position * size, share_velocity * size]) ** 2)


def textbook(boxes):
    """x, P of an 8 x 8 Kalman filter over boxes x1, y1, x2, y2; None: not seen."""
    centre = lambda b: np.concatenate([(b[:2] + b[2:]) / 2, b[2:] - b[:2]])
    x = np.concatenate([centre(boxes[0]), np.zeros(4)])
    p = matrices(x, 2 / 20, 10 / 160)
    for box in boxes[1:]:
        noise = matrices(x, 1 / 20, 1 / 160)
        x, p = MOTION @ x, MOTION @ p @ MOTION.T + noise
        if box is None:
            continue
        r = matrices(x, 1 / 20, 1 / 160)[:4, :4]
        gain = p @ OBSERVED.T @ np.linalg.inv(OBSERVED @ p @ OBSERVED.T + r)
        x = x + gain @ (centre(box) - OBSERVED @ x)
        p = (np.eye(8) - gain @ OBSERVED) @ p
    return x, p


def path(seed, steps=30, scale=(1.0, 1.0)):
    rng = np.random.default_rng(seed)
    low = np.cumsum(rng.normal(0.004, 0.003, (steps, 2)), axis=0) + 0.2
    size = np.array([0.08, 0.2]) * rng.normal(1, 0.05, (steps, 2))
    return np.concatenate([low, low + size], axis=1) * np.tile(scale, 2)


def ours(boxes):
    state = kalman.start(jnp.asarray(boxes[0]))
    for box in boxes[1:]:
        state = kalman.predict(state)
        if box is not None:
            state = kalman.update(state, jnp.asarray(box))
    return state


def test_it_is_the_8_by_8_filter():
    for seed in range(4):
        boxes = list(path(seed))
        for gap in (5, 6, 7, 20):
            boxes[gap] = None
        state = ours(boxes)
        x, p = textbook(boxes)
        np.testing.assert_allclose(np.asarray(state.mean).T.reshape(-1), x, rtol=2e-4, atol=1e-6)
        kept = np.stack([np.diag(p)[:4], np.diag(p, 4), np.diag(p)[4:]], axis=1)
        np.testing.assert_allclose(np.asarray(state.cov), kept, rtol=2e-3)
        rest = p - np.diag(np.diag(p)) - np.diag(np.diag(p, 4), 4) - np.diag(np.diag(p, -4), -4)
        assert np.abs(rest).max() < 1e-12  # what is not kept is zero


def test_the_unit_does_not_matter():
    """Pixels or fractions, and another unit for each axis."""
    small, large = ours(path(1)), ours(path(1, scale=(640, 272)))
    scale = np.array([640, 272, 640, 272])
    np.testing.assert_allclose(small.mean * scale[:, None], large.mean, rtol=1e-4)


def test_a_box_that_shrinks_unseen_stays_a_box():
    state = kalman.start(jnp.array([0.1, 0.1, 0.3, 0.5]))
    for size in (0.3, 0.2, 0.1, 0.05):
        state = kalman.update(kalman.predict(state), jnp.array([0.1, 0.1, 0.1 + size, 0.1 + size]))
    for _ in range(60):
        state = kalman.predict(state)
    box = np.asarray(kalman.to_corners(state))
    assert np.isfinite(box).all() and (box[2:] > box[:2]).all()
    assert np.isfinite(np.asarray(state.cov)).all()


def test_many_frames_at_once_are_as_one_after_the_other():
    """Of a box that keeps its size; and the state of one that is seen often is no special one."""
    state = ours(list(path(2)))
    still = state._replace(mean=state.mean.at[2:, 1].set(0.0))
    for frames in (1, 2, 3, 7, 40):
        one = still
        for _ in range(frames):
            one = kalman.predict(one)
        many = kalman.predict(still, jnp.asarray(frames))
        np.testing.assert_allclose(many.mean, one.mean, rtol=1e-5)
        np.testing.assert_allclose(many.cov, one.cov, rtol=1e-4)
