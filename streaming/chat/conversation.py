"""A conversation about a stream: rounds of words come in, remarks and answers go out.

The memory has a constant size under any policy. A question is asked of a copy, so that it leaves
no trace; silence is an answer, too.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

from ...layers.memory import bytes_of
from ...layers.policies import LiveVLM, Policy, Recent, StreamingVLM, create
from ...layers.policies import streaming_vlm as vlm
from ...zoo.text.speak import Speaker, State
from ...zoo.text.tokenizer import Tokenizer, Writer
from ..triggers import Gate
from .moments import Moments
from .narrator import Round
from .support import Told, repeats
from .turns import Turns

SYSTEM = (
    "You watch a camera. The user tells you what it sees, moment by moment. When you are asked,"
    " answer in one short sentence, only from what you were told."
)
EARLIER = "You saw before:"
REMARK = "Tell me in one short sentence what happened: {}."  # an event; asked openly it invents one


@dataclass(frozen=True)
class Said:
    """What was said, or not.

    Attributes:
      time: seconds in the stream.
      kind: ``remark`` (by itself), ``answer`` (to a question) or ``silent``.
      text: the words, "" for silence.
      question: what was asked, "" for a remark.
      first_ms: until the first word; 0 for silence.
      total_ms: until the last.
      tokens: that were said.
      supported: every word that says something was told before; else some of it is invented.
    """

    time: float
    kind: str
    text: str = ""
    question: str = ""
    first_ms: float = 0.0
    total_ms: float = 0.0
    tokens: int = 0
    supported: bool = True


class Conversation:
    """Hears rounds, remarks on them when its gate opens, and answers questions.

    Args:
      speaker: of a model with any policy but one that retrieves frames, as rounds are no frames.
      gate: on a round's score, when to remark; None: never by itself.
      system: what the model is told first, which stays: of the policy's sinks, or its head.
      limit: tokens of a remark or an answer at most.
      keep: remarks are remembered, too. A small model then says the same again and again.
      past: what was told, to be searched; a question is asked with the ``recall`` moments before it
        that its words are nearest to, however long ago the memory lost them.
      grounded: a remark with words that nobody told it is not made: it is silent, and counts in
        ``withheld``. Answers are given, and marked (``Said.supported``).

    Raises:
      ValueError: a system text that leaves no room for rounds.
    """

    def __init__(
        self,
        speaker: Speaker,
        gate: Gate | None = Gate(1.0, repeat=True, pause=1),  # noqa: B008
        system: str = SYSTEM,
        limit: int = 40,
        keep: bool = False,
        grounded: bool = True,
        past: Moments | None = None,
        recall: int = 3,
    ):
        self.past, self.recall = past, recall
        self.speaker, self.gate, self.limit, self.keep = speaker, gate, limit, keep
        self.grounded, self.told, self.withheld = grounded, Told(), 0
        self.policy = speaker.model.config.keeps
        self._turns = Turns(speaker, system)
        head = self._turns.head
        room = self.policy.capacity - len(head)
        longest = limit + len(self._turns.user("", reply=True))
        if room < 2 * longest:
            raise ValueError(
                f"a memory of {self.policy.capacity} tokens of which the system text takes"
                f" {len(head)}: {room} are left for rounds and answers of {limit}; give at least"
                f" {len(head) + 2 * longest}, or a shorter text"
            )
        self.room, self.turn = room, 0
        self.state = speaker.read(speaker.begin(), head, self._notes(vlm.HEAD, vlm.USER))
        self.gate_state = gate.begin() if gate is not None else None
        self.cut = 0  # tokens of rounds that were too long

    @property
    def memory_bytes(self) -> int:
        """Of the memory, whatever was heard."""
        return bytes_of(self.state.memory)

    @property
    def held(self) -> int:
        """Tokens that are remembered."""
        return int(self.state.memory.used[0])

    def hear(self, told: Round) -> Said:
        """Takes a round; the remark on it, or silence.

        A round that is longer than half of the memory is cut at its end, and counted in ``cut``.
        """
        speaks = False
        if self.gate is not None and self.gate_state is not None:
            self.gate_state, speaks = self.gate(self.gate_state, told.score)
        self._begin_turn()
        self.told.add(told.text)
        if self.past is not None:
            self.past.add(told.time, told.text)
        tokens = self._turns.user(told.text, reply=False)
        if (over := len(tokens) - self.room // 2) > 0:
            self.cut += over
            kept = self.speaker.tokenizer.words(told.text)[: -over or None]
            tokens = self._turns.user_tokens(kept, reply=False)
        self.state = self.speaker.read(self.state, tokens, self._notes(vlm.TALK, vlm.USER))
        if not speaks:
            return Said(told.time, "silent")
        begin = time.perf_counter()
        newest = told.events[-1] if told.events else told.text
        asked = self._turns.user(REMARK.format(newest), reply=True)
        state = self.speaker.read(self.state, asked, self._notes(vlm.TALK, vlm.USER))
        said, after = self._speak(state, begin, told.time, "remark")
        if self.grounded and not said.supported:
            self.withheld += 1
            return Said(told.time, "silent", supported=False)
        if self.keep:
            self.state = after
        return said

    def ask(
        self, question: str, at: float = 0.0, tell: Callable[[str], None] | None = None
    ) -> Said:
        """Answers a question. The conversation is what it was, to the last bit.

        Args:
          question: what is asked.
          at: seconds in the stream.
          tell: takes the words as they come.

        Raises:
          ValueError: nothing is asked, or more than there is room for.
        """
        begin = time.perf_counter()
        tokens, known = self.asked(question)
        state = self.speaker.read(self.state, tokens, self._notes(vlm.TALK, vlm.USER))
        said, _ = self._speak(state, begin, at, "answer", question, tell, known)
        return said

    def asked(self, question: str) -> tuple[list[int], str]:
        """The tokens of a question, and what was recalled for it. Raises as :meth:`ask`."""
        if not question.strip():
            raise ValueError("an empty question: there is nothing to answer")
        tokens = self._turns.user(question, reply=True)
        if len(tokens) > self.room // 2:
            raise ValueError(
                f"a question of {len(tokens)} tokens, and {self.room // 2} is the most: half of"
                f" what the system text leaves of {self.policy.capacity}, or it would drive out"
                " what it asks about; shorten it, or give a larger --memory"
            )
        if self.past is None:
            return tokens, ""
        form = lambda known: self._turns.user(f"{EARLIER} {known} {question}", reply=True)
        fits = lambda known: len(form(known)) <= self.room // 2
        known = self.past.recalled(question, self.recall, fits)
        return (form(known) if known else tokens), known

    def _speak(
        self,
        state: State,
        begin: float,
        at: float,
        kind: str,
        question: str = "",
        tell: Callable[[str], None] | None = None,
        known: str = "",
    ) -> tuple[Said, State]:
        first, words, after = 0.0, [], state
        writer = Writer(self.speaker.tokenizer)
        notes = self._notes(vlm.TALK, vlm.WORD)
        for step in self.speaker.answer(state, self.limit, notes):
            first = first or 1e3 * (time.perf_counter() - begin)
            words.append(step[0])
            after = step[1]
            if tell is not None and (piece := writer(step[0])):
                tell(piece)
            if repeats(words):
                break
        if tell is not None and (rest := writer.end()):
            tell(rest)
        total = 1e3 * (time.perf_counter() - begin)
        ended = bool(words) and words[-1] == self.speaker.model.config.end
        words = words[:-1] if ended else words
        text = self.speaker.tokenizer.text(words).strip()
        # what follows a reply in the model's own form; of an answer nothing is kept
        closing = self._turns.closing(ended) if kind == "remark" else []
        if closing:
            after = self.speaker.read(after, closing, self._notes(vlm.TALK, vlm.FRAME))
        ground = self.told.supports(text, f"{question} {known}")
        return Said(at, kind, text, question, first, total, len(words), ground), after

    def _begin_turn(self) -> None:
        if isinstance(self.policy, StreamingVLM):
            memory = self.policy.begin_turn(self.state.memory, self.turn)
            self.state = self.state._replace(memory=memory)
        self.turn += 1

    def _notes(self, segment: int, role: int) -> dict[str, int]:
        known = self.policy.notes(1)
        notes = {"segment": segment, "role": role, "turn": max(0, self.turn - 1)}
        return {name: value for name, value in notes.items() if name in known}


def policy_for(name: str, budget: int, tokenizer: Tokenizer, system: str = SYSTEM) -> Policy:
    """The policy of a name for a conversation: its first tokens are the system text.

    Raises:
      ValueError: an unknown policy, or one that needs frames.
    """
    head = len(tokenizer.chat_tokens([{"role": "system", "content": system}], reply=False))
    made = create(name, budget)
    if name == "rekv":
        raise ValueError("rekv retrieves frames of equal size; a conversation has words")
    if name == "streaming-llm":
        return Recent(head, max(1, budget - head), "cache")
    if isinstance(made, LiveVLM) and budget - head > made.recent:
        return dataclasses.replace(made, sinks=head, long=budget - head - made.recent)
    return made
