"""Flow matching against Self-Forcing's scheduler, conversions and loss."""

import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.diffusion import FlowSchedule, flow_loss, flow_target

from ..compare import close
from .goldens import golden, needs_goldens

OFFICIAL = FlowSchedule(clean="table")
LISTS = {
    "sf": (1000, 750, 500, 250),
    "rolling": (1000, 800, 600, 400, 200),
    "sdv2": (700, 500, 400, 200),
    "causvid": (1000, 757, 522),
    "diag_init": (1000, 500),
}


@needs_goldens
@pytest.mark.parametrize("shift", [1, 3, 5, 8])
def test_tables_are_the_official_ones(shift):
    z, ours = golden("flow_schedule"), FlowSchedule(shift=float(shift))
    close("sigmas", ours.sigmas, z[f"sigmas_shift{shift}"], 1e-6)
    close("times", ours.times, z[f"timesteps_shift{shift}"], 1e-6)
    close("weights", ours.weights, z[f"weights_shift{shift}"], 1e-5)
    for name, times in LISTS.items():
        close(name, ours.warp(times), z[f"warp_{name}_shift{shift}"], 1e-6)


@needs_goldens
def test_tables_of_other_lengths():
    z = golden("flow_schedule")
    fifty = FlowSchedule(50, 8.0)
    close("sigmas", fifty.sigmas, z["sigmas_50_shift8"], 1e-6)
    close("times", fifty.times, z["timesteps_50_shift8"], 1e-6)
    default = FlowSchedule(100, 3.0, ends=True, smallest=0.003 / 1.002)
    close("default", default.sigmas, z["sigmas_default100_shift3"], 1e-6)


@needs_goldens
def test_noise_flow_and_steps():
    z = {k: v for k, v in golden("flow_schedule").items() if k != "meta"}
    x0, noise, t, flow = (jnp.asarray(z[k]) for k in ("x0", "eps", "t", "flow"))
    noisy = OFFICIAL.add_noise(x0, noise, t)
    close("noisy", noisy, z["xt"], 1e-6)
    close("clean", OFFICIAL.clean_of(flow, noisy, t), z["x0_from_flow"], 1e-6)
    n = z["flow_from_x0"].shape[0]
    close("flow", OFFICIAL.flow_of(x0[:n], noisy[:n], t[:n]), z["flow_from_x0"], 1e-5)
    close("step", OFFICIAL.step(flow[:n], t[:n], noisy[:n]), z["step"], 1e-6)
    close("to the end", OFFICIAL.step(flow, t, noisy, last=True), z["step_to_final"], 1e-6)
    close("target", flow_target(x0, noise)[:n], z["training_target"][:n], 1e-6)
    close("weight", OFFICIAL.weight(t), z["training_weight"], 1e-5)
    close("loss", flow_loss(flow, x0, noise), z["flow_loss"], 1e-6)


@needs_goldens
def test_times_at_which_scores_are_compared():
    z = golden("flow_schedule")
    close("times", OFFICIAL.training_time(z["dmd_raw_t"]), z["dmd_shifted_clamped_t"], 1e-6)


def test_a_clean_latent_is_clean_unless_the_official_table_is_wanted():
    x, noise = jnp.ones((2, 3)), jnp.full((2, 3), 7.0)
    ours = FlowSchedule().add_noise(x, noise, jnp.zeros(2))
    np.testing.assert_array_equal(ours, x)
    close("the table's smallest sigma", OFFICIAL.sigma(jnp.zeros(1)), [0.00498], 1e-4)
    assert float(jnp.abs(OFFICIAL.add_noise(x, noise, jnp.zeros(2)) - x).max()) > 0.02


def test_times_per_frame_broadcast_over_the_rest():
    x, noise = jnp.zeros((2, 3, 4, 5)), jnp.ones((2, 3, 4, 5))
    time = jnp.asarray([[0.0, 1000.0, 1000.0], [1000.0, 0.0, 0.0]])
    noisy = FlowSchedule().add_noise(x, noise, time)
    np.testing.assert_array_equal(noisy[..., 0, 0], time / 1000)


@pytest.mark.parametrize("times", [(500, 750), (1200, 10), (10, -1)])
def test_times_that_do_not_fall_are_refused(times):
    with pytest.raises(ValueError, match="fall from 1000 to 0"):
        FlowSchedule().warp(times)


def test_a_schedule_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one step"):
        FlowSchedule(0)
    with pytest.raises(ValueError, match="shift of at least 1"):
        FlowSchedule(shift=0.5)
