"""The engine against official rollouts: which frames are read, where they stand, and numbers."""

from __future__ import annotations

import numpy as np
import pytest

from streamzoo.layers.rollout import ROLLOUTS, rollout
from streamzoo.layers.rollout.policy import infinity_rope, self_forcing
from streamzoo.zoo.generate import Generator

from ..layers.compare import close
from .wan_goldens import golden, last, needs_goldens, network

pytestmark = needs_goldens


def rows(table):
    """Pairs (frame, place) of one stream that are read, in the order of the frames."""
    frames, keys, queries = (np.asarray(a)[0] for a in table)
    pairs = sorted((int(f), int(k)) for f, k in zip(frames, keys, strict=True) if f >= 0)
    return pairs, queries.tolist()


def wanted(z, call):
    frames, keys = z["attended_frames"][call], z["key_pos"][call]
    there = frames >= 0
    pairs = sorted(zip(frames[there].tolist(), keys[: there.sum()].tolist(), strict=True))
    return pairs, [int(q) for q in z["query_pos"][call] if q >= 0]


class Run:
    """A rollout that is fed the noise of a golden, and checked call by call."""

    def __init__(self, name, value, prompts=None):
        self.z, weights, _ = golden(name)
        module, variables = network(weights)
        self.generator = Generator(module, variables, value)
        self.state = self.generator.start()
        self.texts = self.z["prompt_embeds"].reshape(-1, 1, 6, 8)
        self.noise, self.again = last(self.z["noise"]), last(self.z["renoise"])
        self.call, self.used, self.made = 0, 0, []

    def block(self, text=0, passes=4, tables=True):
        r, start = self.generator.rollout, 3 * len(self.made)
        got = rows(self.generator.engine.table(self.state, self.own()))
        for _ in range(passes + r.clean):
            if tables:
                assert got == wanted(self.z, self.call), (start, self.call)
            self.call += 1
        first = self.noise[:, None, start : start + 3]
        draws = np.zeros((1, max(r.levels.calls), *first.shape[2:]), np.float32)
        draws[:, :1] = first
        draws[:, 1:passes] = self.again[self.used : self.used + passes - 1]
        self.used += passes - 1
        self.state, made = self.generator.step(self.state, self.texts[text], draws=draws)
        self.made.append(np.asarray(made.latents))

    def own(self):
        return np.arange(3, dtype=np.int32)[None] + 3 * len(self.made)

    def compare(self, tolerance=3e-6):
        got = np.concatenate(self.made, axis=1)
        close("latents", got, last(self.z["latents"])[:, : got.shape[1]], tolerance)


PLAIN = {
    "self_forcing_rollout_w12_s3": self_forcing(),
    "self_forcing_rollout_w6_s0": self_forcing(6, 0),
    "self_forcing_rollout_full21": self_forcing(21, 0),
    "longlive_rollout_w12_s3": rollout("longlive"),
    "longlive_infinite_attention_w12_s3": rollout("longlive-infinite"),
}


FAST = ("self_forcing_rollout_w12_s3", "longlive_infinite_attention_w12_s3")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in FAST)) for n in PLAIN]
)
def test_windows_and_sinks(name):
    run = Run(name, PLAIN[name])
    for _ in range(run.noise.shape[1] // 3):
        run.block()
    run.compare()
    assert run.call == len(run.z["call_t"])
    # what is kept is what is read, beside a block's own frames
    value = PLAIN[name]
    assert value.keep.capacity == value.read.window - value.block


class Switching(Run):
    """A rollout with new prompts, and the pass that makes the memory anew."""

    def switch(self, text):
        engine, state = self.generator.engine, self.state
        r = engine.rollout
        if r.switch == "recache":
            own = np.maximum(np.arange(-r.latents, 0) + int(state.memory.seen[0]), -1)[None]
            own = own.astype(np.int32)
            serial = state.memory.notes["serial"]
            table = r.read.again(r.keep, serial, own, state.marks, r.global_sink)
            assert rows(table) == wanted(self.z, self.call)
            times = np.zeros(own.shape, np.float32)
            seen = engine.peek(
                self.generator.variables, state.memory, table, state.latents, times,
                self.texts[text],
            )  # fmt: skip
            number = self.z["recache_calls"].tolist().index(self.call)
            close("recache", seen.flow, last(self.z["flow_recache"][number]), 3e-6)
            self.call += 1
        self.state = self.generator.switch(state, self.texts[text])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["longlive_recache_global_sink", "longlive_recache_no_global_sink"]
)
def test_new_prompts_recache(name):
    value = rollout("longlive" if "no_global" not in name else "longlive-new-sink")
    run, text = Switching(name, value), 0
    for block in range(14):
        if 3 * block in (21, 33):
            text += 1
            run.switch(text)
        run.block(text)
    run.compare()
    assert run.call == len(run.z["call_t"])


@pytest.mark.slow
def test_anchors_and_their_regions():
    run, text = Switching("anchor_forcing_w12_s3", rollout("anchor-forcing")), 0
    for block in range(22):
        if 3 * block in (21, 42):
            text += 1
            run.switch(text)
        run.block(text)
        assert max(k for _, k in rows(run.generator.engine.table(run.state, run.own()))[0]) <= 20
    run.compare()
    assert run.call == len(run.z["call_t"])


@pytest.mark.slow
def test_anchor_of_the_prompt_before_bridges_the_gap():
    """The authors' copy of it is overwritten from the third call of the fourth prompt on: there the
    anchor holds the chunk itself. Ours is the one that is meant, so numbers end at frame 51."""
    run, text = Switching("anchor_forcing_4prompts", rollout("anchor-forcing")), 0
    for block in range(24):
        if 3 * block in (15, 33, 51):
            text += 1
            run.switch(text)
        if block < 17:
            run.block(text)
            continue
        if block == 17:
            run.compare()
        want = [33, 34, 35] if 3 * block <= 60 else [51, 52, 53]
        pairs, queries = rows(run.generator.engine.table(run.state, run.own()))
        assert [f for f, k in pairs if 6 <= k <= 8] == want and queries == [18, 19, 20]
        local = [*range(3 * block - 6, 3 * block + 3)]
        assert [f for f, k in pairs if k >= 12] == local
        run.block(text, tables=False)


def test_flush_and_cut():
    run = Run("infinity_rope_w6_s1", infinity_rope())
    ends = np.cumsum([int(seconds * 16 / 12) for seconds in (3.1, 2.4, 3.0)])
    for block in range(12):
        text = int((block >= ends[:2]).sum())
        if block in ends[:2]:
            run.state = run.generator.switch(run.state, run.texts[text])
        if bool(run.z["call_scene_cut"][run.call]):
            run.state = run.generator.cut(run.state)
        run.block(text)
    run.compare()


def test_fewer_passes_for_later_blocks_and_no_clean_one():
    run = Run("diagdistill_rollout", rollout("diagonal-distillation"))
    counts = []
    for block in range(10):
        passes = (4, 3, *(2,) * 8)[block]
        counts.append(passes)
        run.block(passes=passes, tables=False)
    run.compare()
    assert run.call == len(run.z["call_t"]) == sum(counts)
    levels = run.generator.rollout.levels
    told = [t for row in (*levels.times[:2], *levels.times[2:] * 8) for t in row]
    np.testing.assert_allclose(told, run.z["call_t"], rtol=1e-6)


def test_rolling_window_fills_runs_and_drains():
    z, weights, _ = golden("rolling_forcing_rollout")
    generator = Generator(*network(weights), "rolling-forcing")
    engine, state, text = generator.engine, generator.start(), z["prompt_embeds"]
    noise, again = last(z["noise"]), last(z["renoise_used"])
    finished = []
    for number in range(20):
        fresh = number < 16
        at = 2 * number
        blocks = np.arange(number - 4, number + 1)
        own = np.where((blocks >= 0) & (blocks < 16), blocks, -99)[:, None] * 3 + np.arange(3)
        own = np.maximum(own, -1).reshape(1, -1).astype(np.int32)
        there = own[own >= 0]
        for clean, ids in ((False, own), (True, there[None, :3])):
            pairs, queries = rows(engine.table(state, ids, clean))
            queries = [q for q, frame in zip(queries, ids[0], strict=True) if frame >= 0]
            want = wanted(z, at + clean)
            assert (pairs, queries) == want, (number, clean)
        draws = np.zeros((1, 5, 3, 4, 4, 4), np.float32)
        # of the golden by block, here by the place that the block goes to
        first = max(0, 4 - number)
        draws[0, max(first - 1, 0) : 4] = again[number, 0 if first else 1 :][
            : 4 - max(first - 1, 0)
        ]
        if fresh:
            draws[:, 4] = noise[:, 3 * number : 3 * number + 3]
        state, made = generator.step(state, text, draws=draws, fresh=np.array([fresh]))
        assert bool(made.valid[0]) == (number >= 4)
        if made.valid[0]:
            assert int(made.start[0]) == 3 * len(finished)
            finished.append(np.asarray(made.latents))
    close("latents", np.concatenate(finished, axis=1), last(z["latents"]), 1e-5)


@pytest.mark.slow
def test_pipeline_of_levels():
    z, weights, _ = golden("streamdiffusionv2_stream_rollout")
    generator = Generator(*network(weights), "stream-diffusion-v2")
    text = z["prompt"]
    full = last(z["first_noise"])[:, None] / generator.rollout.levels.passes.sigmas[0, 0]
    draws = np.concatenate([full, last(z["first_renoise"])[None]], axis=1)
    state, first = generator.warm(generator.start(), text, draws=draws)
    close("first", first, last(z["first_pred"]), 3e-6)
    for number in range(16):
        new = last(z["latents"][number])  # noisy as it comes
        again = last(z["stream_renoise"][number, :, 0])
        time = z["current_step"][number].astype(np.float32)
        sigma = generator.rollout.levels.sigma(time)
        draws = np.concatenate([new[:, None] / sigma, again[None]], axis=1)
        state, made = generator.step(state, text, draws=draws, first_time=time[None])
        assert bool(made.valid[0]) == (number >= 3)
        assert not made.valid[0] or int(made.start[0]) == 2 + number - 3
        if number >= 3:
            close(f"{number}", made.latents[0], last(z["out"][number]), 3e-6)


def test_every_name_is_a_system_with_a_source():
    for name in ROLLOUTS:
        assert rollout(name).source, name
    with pytest.raises(ValueError, match="unknown rollout 'longlife'; did you mean longlive"):
        rollout("longlife")
