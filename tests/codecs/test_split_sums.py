"""From updates to their sum through codec, dealings and answers: exact for any m, t, absences of sites and holders."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from he_agg.codecs import codec_for
from he_agg.errors import DecryptionError
from he_agg.plan.sections import Part
from he_agg.sharing.context import Context
from he_agg.sharing.dealer import deal
from he_agg.sharing.dealing import Dealing, Excerpt, Holders
from he_agg.sharing.decoding import rebuild
from he_agg.sharing.field import P
from he_agg.sharing.masks import total_mask, unmasked
from he_agg.sharing.shares import answer, open_share, read_answer
from keys.receiving import ReceivingKey, seal
from tests.sharing.dealt import digest_of
from tests.support.federation import ROUND, by_number, fold_all, key_of, plan_of, source

SITES = 5
PLAN = plan_of(7, codec="hybrid", keys="split", min_sites=3, max_sites=SITES, value_bits=24)
KEY = key_of(PLAN)
RECEIVING = {f"holder-{index}": ReceivingKey.generate("x25519") for index in range(1, 10)}


def context_of(site: int) -> Context:
    names = {"roster": digest_of("roster"), "holders": digest_of("holders")}
    nonce = digest_of(f"nonce {site}")[:32]
    return Context(ROUND, 1, PLAN.plan_id, KEY.key_id, **names, dealer=f"site-{site}", nonce=nonce)


def submit(vector: np.ndarray, site: int, holders: Holders) -> tuple[list[Part], bytes]:
    """Parts and a dealing, as they travel."""
    dealt: list[bytes] = []

    def to_holder(name: str, plaintext: bytes, info: bytes) -> bytes:
        return seal(RECEIVING[name].public, plaintext, info)

    def take(one: np.ndarray) -> None:
        dealt.append(deal(one, KEY.mask_key, context_of(site), holders, to_holder).to_bytes())

    parts = by_number(codec_for(PLAN.public).encrypt(vector, KEY, ROUND, deal=take))
    (dealing,) = dealt
    return parts, dealing


@settings(max_examples=20)
@given(st.data())
def test_the_sum_comes_out(data):
    """Some sites are absent, some holders have no key, some do not answer, and as many lie as can be corrected."""
    count = data.draw(st.integers(1, len(RECEIVING)), "holders")
    threshold = data.draw(st.integers(1, count), "threshold")
    keyless = data.draw(st.sets(st.integers(1, count), max_size=count - threshold), "without a key")
    suites = tuple(None if index in keyless else "x25519" for index in range(1, count + 1))
    holders = Holders(tuple(RECEIVING)[:count], suites, threshold)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32), "seed"))
    magnitude = PLAN.public.magnitude
    members = sorted(data.draw(st.sets(st.integers(0, SITES - 1), min_size=3), "members"))
    vectors = rng.integers(-magnitude, magnitude, (SITES, PLAN.public.values), dtype=np.int32, endpoint=True)
    vectors[:, 0], vectors[:, 1] = magnitude, -magnitude
    sent = {site: submit(vectors[site], site, holders) for site in members}

    with_key = [index for index in range(1, count + 1) if index not in keyless]
    many = data.draw(st.integers(threshold, len(with_key)), "answers")
    there = sorted(rng.permutation(with_key)[:many].tolist())
    answers = {}
    for index in there:
        name, shares = holders.names[index - 1], []
        for site in members:
            excerpt = Dealing.parse(sent[site][1], holders).excerpt(name).to_bytes()
            share = open_share(Excerpt.parse(excerpt, holders, name), context_of(site), RECEIVING[name].open)
            assert isinstance(share, np.ndarray)
            shares.append(share)
        answers[index] = read_answer(answer(shares))
    liars = there[: data.draw(st.integers(0, (len(there) - threshold) // 2), "liars")]
    for liar in liars:
        wrong = answers[liar].astype(np.int64)
        places = rng.permutation(wrong.size)[: data.draw(st.sampled_from([1, 100, wrong.size]), "wrong places")]
        wrong[places] += rng.integers(1, P, places.size)
        answers[liar] = (wrong % P).astype(np.uint16)

    masks = total_mask(KEY.mask_key, [context_of(site) for site in members])
    total = fold_all(PLAN.public, [sent[site][0] for site in members])

    def opened(found):
        """What a sum of answers opens; None if it is none of so many keys, or opens to nothing."""
        keys = unmasked(found, masks, len(members))
        if keys is None:
            return None
        try:
            return codec_for(PLAN.public).decrypt(
                source(total), len(members), KEY, ROUND, key_sum=keys.astype(np.int64)
            )
        except DecryptionError:
            return None

    got = rebuild(answers, threshold, lambda found: opened(found) is not None)
    assert got.liars == tuple(liars)
    assert np.array_equal(opened(got.total), vectors[members].sum(axis=0, dtype=np.int64))
