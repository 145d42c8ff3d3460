"""From one-time keys to their sum, by way of every message: exact, for any holders, absences and liars."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from he_agg.sharing.dealing import Dealing, Excerpt
from he_agg.sharing.decoding import rebuild
from he_agg.sharing.field import P
from he_agg.sharing.masks import total_mask, unmasked
from he_agg.sharing.shares import answer, open_share, read_answer
from tests.sharing.dealt import MASK_KEY, context_of, dealing_of, holders_of, keys_of, stand_in_open


@settings(max_examples=25)
@given(st.data())
def test_the_sum_of_the_keys_comes_out(data):
    count = data.draw(st.integers(1, 11), "holders")
    threshold = data.draw(st.integers(1, count), "threshold")
    without_key = data.draw(st.sets(st.integers(1, count), max_size=count - threshold), "without a key")
    sites = data.draw(st.integers(2, 5), "sites")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32), "seed"))
    holders, keys = holders_of(count, threshold, without_key), keys_of(rng, sites)
    contexts = [context_of(site) for site in range(sites)]
    sent = [dealing_of(key, context, holders, rng).to_bytes() for key, context in zip(keys, contexts, strict=True)]
    # Some sites are not in the sum.
    members = sorted((rng.permutation(sites)[: data.draw(st.integers(1, sites), "members")]).tolist())
    there = [j for j in range(1, count + 1) if j not in without_key]
    there = there[: data.draw(st.integers(threshold, len(there)), "answers")]
    answers = {}
    for index in there:
        name, shares = holders.names[index - 1], []
        for member in members:
            excerpt = Dealing.parse(sent[member], holders).excerpt(name).to_bytes()
            share = open_share(Excerpt.parse(excerpt, holders, name), contexts[member], stand_in_open(name))
            assert isinstance(share, np.ndarray)
            shares.append(share)
        answers[index] = read_answer(answer(shares))
    liars = there[: data.draw(st.integers(0, (len(there) - threshold) // 2), "liars")]
    for liar in liars:
        answers[liar] = ((answers[liar].astype(int) + rng.integers(1, P, answers[liar].size)) % P).astype(np.uint16)

    masks = total_mask(MASK_KEY, [contexts[member] for member in members])
    got = rebuild(answers, threshold, lambda total: unmasked(total, masks, len(members)) is not None)
    assert got.liars == tuple(liars)
    key_sum = unmasked(got.total, masks, len(members))
    assert key_sum.tolist() == keys[members].astype(int).sum(axis=0).tolist()
