"""A step's budget against products that are counted by hand."""

from __future__ import annotations

import pytest

from streamzoo.streaming.budget import budget
from streamzoo.zoo import model_card, model_config


def test_multiply_accumulates_are_those_of_the_products():
    card = model_card("tsa-mi16")
    config = model_config("tsa-mi16")
    found = budget(card)
    tokens, dim = (96 // 16) ** 2, config.dim
    hidden = int(dim * config.mlp_ratio)
    block = tokens * dim * (3 * dim + dim + 2 * hidden) + 2 * tokens * tokens * dim
    products = tokens * 3 * 16**2 * dim + config.depth * block
    # heads, norms, activations and softmax come on top
    assert products < found.macs < 1.15 * products
    assert found.carry_bytes == config.depth * tokens * dim // 8 * 4
    assert found.frame_bytes == 96 * 96 * 3
    assert found.read_bytes == found.parameter_bytes + found.carry_bytes + found.frame_bytes
    assert found.read_bytes < found.peak_bytes < 2 * found.read_bytes
    told = found.lines()
    assert f"{found.macs * 15 / 1e9:.2f} GMAC/s" in told["per second"]


def test_what_has_no_step_has_no_budget():
    with pytest.raises(ValueError, match="videomae-s16 has no step"):
        budget(model_card("videomae-s16"))
