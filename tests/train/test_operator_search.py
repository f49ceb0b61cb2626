"""The search finds what trying everything finds, within its budget; it asks of a pattern once."""

import itertools
import random

import pytest

from streamzoo.train.operator_search import changed, cost_of, evolve

TABLE = {"-": 1.0, "S": 1.5, "D": 3.0, "A": 4.0}
WORTH = {"-": 0.0, "S": 1.0, "D": 2.5, "A": 2.6}


def worth(word):
    """What a pattern is worth: an attention is worth most at the end, and only once."""
    return sum(WORTH[x] for x in word) + 2 * (word[-1] == "A") - (word.count("A") > 1)


@pytest.mark.parametrize("budget", [4.0, 7.5, 10.0, 16.0])
def test_it_finds_the_best_of_all(budget):
    asked = []

    def score(word):
        asked.append(word)
        return worth(word)

    found = evolve(TABLE, 4, budget, score, scored=160)
    everything = ["".join(w) for w in itertools.product(TABLE, repeat=4)]
    fit = [w for w in everything if cost_of(w, TABLE) <= budget]
    assert found[0].score == max(map(worth, fit))
    assert len(set(asked)) == len(asked) and set(asked) <= set(fit)
    assert all(c.cost == cost_of(c.letters, TABLE) and c.score == worth(c.letters) for c in found)
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)


def test_it_needs_fewer_than_chance():
    """With a tenth of 4 ** 6 patterns asked, evolution ends higher than as many drawn at random."""
    evolved = [evolve(TABLE, 6, 15.0, worth, scored=60, seed=s)[0].score for s in range(8)]
    drawn = [
        evolve(TABLE, 6, 15.0, worth, scored=60, population=60, seed=s)[0].score for s in range(8)
    ]
    assert sum(evolved) > sum(drawn)


def test_the_same_seed_says_the_same_and_small_spaces_end():
    one, two = (evolve(TABLE, 5, 11.0, worth, scored=40, seed=3) for _ in range(2))
    assert one == two and len(one) == 40
    assert len(evolve({"-": 1.0, "S": 2.0}, 2, 9.0, worth, scored=40)) == 4


def test_a_budget_that_nothing_fits_is_refused():
    with pytest.raises(ValueError, match="the cheapest pattern, ----, costs 4"):
        evolve(TABLE, 4, 3.9, worth)


def test_a_child_differs_in_one_place_or_exchanges_two():
    rng = random.Random(0)
    for _ in range(50):
        child = changed("SSDA", list(TABLE), rng)
        apart = [a != b for a, b in zip("SSDA", child, strict=True)]
        assert sum(apart) == 1 or sum(apart) == 2 and sorted(child) == sorted("SSDA")
