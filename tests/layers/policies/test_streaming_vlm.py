"""StreamingVLM's rows and positions are those of its authors' code, round by round."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.memory import EMPTY, empty_slots, store
from streamzoo.layers.policies import streaming_vlm as vlm
from streamzoo.layers.policies.contiguous import ordered, places

GOLDENS = Path(__file__).parents[4] / "shared/goldens/language"
needs_goldens = pytest.mark.skipif(not GOLDENS.is_dir(), reason="shared goldens are not there")
START, END, FEED, PAD = 151644, 151645, 198, 151656
VISION = (151652, 151653, PAD)
GRID = (2, 3)  # of a picture's merged cells
CLOSING = 9  # a role of no turn's: the end of the previous text stays
LONGEST = 72  # tokens of a round, padded


class Script:
    """Gives each token of the authors' prompts its place in the conversation."""

    def __init__(self):
        self.turn, self.segment, self.pads = 0, vlm.HEAD, 0
        self.role: int | str | None = vlm.USER
        self.head = self.count = 0
        self.side: int = vlm.USER

    def note(self, token):
        """(segment, turn, role, advance, offset) of the next token."""
        self.count += 1
        if self.count <= 4:  # who speaks: "previous text"
            return vlm.HEAD, 0, vlm.USER, 1, (0, 0, 0)
        if self.segment == vlm.HEAD:
            self.segment = vlm.PAST
        if self.segment == vlm.PAST:
            if token != END:
                return vlm.PAST, 0, vlm.WORD, 1, (0, 0, 0)
            self.segment, self.role = vlm.TALK, None
            return vlm.TALK, 0, CLOSING, 1, (0, 0, 0)
        return self.talk(token)

    def talk(self, token):
        if self.role is None:  # the line feed after the previous text
            self.role = "between"
            return vlm.TALK, 0, CLOSING, 1, (0, 0, 0)
        if token == START:
            self.head = 3
            self.side = vlm.FRAME if self.role == vlm.USER else vlm.USER
            self.turn += self.side == vlm.USER and self.role == "reply"
            self.role = self.side
        if self.head:
            self.head -= 1
            if not self.head and self.side == vlm.FRAME:
                self.role = "reply"
            return vlm.TALK, self.turn, self.side, 1, (0, 0, 0)
        if self.role == "reply":
            role = {END: vlm.FRAME, FEED: vlm.FRAME, 2503: vlm.SILENT}.get(token, vlm.WORD)
            return vlm.TALK, self.turn, role, 1, (0, 0, 0)
        if token in VISION:
            if token != PAD:
                self.pads = 0
                return vlm.TALK, self.turn, vlm.VISION, 1, (0, 0, 0)
            place = (0, *divmod(self.pads, GRID[1]))
            self.pads += 1
            last = self.pads == GRID[0] * GRID[1]
            return vlm.TALK, self.turn, vlm.VISION, max(GRID) if last else 0, place
        timed = token in (1462, 28, 13) or 15 <= token <= 24
        return vlm.TALK, self.turn, vlm.TIME if timed else vlm.USER, 1, (0, 0, 0)


def notes(script, tokens):
    rows = [script.note(int(t)) for t in tokens]
    rows += [(0, 0, 0, 1, (0, 0, 0))] * (LONGEST - len(rows))
    names = ("segment", "turn", "role", "advance", "offset")
    return {
        name: np.asarray([column])
        for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }


@needs_goldens
@pytest.mark.parametrize(
    "case", ["w3t6", *(pytest.param(c, marks=pytest.mark.slow) for c in ("w4", "w6t3", "w16"))]
)
def test_rows_and_positions_are_the_authors(case):
    with np.load(GOLDENS / "streamingvlm_trace.npz") as file:
        z = {k.split("/")[1]: file[k] for k in file if k.startswith(case)}
        assert json.loads(str(file["meta"]))["constants"]["thw"] == [1, 4, 6]
    texts, pictures, sink, window = (int(n) for n in z["args"][:4])
    policy = vlm.StreamingVLM(
        budget=576, text_rounds=texts, visual_rounds=pictures, sink=sink, window=window, cut=True
    )
    slots = empty_slots(1, 1, 576, 1, 2, policy.notes(3))

    @jax.jit
    def hear(slots, count, told):
        valid = jnp.arange(LONGEST)[None] < count
        arrival = policy.arrive(slots, valid, 3, told)
        zeros = jnp.zeros((1, 1, LONGEST, 1, 2))
        after = store(slots, zeros, zeros, arrival.notes, arrival.slot)
        return dataclasses.replace(after, seen=arrival.seen)

    @jax.jit
    def rows(slots):
        order = ordered(slots.notes)
        pick = lambda a: jnp.take_along_axis(a, order, axis=1)[0]
        place = places(slots.notes)
        return pick(slots.notes["serial"]), jnp.take_along_axis(place, order[..., None], axis=1)[0]

    begin, script, left = jax.jit(policy.begin_turn), Script(), []
    for r, (kept, ids, said, lens) in enumerate(
        zip(z["kept"], z["ids_before_gen"], z["gen"], z["lens"], strict=True)
    ):
        slots = begin(slots, r)
        assert int(slots.used[0]) == lens[0], (case, r)
        prompt = ids[ids >= 0][lens[0] :].tolist()
        assert prompt[: len(left)] == left
        slots = hear(slots, len(prompt), notes(script, prompt))
        place = np.asarray(rows(slots)[1])[: lens[1]].T
        np.testing.assert_array_equal(place, z["mrope"][r][:, : lens[1]], err_msg=f"{case} {r}")
        # the last of what is said has no keys yet: it comes with the next round
        said = said[said >= 0].tolist()
        more = int(lens[4] - lens[1])
        slots = hear(slots, more, notes(script, said[:more]))
        left = said[more:]
        serial = np.asarray(rows(slots)[0])
        np.testing.assert_array_equal(serial[serial > EMPTY], kept[kept >= 0], f"{case} {r}")
