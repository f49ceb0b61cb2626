"""The contract kit over the encoders of speech, from spectra to features."""

from typing import Any

import flax.linen as nn
import jax
import pytest

from streamzoo.layers.signal.ticks import verify_signal
from streamzoo.zoo.speech.fastconformer.model import FastConformer, FastConformerConfig
from streamzoo.zoo.speech.whisper.model import CarelessWhisper, WhisperConfig

BANDS = 8
# fewer channels than these are all shut by their ReLUs now and then: a frame then shows nowhere
CONFORMER = dict(dim=8, hidden=8, heads=2, depth=1, bands=BANDS, channels=8, kernel=3, before=3,
                 vocabulary=3, predictor=4)  # fmt: skip
WHISPER = dict(dim=8, heads=2, encoder=2, decoder=1, bands=BANDS, vocabulary=6, end=5, room=8)


class Encoder(nn.Module):
    """The encoder of a recogniser, without its front end and its heads."""

    of: Any

    def setup(self):
        self.net = self.of.encoder()

    latency = property(lambda self: self.of.encoder(True).latency)
    emitted = nn.nowrap(lambda self, count: self.of.encoder(True).emitted(count))
    init_carry = nn.nowrap(lambda self, batch: self.of.encoder(True).init_carry(batch))

    def __call__(self, carry, x, valid=None):
        return self.net(carry, x, valid)

    def flush(self, carry):
        return self.net.flush(carry)


MODELS = {
    "fastconformer, no look-ahead": FastConformer(FastConformerConfig(**CONFORMER, ahead=0)),
    "fastconformer": FastConformer(FastConformerConfig(**CONFORMER, ahead=1)),
    "carelesswhisper": CarelessWhisper(WhisperConfig(**WHISPER, window=8, chunk=2, extra=1)),
    "carelesswhisper, one frame": CarelessWhisper(WhisperConfig(**WHISPER, window=6, chunk=1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_law(name):
    """Chunks of any length: strides of 8 and 2 are never told where they stand."""
    model = Encoder(MODELS[name].clone(parent=None))
    noise = lambda seed, batch, steps: jax.random.normal(
        jax.random.key(seed), (batch, steps, BANDS)
    )
    variables = jax.jit(model.init)(jax.random.key(1), model.init_carry(1), noise(0, 1, 2))
    variables = jax.tree.map(
        lambda p: p + 0.2 * jax.random.normal(jax.random.key(p.size), p.shape), variables
    )
    verify_signal(model, variables, noise)
