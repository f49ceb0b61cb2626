"""A new task needs no change in the trainer: the page's captions, words out and no boxes, train,
are stopped, go on to the last bit and are evaluated by the same commands as all others."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from streamzoo.train.__main__ import evaluate, main
from streamzoo.zoo.files import load_file

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The block under "A task", saved as the page says."""
    _, _, text = PAGE.read_text().partition("## A task")
    path = tmp_path_factory.mktemp("page") / "captions.py"
    found = re.search(r"```python\n(.*?)```", text, re.S)
    assert found
    path.write_text(found[1])
    return path


def train(config, out, steps, *more):
    changes = [f"loop.out={out}", f"loop.steps={steps}", "loop.log_every=1"]
    optim = ["loop.optim.learning_rate=2e-2", "loop.optim.warmup=0.1", "loop.optim.ema=0.5"]
    optim.append("loop.tensorboard=False")
    assert main(["--config", str(config), "--set", *changes, *optim, *more]) == 0
    return load_file(out / "weights.safetensors")[0]["params"]


@pytest.mark.slow
def test_captions_are_learned_and_evaluated_by_the_commands(config, tmp_path, capsys):
    train(config, tmp_path / "run", 120)
    said = capsys.readouterr().out
    during = re.search(r"evaluation: words (\S+)  captions (\S+)", said)
    assert during and float(during[1]) > 0.9  # 2 of 4 words are the same in every caption
    weights = str(tmp_path / "run" / "weights.safetensors")
    assert evaluate([weights, "--config", str(config)]) == 0
    after = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert float(after["words"]) == pytest.approx(float(during[1]), abs=1e-3)
    assert float(after["captions"]) == pytest.approx(float(during[2]), abs=1e-3)


@pytest.mark.slow
def test_captions_that_were_stopped_go_on_to_the_last_bit(config, tmp_path):
    whole = train(config, tmp_path / "whole", 6)
    told = '"""Evaluation runs the model, word by word."""\n'
    stop = f"{told}        import os, signal\n        os.kill(os.getpid(), signal.SIGTERM)\n"
    stopping = tmp_path / "captions.py"
    stopping.write_text(config.read_text().replace(told, stop))
    with pytest.raises(AssertionError):  # its status is 143
        train(stopping, tmp_path / "parts", 6, "loop.eval_every=3")
    lines = len((tmp_path / "parts" / "log.csv").read_text().splitlines())
    assert 1 < lines < 7  # stopped on the way
    parts = train(config, tmp_path / "parts", 6)
    for one, other in zip(flat(whole), flat(parts), strict=True):
        np.testing.assert_array_equal(one, other)
    log = [(tmp_path / name / "log.csv").read_text() for name in ("whole", "parts")]
    assert losses(log[0]) == losses(log[1])


def flat(tree):
    return [a for _, b in sorted(tree.items()) for a in (flat(b) if isinstance(b, dict) else [b])]


def losses(log):
    header, *rows = log.splitlines()
    at = header.split(",").index("loss")
    return [row.split(",")[at] for row in rows]
