"""The pieces of text that a FastConformer's tokens are, as its authors' files list them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ...errors import WeightsError

SPACE = "\u2581"  # how SentencePiece writes a space
FILES = ("tokenizer.json", "tokenizer.vocab")


class Pieces:
    """Words of tokens.

    Args:
      pieces: of each token by its number; one that begins with U+2581 begins a word.
    """

    def __init__(self, pieces: Sequence[str]):
        self.pieces = list(pieces)

    @classmethod
    def beside(cls, weights: Path, count: int) -> Pieces:
        """Those of a file of weights, which knows ``count`` of them: a ``tokenizer.json`` as
        transformers has it, or SentencePiece's ``tokenizer.vocab`` as NeMo has it.

        Raises:
          WeightsError: neither lies beside it, or one that is of another model.
        """
        for name in FILES:
            file = weights.parent / name
            if file.is_file():
                pieces = _read(file)
                if len(pieces) < count:
                    raise WeightsError(f"{file}: {len(pieces)} pieces; the weights know {count}")
                return cls(pieces)
        raise WeightsError(
            f"{weights.parent}: neither {' nor '.join(FILES)}; it makes texts of the tokens of"
            f" {weights.name}"
        )

    def words(self, numbers: Sequence[int]) -> list[tuple[str, int, int]]:
        """(word, its first token, the one behind its last) of tokens."""
        said = [self.pieces[n] if n < len(self.pieces) else "" for n in numbers]
        starts = [i for i, piece in enumerate(said) if not i or piece.startswith(SPACE)]
        ends = [*starts[1:], len(said)] if starts else []
        found = [
            ("".join(said[i:j]).replace(SPACE, " ").strip(), i, j)
            for i, j in zip(starts, ends, strict=True)
        ]
        return [word for word in found if word[0]]


def _read(file: Path) -> list[str]:
    """Pieces in the order of their numbers. Raises WeightsError: not such a file."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".vocab":  # piece, tab, its score
        return [line.partition("\t")[0] for line in text.splitlines()]
    try:
        model = json.loads(text)["model"]
        vocabulary = model["vocab"]
        if isinstance(vocabulary, dict):  # BPE: piece -> number
            return sorted(vocabulary, key=vocabulary.__getitem__)
        return [str(piece) for piece, _ in vocabulary]  # unigram: [piece, score]
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{file}: not a tokenizer of pieces ({error})") from None
