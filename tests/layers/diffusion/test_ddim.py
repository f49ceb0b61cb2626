"""DDIM in few steps: diffusers' scheduler as Marigold uses it."""

import numpy as np
import pytest

from streamzoo.layers.diffusion.ddim import DDIM

from ...parity.golden import DATA
from ...parity.golden_marigold import STEPS, numbers

SCHEDULES = {
    "first": DDIM(nothing_kept=False, spacing="leading"),
    "second": DDIM(),
    "noise": DDIM(nothing_kept=False, spacing="leading", answers="noise"),
    "clean": DDIM(answers="clean", whole=True),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_steps_are_diffusers(name):
    schedule = SCHEDULES[name]
    with np.load(DATA / "marigold.npz") as file:
        stored = dict(file)
    np.testing.assert_allclose(schedule.kept, stored[f"{name}_kept"], rtol=1e-4, atol=1e-7)
    for steps in STEPS:
        times = schedule.times(steps)
        np.testing.assert_array_equal(times, stored[f"{name}_times_{steps}"])
        x = numbers(0, 2, 3, 4)
        for k, (time, want) in enumerate(zip(times, stored[f"{name}_walk_{steps}"], strict=True)):
            x = schedule.step(numbers(1 + k, 2, 3, 4), int(time), x, steps)
            np.testing.assert_allclose(x, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 4, 10])  # where they do not divide 1000, steps miss by one
def test_a_network_that_knows_leads_to_what_is_clean(steps):
    schedule = DDIM(whole=True)
    clean, noise = numbers(0, 5), numbers(1, 5)
    times = schedule.times(steps)
    x = noise  # nothing is kept at the first time
    np.testing.assert_allclose(schedule.add_noise(clean, noise, int(times[0])), noise, atol=1e-6)
    for time in times:
        x = schedule.step(schedule.velocity(clean, noise, int(time)), int(time), x, steps)
    np.testing.assert_allclose(x, clean, atol=1e-5)


def test_words_and_numbers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="'even': choose from trailing, leading"):
        DDIM(spacing="even")
    with pytest.raises(ValueError, match="says nothing of a latent"):
        DDIM(answers="noise")
    with pytest.raises(ValueError, match="2000 steps of 1000"):
        DDIM().times(2000)
