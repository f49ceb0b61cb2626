"""Two real processes on loopback train, checkpoint, stop and resume together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from streamzoo.train import settings
from streamzoo.train.checkpoints import Checkpoints
from streamzoo.train.logs import read_table
from streamzoo.train.loop import run

TOY = Path(__file__).with_name("toy.py")


def launch(out, *changes, **environment):
    """Exit statuses and outputs of two processes of one run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--distributed", "--config", str(TOY), "--set", f"loop.out={out}", *changes]
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "streamzoo.train", *arguments],
            env={
                **os.environ,
                **environment,
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(index),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        outputs = [child.communicate(timeout=150) for child in children]
    finally:
        for child in children:
            child.kill()
    return [child.returncode for child in children], outputs


@pytest.mark.slow
def test_two_processes_train_stop_and_resume_as_one_would(tmp_path):
    config = settings.override(settings.load_config(TOY), [f"loop.out={tmp_path}/1", "noise=0"])
    alone = run(config.build(), config.loop, log=lambda text: None)
    # SIGTERM goes to both, as when a slice is taken back
    out = tmp_path / "2"
    statuses, outputs = launch(out, "noise=0", "loop.mesh.fsdp=2", TOY_TERM="6")
    assert statuses == [128 + signal.SIGTERM] * 2, outputs
    stopped = len(read_table(out / "log.csv"))
    found = Checkpoints.find(out / "checkpoints")
    assert found and found.step == stopped and 5 < stopped < 24

    statuses, outputs = launch(out, "noise=0", "loop.mesh.data=2")
    assert statuses == [0, 0], outputs
    first, second = (text for text, _ in outputs)
    assert f"going on from step {stopped}" in first and "weights: " in first
    assert "2 processes" in first and "step" not in second  # only the first one tells
    rows = read_table(out / "log.csv")
    assert [row["step"] for row in rows] == list(range(1, 25))
    want = [row["loss"] for row in alone.history]
    np.testing.assert_allclose([row["loss"] for row in rows], want, rtol=1e-5)
    with Checkpoints(out / "checkpoints") as saved:
        assert saved.last == 24 and saved.about()["data"] == [{"next_index": 24}] * 2
        average = saved.restore_average(alone.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), average, alone.params)
