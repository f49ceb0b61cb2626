"""ReSV: clusters of keys, held against plain loops; all of them are full attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.policies import Recent, ReSV
from streamzoo.layers.policies.resv import KeyClusters

from ...zoo.language import tiny, tokens


@pytest.mark.slow
def test_all_of_the_mass_is_full_attention_and_less_is_not():
    """Also once rows leave, and with more keys than clusters."""
    ids = tokens(0, 2, 21)
    _, variables = tiny()
    said = {}
    for name, policy in (
        ("full", Recent(0, 12)),
        ("all", ReSV(12, clusters=4, mass=1.0, local=1)),
        ("less", ReSV(12, clusters=4, mass=0.3, local=1)),
    ):
        model, _ = tiny(policy=policy)
        step, carry = jax.jit(model.apply), model.init_carry(2)
        parts = []
        for at in (0, 7, 14):
            carry, logits = step(variables, carry, ids[:, at : at + 7])
            parts.append(np.asarray(logits))
        said[name] = np.concatenate(parts, axis=1)
        if name == "all":
            count = np.asarray(carry.layered["members"])
            assert (count.sum(axis=-1) == 12).all()  # every key that is held, and no other
            label = np.asarray(carry.layered["label"])
            assert label.min() == 0
            for cluster in range(4):
                np.testing.assert_array_equal((label == cluster).sum(axis=2), count[..., cluster])
            own = (label[..., None] == np.arange(4))[..., None]
            total = (own * np.asarray(carry.keys)[..., None, :]).sum(axis=2)
            np.testing.assert_allclose(carry.layered["total"], total, atol=1e-5)
    np.testing.assert_allclose(said["all"], said["full"], atol=2e-5)
    assert np.abs(said["less"] - said["full"]).max() > 1e-2


def test_clusters_and_choices_are_those_of_plain_loops():
    policy = ReSV(64, clusters=16, planes=32, near=7, mass=0.3)
    rng = np.random.default_rng(2)
    # a few directions, so that keys do meet in clusters
    kinds = rng.standard_normal((9, 16))
    keys = kinds[rng.integers(0, 9, 40)] + 0.15 * rng.standard_normal((40, 16))
    planes = np.random.default_rng(0).standard_normal((16, 32)).astype(np.float32)
    codes, members = [], []
    for i, key in enumerate(keys.astype(np.float32)):
        bits = key @ planes > 0
        apart = [(bits != code).sum() for code in codes]
        if apart and (min(apart) < 7 or len(codes) == 16):
            members[int(np.argmin(apart))].append(i)
        else:
            codes.append(bits)
            members.append([i])
    assert 9 <= len(codes) < 16
    empty = KeyClusters(
        jnp.full((1, 64, 1), -1), jnp.zeros((1, 1, 16, 16)), jnp.zeros((1, 1, 16), jnp.int32),
        jnp.zeros((1, 1, 16, 32), bool),
    )  # fmt: skip
    found, add = empty, jax.jit(policy.add)
    for i, key in enumerate(keys.astype(np.float32)):
        found = add(found, key[None, None], i, jnp.ones(1, bool))
    label = np.asarray(found.label)[0, :40, 0]
    assert [np.flatnonzero(label == c).tolist() for c in range(len(codes))] == members
    q = rng.standard_normal((1, 2, 16))
    chosen = np.asarray(policy.choose(found, jnp.asarray(q, jnp.float32)))[0]
    for h in range(2):
        score = np.array([q[0, h] @ keys[own].mean(axis=0) / 4 for own in members])
        weight = np.exp(score - score.max()) * [len(own) for own in members]
        taken, total = [], 0.0
        for c in np.argsort(-weight):
            taken.append(c)
            total += weight[c]
            if total > 0.3 * weight.sum():
                break
        assert np.flatnonzero(chosen[h]).tolist() == sorted(taken)


@pytest.mark.parametrize(
    "make, says",
    [(lambda: ReSV(clusters=0), "0 clusters"), (lambda: ReSV(mass=1.5), "mass 1.5")],
)
def test_policies_that_cannot_be(make, says):
    with pytest.raises(ValueError, match=says):
        make()
