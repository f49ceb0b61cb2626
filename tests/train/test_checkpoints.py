"""Checkpoints: whole or not at all, of this model or one clear line."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.train.checkpoints import CheckpointError, Checkpoints
from streamzoo.train.step import State


def state(width=3, value=1.0):
    params = {"blocks": {"layer0": {"up": {"kernel": jnp.full((2, width), value)}}}}
    average = jax.tree.map(lambda a: a + 1, params)
    optimiser = (jnp.zeros(width), (), {"mu": jnp.full(width, value)})
    return State(jnp.int32(3), params, average, optimiser, {"h": jnp.ones((4, 2))}, jnp.int32(-1))


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_what_is_restored_is_what_was_saved(tmp_path):
    with Checkpoints(tmp_path, keep=2) as saved:
        assert saved.last is None
        for step in (3, 6, 9):
            saved.save(step, state(value=step), {"next_index": step}, '{"a": 1}')
        saved.save(9, state(value=100.0), {"next_index": 0}, "{}")  # there is one of this step
    assert sorted(p.name for p in tmp_path.iterdir()) == ["6", "9"]
    with Checkpoints(tmp_path) as saved:
        assert saved.last == 9
        assert saved.about() == {"settings": {"a": 1}, "data": [{"next_index": 9}]}
        same(saved.restore(state()), state(value=9.0))
        same(saved.restore_average(state().params), state(value=9.0).average)
    found = Checkpoints.find(tmp_path)
    assert found and (found.step, found.settings) == (9, {"a": 1})
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".pkl", ".pickle")]


def test_a_state_may_be_donated_while_it_is_written(tmp_path):
    step = jax.jit(lambda t: jax.tree.map(lambda a: a + 1, t), donate_argnums=0)
    tree = {"average": {"x": jnp.zeros(300_000)}, "y": jnp.zeros(300_000)}
    with Checkpoints(tmp_path) as saved:
        for i in range(1, 6):
            tree = step(tree)
            if i == 2:
                saved.save(i, tree, None, "{}")
        saved.wait()
        found = saved.restore(tree)
    assert float(tree["y"].max()) == 5.0
    for leaf in jax.tree.leaves(found):
        np.testing.assert_array_equal(leaf, 2.0)


def test_a_checkpoint_of_another_model_is_one_clear_line(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(3, state(), None, "{}")
        with pytest.raises(CheckpointError) as error:
            saved.restore(state(width=5))
        text = str(error.value)
        assert "\n" not in text and str(tmp_path / "3") in text and "--fresh" in text
        assert "average/blocks/layer0/up/kernel is (2, 3), not (2, 5)" in text
        assert "and 1 more" in text
        other = state()._replace(params={"head": jnp.ones(3)})
        with pytest.raises(CheckpointError, match="layer0/up/kernel is unknown.*head is missing"):
            saved.restore(other)
        with pytest.raises(CheckpointError, match=r"average/a is missing"):
            saved.restore_average({"a": jnp.ones(3)})


def test_a_write_that_was_cut_off_does_not_count(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(3, state(), None, "{}")
    left = tmp_path / "6.orbax-checkpoint-tmp"
    (left / "state").mkdir(parents=True)
    found = Checkpoints.find(tmp_path)
    assert found and found.step == 3
    with Checkpoints(tmp_path) as saved:
        assert saved.last == 3
        same(saved.restore(state()), state())
    assert not left.exists()


def test_nothing_to_restore(tmp_path):
    assert Checkpoints.find(tmp_path / "none") is None and not (tmp_path / "none").exists()
    with Checkpoints(tmp_path) as saved, pytest.raises(CheckpointError, match="no checkpoint in"):
        saved.restore(state())


def test_a_fresh_start_deletes_the_old_ones(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(3, state(), None, "{}")
    with Checkpoints(tmp_path, fresh=True) as saved:
        assert saved.last is None
