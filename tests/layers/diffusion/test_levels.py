"""Matrices of levels against Diffusion Forcing's, and the laws of partitions."""

import re

import jax
import numpy as np
import pytest

from streamzoo.layers.diffusion import levels

from .goldens import golden, needs_goldens


@needs_goldens
def test_matrices_are_the_official_ones():
    forms = {
        "pyramid": levels.pyramid,
        "trapezoid": lambda h, t, u: levels.trapezoid(h, t, u, official=True),
        "autoregressive": levels.autoregressive,
        "full": levels.full_sequence,
    }
    tables = {k: v for k, v in golden("diffusion_forcing_schedule").items() if "_T" in k}
    for name, want in tables.items():
        form, steps, horizon, uncertainty = re.fullmatch(
            r"(\w+)_T(\d+)_h(\d+)(?:_u([\d.]+))?", name
        ).groups()
        args = [int(horizon), int(steps), *([float(uncertainty)] if uncertainty else [])]
        np.testing.assert_array_equal(forms[form](*args), want, err_msg=name)
    assert len(tables) == 24


@pytest.mark.parametrize("horizon", [5, 6])
def test_our_trapezoid_mirrors_and_denoises_every_frame(horizon):
    matrix = levels.trapezoid(horizon, 4)
    np.testing.assert_array_equal(matrix, matrix[:, ::-1])
    assert (matrix[0] == 4).all()
    assert (levels.trapezoid(6, 4, official=True)[0] == 0).sum() == 1  # the official slip


def test_one_chunk_is_ordinary_diffusion_and_single_frames_are_the_diagonal():
    whole = levels.Partition.of(frames=8, steps=4, chunks=1)
    np.testing.assert_array_equal(whole.matrix(), levels.full_sequence(8, 4))
    single = levels.Partition.of(frames=4, steps=4, chunks=4)
    np.testing.assert_array_equal(single.matrix(), [[1, 2, 3, 4], [0, 1, 2, 3]])
    assert (whole.latency, single.latency) == (7, 3)
    # a steady buffer is a stretch of the pyramid
    np.testing.assert_array_equal(single.matrix()[0], levels.pyramid(8, 4)[4, 1:5])


def test_a_chunk_is_clean_after_its_steps_and_takes_the_place_in_front():
    part = levels.Partition(reference=2, chunks=5, size=3, steps=2)
    matrix = part.matrix()
    assert (matrix.shape, part.frames, part.levels) == ((3, 17), 17, 10)
    assert (matrix[:, :2] == 0).all() and (matrix[-1, 2:5] == 0).all()
    np.testing.assert_array_equal(matrix[-1, 5:], matrix[0, 2:-3])
    assert (matrix[0, -3:] == part.levels).all()
    # RAIN: four groups of four
    rain = levels.Partition(chunks=4, size=4)
    np.testing.assert_array_equal(rain.matrix()[0], np.repeat([1, 2, 3, 4], 4))
    # calls: the first chunk is ready after all levels, each later one after ``steps`` more
    assert [part.calls(n) for n in (1, 3, 4, 6)] == [10, 10, 12, 12]


def test_a_partition_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"3 chunks divide .* 8 frames and 4 steps; 1, 2, 4 would"):
        levels.Partition.of(frames=8, steps=4, chunks=3)
    with pytest.raises(ValueError, match="at least 1"):
        levels.Partition(chunks=0)


@needs_goldens
def test_steps_per_chunk_count_the_calls_of_diagonal_distillation():
    calls = golden("diagdistill_rollout")["call_t"]
    ours = levels.DIAGONAL_DISTILLATION
    assert ours.calls(10) == len(calls) == 4 + 3 + 8 * 2
    assert ours.calls(10, clean_pass=True) == len(calls) + 10
    want = [t for i in range(10) for t in ours.of(i)]
    np.testing.assert_allclose(calls, want, rtol=1e-5)


def test_times_per_frame_are_independent_and_each_is_uniform():
    times = np.asarray(levels.per_frame_times(jax.random.key(0), (4000, 6), block=3))
    np.testing.assert_array_equal(times[:, :1].repeat(3, 1), times[:, :3])
    for column in (0, 5):
        counts = np.histogram(times[:, column], 10, (0, 1000))[0]
        assert abs(counts - 400).max() < 80
    assert abs(np.corrcoef(times[:, 0], times[:, 5])[0, 1]) < 0.05
    with pytest.raises(ValueError, match="do not divide"):
        levels.per_frame_times(jax.random.key(0), (2, 7), block=3)
