"""Which mixer in which block: an evolution of letter patterns under a budget of step time.

The oldest of a population dies, the best of a few is changed in one place, or two of its places
change theirs; what costs more than the budget is never scored.

Sources: Nemotron-Flash (arXiv 2511.18890), section 3: operators by measured latency; Real et al.,
"Regularized Evolution for Image Classifier Architecture Search" (arXiv 1802.01548).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Candidate(NamedTuple):
    letters: str  # see ``layers.hybrid.LETTERS``
    cost: float  # in the units of the table
    score: float  # the larger, the better


def cost_of(letters: str, table: Mapping[str, float]) -> float:
    """The sum of what its blocks cost, which is what a step costs beside the rest of the model."""
    return sum(table[letter] for letter in letters)


def evolve(
    table: Mapping[str, float], length: int, budget: float, score: Callable[[str], float], *,
    population: int = 8, sample: int = 3, scored: int = 32, seed: int = 0,
) -> list[Candidate]:  # fmt: skip
    """Patterns of ``length`` blocks that fit the budget, best first.

    Args:
      table: letter -> cost of one block.
      budget: the largest cost of a pattern.
      score: of a pattern; asked once of each.
      population, sample: patterns that live, and those of which the best has a child.
      scored: patterns in all that are scored, fewer where there are no more.

    Raises:
      ValueError: even the cheapest pattern costs more than the budget.
    """
    cheapest = min(table, key=lambda letter: table[letter])
    if length * table[cheapest] > budget:
        raise ValueError(
            f"budget {budget:g}: the cheapest pattern, {cheapest * length}, costs "
            f"{length * table[cheapest]:g}"
        )
    rng, letters = random.Random(seed), sorted(table)
    known: dict[str, Candidate] = {}
    living: deque[Candidate] = deque(maxlen=population)

    def meet(word: str) -> bool:
        """Scores a new pattern that fits; True if it was one."""
        cost = cost_of(word, table)
        if word in known or cost > budget:
            return False
        known[word] = Candidate(word, cost, score(word))
        living.append(known[word])
        return True

    def drawn() -> str:
        """Any pattern that fits: letter by letter, of those that leave enough for the rest."""
        word, left = "", budget
        for place in range(length):
            rest = (length - place - 1) * table[cheapest]
            choice = rng.choice([one for one in letters if table[one] + rest <= left + 1e-9])
            word, left = word + choice, left - table[choice]
        places = list(word)
        rng.shuffle(places)  # else the dear ones stand in front
        return "".join(places)

    misses = 0
    while len(known) < scored and misses < 200:
        if len(living) < population or misses % 10 == 9:
            child = drawn()
        else:
            parent = max(rng.sample(list(living), min(sample, len(living))), key=lambda c: c.score)
            child = changed(parent.letters, letters, rng)
        misses = 0 if meet(child) else misses + 1
    return sorted(known.values(), key=lambda c: (-c.score, c.cost))


def changed(word: str, letters: list[str], rng: random.Random) -> str:
    """A pattern with another letter in one place, or with two places exchanged."""
    places = list(word)
    i, j = rng.randrange(len(word)), rng.randrange(len(word))
    if rng.random() < 0.5 or places[i] == places[j]:
        places[i] = rng.choice([one for one in letters if one != places[i]] or letters)
    else:
        places[i], places[j] = places[j], places[i]
    return "".join(places)
