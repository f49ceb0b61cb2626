"""Texts and their tokens, by the library ``tokenizers``, from published files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...layers.install import how_to_install
from ..errors import WeightsError
from ..gguf import read_field
from ..published import read_json

CONTROL = 3  # a GGUF file's kind of tokens such as <|im_end|>
UNFINISHED = "\ufffd"  # what bytes become that are no letter yet
_MARK = "\ue000{}\ue001"  # where a message's content stands in a template; nobody writes these
_MARKED = "\ue000(\\d+)\ue001"
ROLES = ("system", "user", "assistant", "tool")  # who speaks, in templates of chats


class Tokenizer:
    """Text to tokens and back.

    Args:
      inner: a ``tokenizers.Tokenizer``.
      template: the chat template of the model, Jinja; "" for a model without one.
    """

    def __init__(self, inner: Any, template: str = "", special: Mapping[str, str] | None = None):
        self.inner, self.template, self.special = inner, template, dict(special or {})

    @classmethod
    def read(cls, path: Path, rule: str = "file") -> Tokenizer:
        """Of a GGUF file, or of a folder with ``tokenizer.json`` (or a file in such a folder).

        Args:
          path: of the file or folder.
          rule: how a GGUF file's text is cut into words: as the ``file`` says (SmolLM: every number
            by itself, as in llama.cpp and in the published tokenizer), or as ``gpt2``, which is
            what transformers does with it: " \u00bd" is then cut otherwise.

        Raises:
          WeightsError: no such file, or one whose rules are not known.
          ImportError: the package ``tokenizers`` is not installed.
        """
        try:
            import tokenizers
        except ImportError:
            remedy = f"texts are read by: {how_to_install('language')}"
            raise ImportError(remedy) from None
        if path.suffix == ".gguf":
            return cls(_of_gguf(path, rule), read_field(path, "tokenizer.chat_template") or "")
        folder = path if path.is_dir() else path.parent
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise WeightsError(f"{file}: not there; fetch it from the repository of the weights")
        told = folder / "tokenizer_config.json"
        said = read_json(told) if told.is_file() else {}
        beside = folder / "chat_template.jinja"
        template = beside.read_text(encoding="utf-8") if beside.is_file() else ""
        template = template or said.get("chat_template") or ""
        special = {k: said[k] for k in ("bos_token", "eos_token") if isinstance(said.get(k), str)}
        try:
            inner = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises Exception itself
            raise WeightsError(f"{file}: not a tokenizer ({error})") from None
        return cls(inner, template if isinstance(template, str) else "", special)

    @property
    def size(self) -> int:
        """Tokens that are known."""
        return self.inner.get_vocab_size()

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text; words like ``<|im_end|>`` become the token of that name.

        Raises:
          ValueError: half a letter (a lone surrogate), which no token can say.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"half a letter at place {error.start} of the text") from None
        return self.inner.encode(text, add_special_tokens=False).ids

    def words(self, text: str) -> list[int]:
        """The tokens of a text of which nothing is a command: ``<|im_end|>`` is ten letters.

        Raises:
          ValueError: as :meth:`tokens`.
        """
        before = self.inner.encode_special_tokens
        self.inner.encode_special_tokens = True
        try:
            return self.tokens(text)
        finally:
            self.inner.encode_special_tokens = before

    def chat_tokens(self, messages: Sequence[Mapping[str, str]], reply: bool = True) -> list[int]:
        """The tokens of a conversation, whose contents are words alone: whoever writes
        ``<|im_end|>`` into a message does not end it.

        Raises:
          ValueError: as :meth:`chat` and :meth:`tokens`.
        """
        whole = self.chat(messages, reply)
        frame = self.chat([{**m, "content": ""} for m in messages], reply)
        if self._commands(whole) == self._commands(frame):
            return self.tokens(whole)
        marked = [{**m, "content": _MARK.format(at)} for at, m in enumerate(messages)]
        tokens: list[int] = []
        for at, part in enumerate(re.split(_MARKED, self.chat(marked, reply))):
            is_content = at % 2 == 1  # the number of a message, in between the template's own text
            tokens += (
                self.words(messages[int(part)]["content"]) if is_content else self.tokens(part)
            )
        return tokens

    def _commands(self, text: str) -> list[str]:
        """The special tokens that a text names."""
        known = {t.content for t in self.inner.get_added_tokens_decoder().values() if t.special}
        found = re.findall("|".join(map(re.escape, sorted(known))) or "(?!)", text)
        return found

    def text(self, tokens: Iterable[int], special: bool = False) -> str:
        """The text of tokens, with ``special`` also those that are no words."""
        return self.inner.decode([*tokens], skip_special_tokens=not special)

    def chat(self, messages: Sequence[Mapping[str, str]], reply: bool = True) -> str:
        """The text of a conversation as the model was trained to read it.

        Args:
          messages: each with ``role`` (system, user, assistant) and ``content``.
          reply: end where the assistant begins to speak.

        Raises:
          ValueError: the model has no chat template, these are no messages, or it refuses them.
        """
        _check(messages)
        if not self.template:
            raise ValueError("this model has no chat template: give it the text itself")
        try:
            import jinja2.sandbox
        except ImportError:
            remedy = f"chat templates are read by: {how_to_install('language')}"
            raise ImportError(remedy) from None

        def refuse(message: str) -> None:
            raise ValueError(f"the chat template refuses these messages: {message}")

        # a template is code of whoever published the weights: it can see its arguments alone
        machine = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        machine.globals["raise_exception"] = refuse
        try:
            made = machine.from_string(self.template)
            return made.render(messages=messages, add_generation_prompt=reply, **self.special)
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template cannot be filled: {error}") from None


def _check(messages: Sequence[Mapping[str, str]]) -> None:
    """Raises ValueError: no messages of a role and a text each."""
    form = 'give a list of messages, each such as {"role": "user", "content": "Hello"}'
    if isinstance(messages, Mapping) or not messages:
        raise ValueError(f"no messages: {form}")
    for at, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise ValueError(f"message {at} has no text: {form}")
        if message.get("role") not in ROLES:
            known = ", ".join(ROLES)
            raise ValueError(f"message {at} is of {message.get('role')!r}; roles: {known}")


class Writer:
    """Tokens to text as they come: a letter whose bytes are not all there waits for them."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.waiting: list[int] = []

    def __call__(self, token: int) -> str:
        """The text that this token completes, "" where it completes none."""
        self.waiting.append(token)
        text = self.tokenizer.text(self.waiting)
        if text.endswith(UNFINISHED) and len(self.waiting) < 8:  # a letter has 4 bytes at most
            return ""
        self.waiting.clear()
        return text

    def end(self) -> str:
        """What still waits."""
        text = self.tokenizer.text(self.waiting)
        self.waiting.clear()
        return text


def _of_gguf(path: Path, rule: str) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    get = lambda name: read_field(path, f"tokenizer.ggml.{name}")
    kind, told = get("model"), get("pre")
    if (kind, told) != ("gpt2", "smollm"):
        raise WeightsError(f"{path}: a tokenizer of kind {kind!r}, {told!r}; known: gpt2, smollm")
    if rule not in ("file", "gpt2"):
        raise ValueError(f"rule {rule!r}: choose file or gpt2")
    words, merges = get("tokens"), [tuple(pair.split(" ", 1)) for pair in get("merges")]
    vocabulary = {word: number for number, word in enumerate(words)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    words_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    numbers = [pre_tokenizers.Digits(individual_digits=True)] if rule == "file" else []
    inner.pre_tokenizer = pre_tokenizers.Sequence([*numbers, words_of])
    inner.decoder = decoders.ByteLevel()
    control = [word for word, sort in zip(words, get("token_type"), strict=True) if sort == CONTROL]
    inner.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in control])
    return inner
