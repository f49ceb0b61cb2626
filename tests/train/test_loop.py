"""The loop: stopped at any moment it goes on to the same bits; bad steps change nothing."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from streamzoo.train import loop as loop_file
from streamzoo.train import settings
from streamzoo.train.__main__ import main
from streamzoo.train.logs import Table, plot, read_table, smooth
from streamzoo.train.loop import Interrupted, Job, TrainingError, run
from streamzoo.train.owner import FILE, FolderInUse, Owner

TOY = Path(__file__).with_name("toy.py")


def toy(out, *changes):
    return settings.override(settings.load_config(TOY), [f"loop.out={out}", *changes])


def train(out, *changes, **options):
    config = toy(out, *changes)
    return run(config.build(), config.loop, log=lambda text: None, **options)


def command(out, *changes):
    return ["--config", str(TOY), "--set", f"loop.out={out}", *changes]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped."""
    out = tmp_path_factory.mktemp("whole")
    assert main(command(out)) == 0
    return out


@pytest.mark.slow
def test_a_profile_is_whole_though_the_run_ends_within_it(tmp_path):
    train(tmp_path, "loop.steps=12", f"loop.profile={tmp_path / 'profile'}")
    assert [p for p in (tmp_path / "profile").rglob("*.xplane.pb") if p.stat().st_size]


def test_every_step_is_logged_and_the_loss_falls(whole):
    rows = read_table(whole / "log.csv")
    assert [row["step"] for row in rows] == list(range(1, 25))
    assert np.mean([r["loss"] for r in rows[-6:]]) < 0.7 * np.mean([r["loss"] for r in rows[:6]])
    assert (whole / "weights.safetensors").is_file() and (whole / "curves.png").is_file()


def test_killed_at_a_random_step_it_resumes_to_the_last_bit(whole, tmp_path):
    step = random.randint(7, 22)
    child = subprocess.run(
        [sys.executable, "-m", "streamzoo.train", *command(tmp_path)],
        env={**os.environ, "TOY_KILL": str(step)},
        capture_output=True,
    )
    assert child.returncode == -9, child.stderr
    assert len(read_table(tmp_path / "log.csv")) < 24
    assert main(command(tmp_path)) == 0
    assert (tmp_path / "log.csv").read_bytes() == (whole / "log.csv").read_bytes(), step
    # the header of a weights file holds the settings, which differ in the folder
    files = [(folder / "weights.safetensors").read_bytes() for folder in (tmp_path, whole)]
    arrays = [data[8 + int.from_bytes(data[:8], "little") :] for data in files]
    assert arrays[0] == arrays[1]


def test_sigterm_writes_a_checkpoint_and_the_same_command_goes_on(
    whole, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("TOY_TERM", "8")
    assert main(command(tmp_path)) == 143
    text = capsys.readouterr().out
    assert "SIGTERM: stopped after step" in text and "the same command goes on" in text
    done = len(read_table(tmp_path / "log.csv"))
    assert done in (8, 9) and (tmp_path / "checkpoints" / str(done)).is_dir()
    monkeypatch.delenv("TOY_TERM")
    assert main(command(tmp_path)) == 0
    assert f"going on from step {done}" in capsys.readouterr().out
    assert (tmp_path / "log.csv").read_bytes() == (whole / "log.csv").read_bytes()


def test_an_iterator_without_positions_is_wound_forward(whole, tmp_path):
    config = toy(tmp_path)
    job = config.build()

    def plain(count):
        """Batches as a generator, that ends in an exception after ``count`` of them."""

        def batches(i, n):
            for k, batch in enumerate(job.batches(i, n)):
                if k == count:
                    raise OSError("the disk is gone")
                yield batch

        return Job(job.task, batches)

    with pytest.raises(Interrupted, match="the disk is gone"):
        run(plain(11), config.loop, log=lambda text: None)
    result = run(plain(99), config.loop, log=lambda text: None)
    assert result.history == read_table(whole / "log.csv")


def test_micro_batches_equal_the_whole_batch(tmp_path):
    one = train(tmp_path / "1", "noise=0", "loop.steps=6")
    four = train(tmp_path / "4", "noise=0", "loop.steps=6", "loop.accumulate=4")
    losses = [[row["loss"] for row in r.history] for r in (one, four)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one.params, four.params)
    memory = one.state.memory["h"], four.state.memory["h"]
    np.testing.assert_allclose(*memory, atol=1e-5)
    assert np.abs(memory[0]).max() > 0.1


def test_not_a_number_stops_the_run_and_names_the_last_good_checkpoint(tmp_path, capsys):
    status = main(command(tmp_path, "data.nan_at=12", "loop.log_every=50"))
    error = capsys.readouterr().err
    assert status == 1 and error.count("\n") == 1
    assert "not finite at step 13" in error and str(tmp_path / "checkpoints" / "10") in error
    assert len(read_table(tmp_path / "log.csv")) == 13


def test_a_bad_step_changes_nothing(tmp_path):
    config = toy(tmp_path)
    mesh = loop_file.sharding.make_mesh(config.loop.mesh, 8)
    task = config.build().task
    state, optimiser = loop_file.start(task, config.loop, mesh)
    step, names = loop_file.make_step(task, optimiser, config.loop, mesh, state)
    good = next(config.build().batches(0, 1))
    bad = {**good, "y": good["y"] * np.nan}
    state, _ = step(state, task.constants, good)
    before = jax.device_get(state)
    state, _ = step(state, task.constants, bad)
    state, row = step(state, task.constants, good)  # nor does anything that follows
    after = jax.device_get(state)
    jax.tree.map(np.testing.assert_array_equal, before[1:-1], after[1:-1])
    assert (before.bad, after.bad, after.step) == (-1, 2, 3)
    assert row[names.index("bad")] == 2


def test_a_loss_that_diverges_stops_the_run(tmp_path):
    changes = "data.scale_at=16", "loop.diverge=3"
    with pytest.raises(TrainingError, match="diverges.* at step 20 .*checkpoints/15"):
        train(tmp_path, *changes)
    assert len(train(tmp_path, changes[0], fresh=True).history) == 24  # off by default


def test_data_that_ends_is_an_error(tmp_path):
    config = toy(tmp_path)
    job = Job(config.build().task, lambda i, n: iter([next(config.build().batches(i, n))]))
    with pytest.raises(TrainingError, match="the data ended after step 1 of 24"):
        run(job, config.loop, log=lambda text: None)


def test_the_table_drops_lost_steps_and_a_line_cut_off(tmp_path):
    path = tmp_path / "log.csv"
    Table(path).add([{"step": i, "loss": 0.1 * i} for i in range(1, 6)])
    with path.open("a") as file:
        file.write("6,0.")
    table = Table(path, 3)
    assert [row["step"] for row in table.rows] == [1, 2, 3]
    with path.open("a") as file:  # what a power cut leaves
        file.write("\0\0\0,\0\0\n4,x\n")
    table = Table(path, 3)
    assert [row["step"] for row in table.rows] == [1, 2, 3]
    table.add([{"step": 4, "loss": 0.1 + 0.3}])
    assert read_table(path) == table.rows and table.rows[-1]["loss"] == 0.1 + 0.3
    table.add([{"step": 5, "loss": 1.0, "new": 2.0}])
    assert list(read_table(path)[0]) == ["step", "loss", "new"]


def test_plot(tmp_path):
    rows = [
        {"step": i, "loss": 1 / i, "attention/0": 1.0, "attention/1": 2.0, "weight/attention/0": i,
         "weight/attention/1": 2 * i, "weight/roi": 1.0}
        for i in range(1, 9)
    ]  # fmt: skip
    path = plot(rows, tmp_path / "a.png")
    assert path and path.read_bytes()[:4] == b"\x89PNG"
    assert plot([], path) is None
    assert smooth([1.0, 3.0, 5.0], 2) == [1.0, 2.0, 4.0]


def test_tensorboard_events(tmp_path):
    pytest.importorskip("tensorboardX")
    train(tmp_path, "loop.tensorboard=true")
    data = b"".join(p.read_bytes() for p in (tmp_path / "tensorboard").iterdir())
    assert b"weight/attention/0" in data and b"evaluation/size" in data


def test_a_folder_in_use_is_refused_and_one_that_is_taken_over_is_left(tmp_path, monkeypatch):
    with Owner(tmp_path), pytest.raises(FolderInUse, match="is in use by process"):
        train(tmp_path)
    assert not (tmp_path / "checkpoints").exists()

    monkeypatch.setattr("streamzoo.train.owner.BEAT", 0.01)
    with Owner(tmp_path, beat=0.01) as owner:
        record = json.loads((tmp_path / FILE).read_text())
        (tmp_path / FILE).write_text(json.dumps(record | {"token": "another"}))
        while not owner._lost:
            time.sleep(0.01)
        with pytest.raises(FolderInUse, match="took this folder over"):
            train(tmp_path, owner=owner)
    assert not read_table(tmp_path / "log.csv")  # not one step


@pytest.mark.slow
def test_a_file_that_cannot_grow_is_one_line_and_the_same_command_goes_on(tmp_path):
    """A disk that is full, as near as a test may come to it: files of 40 KB at most."""
    wide = ["width=64", "data.size=64", "loop.steps=6", "loop.checkpoint_every=3"]
    words = [sys.executable, "-m", "streamzoo.train", *command(tmp_path / "run", *wide)]
    limited = ["bash", "-c", 'ulimit -f 40; exec "$@"', "bash", *words]
    alone = dict(os.environ, JAX_ENABLE_COMPILATION_CACHE="false")
    child = subprocess.run(limited, capture_output=True, text=True, env=alone)
    assert child.returncode == 75, child.stderr
    assert child.stderr.startswith("error: ") and child.stderr.count("\n") == 1, child.stderr
    assert "step 3 could not be written" in child.stderr
    child = subprocess.run(words, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr


def test_data_that_cannot_be_read_names_its_step(tmp_path):
    config = toy(tmp_path)
    job = config.build()

    def broken(index, count):
        yield from itertools.islice(job.batches(index, count), 2)
        raise OSError(5, "Input/output error", "/data/video")

    with pytest.raises(Interrupted) as error:
        run(dataclasses.replace(job, batches=broken), config.loop, log=lambda text: None)
    assert "the data of step 3 cannot be read (/data/video: input/output error" in str(error.value)
