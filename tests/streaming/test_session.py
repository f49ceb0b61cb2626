"""A session takes whatever ``load`` takes, and says so where a model has no stream."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save as to_bytes

from streamzoo import Session, Step, preprocess, zoo
from streamzoo.streaming.track import Prompt, TrackSession
from streamzoo.zoo.encode import CachedEncoder

from ..parity import golden
from ..zoo.test_resolve import LOOK, hub  # noqa: F401  a fixture

SIZE = (32, 48)


def frames(count, size=SIZE):
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def test_a_session_of_a_hub_address(hub):  # noqa: F811
    model, params, card = zoo.resolve("hf:a/small", image_size=SIZE)
    with Session.of("hf:a/small", image_size=SIZE) as session:
        assert session.frame_shape == SIZE and session.card.mean == tuple(LOOK["image_mean"])
        for frame in frames(2):
            result = session.push(frame)
            want = model.apply(params, preprocess(frame[None], card))
            np.testing.assert_allclose(result.output.pooled, want.pooled[0], rtol=1e-4, atol=1e-4)
            assert result.output.features.shape == (2, 3, 32)
            assert result.scores() is None and result.persons() == []


def test_a_session_over_a_cached_encoder(hub):  # noqa: F811
    model, params, card = zoo.resolve("hf:a/small", image_size=SIZE)
    with Session(Step(CachedEncoder(model.config), params, card)) as session:
        result = session.push(frames(1)[0])
    assert result.index == 0 and result.output.pooled.shape == (32,)


def test_a_model_without_a_stream_is_refused_in_a_line():
    tracker = Step(zoo.create_model("tracker-lite0"), None, zoo.card_of("tracker-lite0"))
    with pytest.raises(ValueError, match="tracker-lite0 tracks what it is shown: TrackSession"):
        Session(tracker)
    offline = zoo.card_of("vjepa2-l16")
    with pytest.raises(ValueError, match="vjepa2-l16 is offline.*as_stream"):
        Session(Step(zoo.create_model("vjepa2-l16"), None, offline))


@pytest.mark.slow
def test_a_tracking_session_of_a_hub_address(hub):  # noqa: F811
    from ..parity.golden_efficienttam import SPECIAL

    shapes, _ = golden.read("efficienttam")
    weights = golden.draw(shapes, SPECIAL)
    hub.files["a/tam", "model.safetensors"] = to_bytes(weights, metadata={"format": "pt"})
    told = {"num_attention_heads": 3, "window_size": 3, "global_blocks": [1, 3]}
    hub.files["a/tam", "config.json"] = json.dumps(told).encode()
    with TrackSession.of("hf:a/tam", objects=1) as session:
        session.add(Prompt("dog", points=((9.0, 9.0),)))
        found = session.push(frames(1, session.frame_shape)[0])
    assert found.masks["dog"].shape == session.frame_shape
    assert session.card.task == "track" and session.card.input_size == session.frame_shape


def test_streams_keep_only_what_is_read():
    from streamzoo.streaming.slim import slim
    from streamzoo.zoo.action.outputs import ActionOutput

    out = slim(ActionOutput(logits=np.zeros(1), taps={"a": np.zeros(1)}, person={"b": np.zeros(1)}))
    assert out.taps is None and out.person is None and out.logits is not None
    assert len(jax.tree.leaves(slim({"taps": np.zeros(1)}))) == 1
