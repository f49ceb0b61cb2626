"""The examples run as a reader runs them: each in a process of its own, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .test_pages import street

ROOM = Path(__file__).parents[1] / "notebooks/examples"
# name -> words after it, what it must print
RUNS = {
    "watch_a_file": (["street.mp4"], r"0\.00 s .* ms .*\n(.*\n)*seen, in frames: "),
    "train_one_layer": (
        [], r"right on new films: (1\.00|0\.[89]\d)\nclip against stream: \d\.\de-0[5-9]"
    ),
    "step_on_an_accelerator": (
        [], r"gated_delta on tpu: pallas(.*\n)*step\.bin: [\d,]+ bytes for tpu"
    ),
    "export_without_jax": (["street.mp4"], r'"frame": 2|"index": 2'),
    "serve_and_client": (["street.mp4"], r"3 answers, 0 reconnects, 0 missed"),
}  # fmt: skip


def test_every_example_is_run_and_listed():
    names = {path.stem for path in ROOM.glob("*.py")}
    listed = set(re.findall(r"\]\((\w+)\.py\)", (ROOM / "README.md").read_text()))
    assert names == set(RUNS) == listed


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_example_runs(name, tmp_path):
    street(tmp_path / "street.mp4")
    words, pattern = RUNS[name]
    place = dict(os.environ, STREAMZOO_HOME=str(tmp_path / "home"), JAX_PLATFORMS="cpu")
    done = subprocess.run(
        [sys.executable, str(ROOM / f"{name}.py"), *words],
        cwd=tmp_path, env=place, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(pattern, done.stdout), done.stdout
