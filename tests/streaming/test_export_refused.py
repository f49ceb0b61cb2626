"""Exports that cannot be had, and artefacts that cannot be run, say what would do."""

import sys

import pytest

from streamzoo.streaming.export import export, loop, stablehlo
from streamzoo.streaming.precision import RuntimeRefused

from .test_runtimes import step_of


def test_a_missing_runtime_is_named_with_its_package(monkeypatch):
    monkeypatch.setattr(loop, "_openvino_core", loop._openvino_core.__wrapped__)  # keeps the core
    for module, runtime, words in (
        ("onnxruntime", "onnxruntime", "ONNX Runtime is missing: pip install onnxruntime"),
        ("openvino", "openvino", "OpenVINO is missing: pip install openvino"),
        ("ai_edge_litert.interpreter", "litert", "LiteRT is missing: pip install ai-edge-litert"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(loop.ArtefactError, match=words):
            loop.OPEN[runtime](b"")


def test_a_program_that_depends_on_the_number_of_streams_wants_a_number(tmp_path, monkeypatch):
    """As those of SAM 2 do, which read memory in blocks."""
    step, apply = step_of("tsa", "jax"), stablehlo.apply

    def in_blocks(model, params, card, carry, frames, *rest):
        blocks = 1 if 5 * frames.shape[0] < 4096 else 2
        return apply(model, params, card, carry, frames * blocks, *rest)

    monkeypatch.setattr(stablehlo, "apply", in_blocks)
    go = lambda batch: export(
        step.model, step.params, step.card, tmp_path, to="stablehlo", batch=batch
    )
    with pytest.raises(RuntimeRefused, match="--batch dynamic: the program of .* give a number"):
        go(None)
    assert go(2).bytes > 0
