"""Checkpoints: whole or not at all, of this model or one clear line."""

from __future__ import annotations

import errno
import os
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.train.checkpoints import SUMS, CheckpointError, Checkpoints, WriteError
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


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A folder with the checkpoints of steps 3, 6 and 9."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with Checkpoints(folder, keep=3) as saved:
        for step in (3, 6, 9):
            saved.save(step, state(value=step), {"next_index": step}, '{"a": 1}')
    return folder


def hurt(path, how):
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        os.truncate(path, 0)
    elif how == "cut":
        os.truncate(path, len(data) // 2)
    else:  # one bit of one byte, the size as before
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :])


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "flipped"])
def test_damage_to_any_file_of_the_newest_is_found(three, tmp_path, how):
    """Every file of a checkpoint, one after the other."""
    files = [p.relative_to(three / "9") for p in (three / "9").rglob("*") if p.is_file()]
    assert len(files) > 8
    for number, name in enumerate(f for f in files if (three / "9" / f).stat().st_size):
        folder = tmp_path / str(number)
        shutil.copytree(three, folder)
        hurt(folder / "9" / name, how)
        found = Checkpoints.find(folder)
        assert found and found.step == 6 and set(found.damaged) == {9}, name
        assert found.settings == {"a": 1}


@pytest.mark.parametrize("text", ["[]", "null", "7", '"x"', '{"state/d/x": 3}', '{"a": ["b", 1]}'])
def test_json_of_another_kind_is_damage_too(three, tmp_path, text):
    for number, name in enumerate(("about/metadata", SUMS)):
        folder = tmp_path / str(number)
        shutil.copytree(three, folder)
        (folder / "9" / name).write_text(text)
        found = Checkpoints.find(folder)
        assert found and found.step == 6 and "cannot be read" in found.damaged[9]


@pytest.mark.parametrize("how, name", [("empty", "about/metadata"), ("flipped", "state/d/*")])
def test_a_damaged_newest_checkpoint_is_set_aside_and_said(three, tmp_path, how, name):
    folder = tmp_path / "checkpoints"
    shutil.copytree(three, folder)
    for path in (folder / "9").glob(name):
        hurt(path, how)
    with Checkpoints(folder, keep=3) as saved:
        assert saved.last == 6
        (note,) = saved.notes
        assert "step 9 is damaged" in note and str(folder / "damaged-9") in note
        assert "going on from step 6" in note and "\n" not in note
        same(saved.restore(state()), state(value=6.0))
        assert saved.about()["data"] == [{"next_index": 6}]
        saved.save(9, state(value=90.0), None, "{}")  # the step is written again
    with Checkpoints(folder, keep=3) as saved:
        assert saved.last == 9 and not saved.notes
        same(saved.restore(state()), state(value=90.0))


def test_when_none_is_whole_one_line_says_so_and_nothing_is_moved(three, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(three, folder)
    for path in folder.glob("*/about/metadata"):
        hurt(path, "empty")
    with pytest.raises(CheckpointError) as error:
        Checkpoints(folder)
    assert "9: about/metadata" in str(error.value) and "--fresh" in str(error.value)
    assert "\n" not in str(error.value) and {"3", "6", "9"} <= {p.name for p in folder.iterdir()}


def test_a_run_of_before_there_were_checksums_goes_on(three, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(three, folder)
    (folder / "9" / SUMS).unlink()  # one without, among others with: it was not finished
    found = Checkpoints.find(folder)
    assert found and found.step == 6 and found.damaged == {9: "it was not finished"}
    for path in folder.glob(f"*/{SUMS}"):
        path.unlink()
    found = Checkpoints.find(folder)
    assert found and found.step == 9 and not found.damaged
    with Checkpoints(folder) as saved:
        same(saved.restore(state()), state(value=9.0))
    # what nobody can tell by checksums is still one line
    for path in (folder / "9" / "state" / "d").iterdir():
        hurt(path, "empty")
    with Checkpoints(folder) as saved, pytest.raises(CheckpointError) as error:
        saved.restore(state())
    assert "cannot be read" in str(error.value) and "\n" not in str(error.value)


def test_what_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device", "/x/y")

    with pytest.raises(WriteError) as error, Checkpoints(tmp_path) as saved:
        monkeypatch.setattr(saved._manager, "save", full)
        saved.save(3, state(), None, "{}")
    text = str(error.value)
    assert "step 3 could not be written" in text and "the disk is full" in text
    assert "the same command goes on" in text and "\n" not in text


def test_checksums_are_written_as_soon_as_the_checkpoint_is(tmp_path):
    """Not only when somebody waits for it: power may fail before that."""
    with Checkpoints(tmp_path) as saved:
        saved.save(3, state(), None, "{}")
        deadline = time.monotonic() + 60
        while not (tmp_path / "3" / SUMS).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / "3" / SUMS).exists()
