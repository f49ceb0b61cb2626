"""Two stages: a picture's tokens become words that its caption has; then the language model reads
them, and what it says of the caption moves the connector alone.

The first stage costs seconds, and gives the second a start from which a hundred steps are enough.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ...layers.streaming import Array, Params
from ...zoo import create_model
from ...zoo.files import load_file, save
from ...zoo.ranges import Checked, Count, Positive, Seed
from ...zoo.text.decoder.model import Decoder
from ...zoo.text.tokenizer import Tokenizer
from ...zoo.videolm.connector.model import Connector
from ...zoo.videolm.describer import Frame

NAME = "connector-lite0"
KEEP = 10  # steps of the second stage after which all is kept


@dataclasses.dataclass(frozen=True)
class LearnConfig(Checked):
    """Settings.

    Attributes:
      word_steps, steps: of the two stages.
      word_batch, batch: pictures of a step.
      word_rate, rate: learning rates.
      seed: of the weights and the order.
    """

    word_steps: Count = 1500
    steps: Count = 100
    word_batch: Count = 128
    batch: Count = 16
    word_rate: Positive = 2e-3
    rate: Positive = 3e-4
    seed: Seed = 0


def captions(tokenizer: Tokenizer, texts: list[str], end: int) -> np.ndarray:
    """[N, L] token numbers, ended by ``end`` and filled up with it."""
    rows = [[*tokenizer.words(text), end] for text in texts]
    most = max(map(len, rows))
    return np.asarray([row + [end] * (most - len(row)) for row in rows], np.int32)


def targets(said: np.ndarray, slots: int) -> np.ndarray:
    """[N, L] captions -> [N, slots]: the tokens by which captions differ most, in their order.

    A token that half of all captions have says little: those of the fewest captions count.
    """
    count = np.bincount(said.ravel(), minlength=said.max() + 1)
    picked = []
    for row in said:
        known = list(dict.fromkeys(row.tolist()))
        rare = sorted(sorted(known, key=lambda t: count[t])[:slots], key=known.index)
        picked.append((rare * slots)[:slots])
    return np.asarray(picked, np.int32)


class Learner:
    """Both stages; ``out`` keeps where they stand, and a run goes on from there.

    Args:
      features: [N, 7, 7, 1280] of the pictures.
      said: [N, L], their captions.
      model, params, tokenizer: of the language model, which does not change.
    """

    def __init__(
        self,
        features: np.ndarray,
        said: np.ndarray,
        model: Decoder,
        params: Params,
        tokenizer: Tokenizer,
        config: LearnConfig,
        out: Path,
        log: Callable[[str], None] = print,
    ):
        self.features, self.said, self.model, self.params = features, said, model, params
        self.config, self.out, self.log = config, out, log
        self.frame = Frame(tokenizer)
        self.net: Any = create_model(NAME, grid=features.shape[1], width=features.shape[-1],
                                     dim=model.config.dim)  # fmt: skip
        assert isinstance(self.net, Connector)
        self.rng = lambda stage, step: np.random.default_rng((config.seed, stage, step))

    def words(self) -> Params:
        """The first stage."""
        c, slots = self.config, self.net.config.whole
        file = self.out / f"words-seed{c.seed}.safetensors"
        if file.is_file():
            return load_file(file)[0]
        table = np.asarray(self.params["params"]["embed"]["embedding"], np.float32)
        want = targets(self.said, slots)
        scale = table.std()
        begin = self.net.init(jax.random.key(c.seed), jnp.asarray(self.features[:1], jnp.float32))
        schedule = optax.cosine_decay_schedule(c.word_rate, c.word_steps)
        optimiser = optax.adamw(schedule, weight_decay=0.05)

        @jax.jit
        def step(params, state, features, words):
            def loss(params):
                tokens = self.net.apply(params, features.astype(jnp.float32))
                # the parts of a picture say what the whole does, until they have a word of theirs
                near = jnp.square((tokens[:, :slots] - words) / scale).mean()
                return near + 0.1 * jnp.square(tokens[:, slots:] / scale).mean()

            value, grads = jax.value_and_grad(loss)(params)
            moves, state = optimiser.update(grads, state, params)
            return optax.apply_updates(params, moves), state, value

        params, state = begin, optimiser.init(begin)
        for n in range(c.word_steps):
            own = self.rng(1, n).integers(0, len(self.said), c.word_batch)
            given = jnp.asarray(self.features[own]), jnp.asarray(table[want[own]])
            params, state, value = step(params, state, *given)
            if n % 300 == 0 or n == c.word_steps - 1:
                self.log(f"words: step {n}, error {float(value):.3f} of the words' spread")
        save(file, params, self._header("words"))
        return params

    def sentences(self, params: Params) -> Params:
        """The second stage, from the first one's weights."""
        c = self.config
        file = self.out / f"state-seed{c.seed}.npz"
        optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(self._rate()))
        state, first = optimiser.init(params), 0
        leaves, tree = jax.tree.flatten((params, state))
        if file.is_file():
            with np.load(file) as z:
                first = int(z["step"])
                kept = [jnp.asarray(z[str(i)]) for i in range(len(leaves))]
            params, state = jax.tree.unflatten(tree, kept)

        @jax.jit
        def step(params, language, state, features, said):
            value, grads = jax.value_and_grad(self.loss)(params, language, features, said)
            moves, state = optimiser.update(grads, state, params)
            return optax.apply_updates(params, moves), state, value

        for n in range(first, c.steps):
            own = self.rng(2, n).integers(0, len(self.said), c.batch)
            given = jnp.asarray(self.features[own]), jnp.asarray(self.said[own])
            params, state, value = step(params, self.params, state, *given)
            if (n + 1) % KEEP == 0 or n + 1 == c.steps:
                self.log(f"sentences: step {n + 1} of {c.steps}, {float(value):.3f} nats a token")
                leaves = jax.tree.leaves((params, state))
                arrays: Any = {str(i): np.asarray(a) for i, a in enumerate(leaves)}
                np.savez(file, step=n + 1, **arrays)
        save(self.out / f"connector-seed{c.seed}.safetensors", params, self._header("sentences"))
        return params

    def loss(self, params: Params, language: Params, features: Array, said: Array) -> Array:
        """Nats for each token of the captions, the end included once."""
        connect: Any = self.net.apply
        read: Any = self.model.apply
        seen = connect(params, features.astype(jnp.float32))
        x = self.frame.embedded(self.model, language, seen, said[:, :-1])
        memory = self.model.init_carry(len(said))
        _, y = read(language, memory, None, features=x, method=Decoder.read)
        logits = read(language, y[:, -said.shape[1] :], method=Decoder.say)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, said)
        end = said == self.model.config.end
        counts = jnp.cumsum(end, axis=1) <= 1
        return jnp.where(counts, nats, 0).sum() / counts.sum()

    def _rate(self) -> optax.Schedule:
        c = self.config
        return optax.warmup_cosine_decay_schedule(0.0, c.rate, max(1, c.steps // 10), c.steps)

    def _header(self, stage: str) -> dict[str, Any]:
        settings = dataclasses.asdict(self.config)
        return {"model": NAME, "config": self.net.config, "stage": stage, "learned": settings}
