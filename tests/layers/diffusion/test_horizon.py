"""FASTER's schedule against compute_HAS, and actions that come one by one."""

import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.diffusion.horizon import HorizonSchedule, stream_actions

from ..compare import close
from .goldens import golden, needs_goldens


@needs_goldens
@pytest.mark.parametrize("horizon", [50, 10, 16])
def test_times_are_those_of_compute_has(horizon):
    z = golden("faster_has")
    delay = jnp.asarray([d % horizon for d in z["delays"]], jnp.int32)
    for alpha in (0.6, 1.0):
        for start in (0.9, 0.5):
            schedule, name = HorizonSchedule(alpha, start), f"H{horizon}_a{alpha}_u{start}"
            passes = [jnp.full((4,), 1 - i / 10, jnp.float32) for i in range(11)]
            times = np.stack([schedule.times(t, horizon, delay) for t in passes])
            close(name, times, z[f"{name}:t"], 3e-6)
            close(name, np.diff(times, axis=0), z[f"{name}:dt"], 5e-6)
            np.testing.assert_array_equal(times[1:] < schedule.ready, z[f"{name}:ready"])
    drawn = jnp.asarray([0.001, 0.3, 0.7, 0.999])
    train = HorizonSchedule().times(drawn, horizon, jnp.asarray([0, 3, 7, 9], jnp.int32), False)
    close("a drawn time", train, z[f"H{horizon}:train_t_b1"], 3e-6)


@needs_goldens
def test_actions_stream_as_the_official_ones():
    z = golden("faster_has")
    head = lambda x, t: x @ z["stream_A"] + z["stream_c"][None, None] + t[..., None]
    got = stream_actions(
        HorizonSchedule(),
        head,
        jnp.asarray(z["stream_x0"]),
        jnp.asarray(z["stream_prefix"]),
        jnp.asarray(z["stream_delay"]),
    )
    close("actions", got.x, z["stream_x"], 1e-5)
    np.testing.assert_array_equal(got.ready, z["stream_newly_ready"])


def test_the_actions_that_are_carried_out_are_seen_by_the_others():
    noise, prefix, delay = jnp.zeros((1, 8, 1)), jnp.full((1, 8, 1), 5.0), jnp.asarray([3])
    mean = lambda x, t: jnp.broadcast_to(x.mean(axis=1, keepdims=True), x.shape)
    got = np.asarray(stream_actions(HorizonSchedule(), mean, noise, prefix, delay, steps=2).x)
    np.testing.assert_array_equal(got[:, 0, :3], 5)
    assert (got[0, 0, 3:] < 0).all()  # moved by the prefix's mean, as the noise is 0


def test_the_first_action_is_ready_after_one_pass_and_the_last_after_all():
    zero = jnp.zeros((1, 16, 2))
    got = stream_actions(
        HorizonSchedule(), lambda x, t: x, zero, zero, jnp.zeros(1, jnp.int32), steps=10
    )
    when = np.asarray(got.ready[:, 0]).argmax(axis=0)
    assert when[0] == 0 and when[-1] == 9 and (np.diff(when) >= 0).all()
    assert (np.asarray(got.ready).sum(axis=0) == 1).all()
    with pytest.raises(ValueError, match="start in 0"):
        HorizonSchedule(start=1.0)
