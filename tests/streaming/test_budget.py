"""A step's budget against products that are counted by hand."""

from __future__ import annotations

import pytest

from streamzoo.streaming.budget import Budget, budget
from streamzoo.streaming.devices import DEVICES, Device, table
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


def test_a_device_is_limited_by_products_bytes_or_memory():
    device = Device("toy", 1, macs=1e9, bandwidth=1e9, memory=1000, source="none", on_chip=0)
    need = lambda **k: Budget(**{"parameter_bytes": 400, "carry_bytes": 50, "frame_bytes": 50,
                                 "macs": 1, "peak_bytes": 0, **k})  # fmt: skip
    assert device.rate(need(macs=10_000_000)) == (100, "products")
    assert device.rate(need()) == (pytest.approx(1e9 / (100 + 50 + 50)), "bytes")
    assert device.rate(need(parameter_bytes=4000)) == (0, "memory")
    chip = Device("chip", 1, macs=1e9, bandwidth=1e9, memory=1000, source="none", on_chip=100)
    assert chip.rate(need()) == (pytest.approx(1e9 / 100), "bytes")  # its weights stay there


def test_the_deployment_table_of_a_model_of_one_gigabyte():
    big = Budget(10**12, 4 * 10**9, 10**6, 10**6, 0)
    lines = table(big)
    assert len(lines) == len(DEVICES) and all(device.source for device in DEVICES)
    assert lines[0].startswith("USB accelerator (2 W): at most 0.5 frames/s")
    assert "camera box (15 W): at most 10 frames/s, by its products" in lines
    assert "edge server (72 W): at most 121 frames/s, by its products" in lines
    assert "cloud accelerator: at most 197 frames/s, by its products" in lines
