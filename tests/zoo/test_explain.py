"""Registered models take the kernel that their temporal layer was given, at their own shapes."""

from __future__ import annotations

import pytest

from streamzoo.streaming.cli import main
from streamzoo.zoo import model_card
from streamzoo.zoo.explain import explain_model

SIZES = ("lite0", "mi16", "ti16", "s16", "b16")
OPS = {
    "swa": ("ring_attention",),
    "gdn": ("gated_delta",),
    "hybrid": ("gated_delta", "ring_attention"),
}
every = pytest.mark.parametrize(
    "name",
    [
        pytest.param(f"{kind}-{size}", marks=[] if size == "s16" else pytest.mark.slow)
        for kind in OPS
        for size in SIZES
    ],
)


def on(choices, platform):
    """The operations on a platform, each with all the implementations that it took."""
    took: dict[str, set[str]] = {}
    for choice in choices:
        if choice.platform == platform:
            took.setdefault(choice.op, set()).add(choice.implementation)
    return took


@every
def test_a_temporal_layer_takes_its_kernel_on_a_tpu(name):
    took = on(explain_model(model_card(name)).choices, "tpu")
    for op in OPS[name.split("-")[0]]:
        assert took[op] == {"pallas"}
    assert took["attention"] == {"library"}  # of the encoder in front


def test_what_takes_no_kernel_says_why():
    choices = explain_model(model_card("swa-palm")).choices
    (ring, *_) = [c for c in choices if c.op == "ring_attention" and c.platform == "tpu"]
    assert ring.implementation == "reference"
    assert "1 tokens per frame" in ring.refused["pallas"]


def test_the_command_prints_it_and_says_what_takes_no_frames(capsys):
    assert main(["info", "swa-mi16", "--kernels"]) == 0
    assert "ring_attention on tpu: pallas" in " ".join(capsys.readouterr().out.split())
    for name in ("silero-vad", "smollm2-135m"):
        assert main(["info", name, "--kernels", "--budget"]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "no kernels per frame" in said and "no budget per frame" in said and "carry" in said
