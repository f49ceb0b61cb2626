"""Turns of a conversation in a model's own form: the tokens around what is told, asked and said."""

from __future__ import annotations

from ...zoo.text.speak import Speaker


class Turns:
    """The parts of a model's chat form around contents, taken from its template."""

    def __init__(self, speaker: Speaker, system: str):
        self.tokenizer = tokenizer = speaker.tokenizer
        first: list[dict[str, str]] = [{"role": "system", "content": system}]
        mark = "\ue000"
        asked = [*first, {"role": "user", "content": mark}]
        done = [*asked, {"role": "assistant", "content": mark}]
        head = tokenizer.chat(first, reply=False)
        told, reply, closed = (
            tokenizer.chat(asked, reply=False),
            tokenizer.chat(asked, reply=True),
            tokenizer.chat(done, reply=False),
        )
        if not (told.startswith(head) and reply.startswith(told) and mark in told[len(head) :]):
            raise ValueError("this model's chat template cannot be filled turn by turn")
        before, _, behind = told[len(head) :].partition(mark)
        self.head = tokenizer.chat_tokens(first, reply=False)
        self.before, self.behind = tokenizer.tokens(before), tokenizer.tokens(behind)
        self.reply = tokenizer.tokens(reply[len(told) :])
        self.close = tokenizer.tokens(closed.rpartition(mark)[2])
        self.end = speaker.model.config.end

    def user(self, text: str, reply: bool) -> list[int]:
        """What is told, in words alone, and where a reply begins."""
        return self.user_tokens(self.tokenizer.words(text) if text else [], reply)

    def user_tokens(self, words: list[int], reply: bool) -> list[int]:
        return [*self.before, *words, *self.behind, *(self.reply if reply else [])]

    def closing(self, ended: bool) -> list[int]:
        """What stands behind a reply, of which the end token may have been said."""
        skip = ended and bool(self.close) and self.close[0] == self.end
        return self.close[1:] if skip else list(self.close)
