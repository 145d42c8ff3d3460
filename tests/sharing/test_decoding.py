"""Rebuilding from answers of which some are wrong: the right sum and the right names, or none."""

from __future__ import annotations

import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from he_agg.errors import DecryptionError, Reason
from he_agg.ring.primes import N
from he_agg.sharing import decoding
from he_agg.sharing.context import elements
from he_agg.sharing.decoding import _LOOK, _LOOKS, _liars, _rebuild, _wrong_places, rebuild
from he_agg.sharing.field import P, dual_weights, inverse, lagrange, multiply
from he_agg.sharing.masks import total_mask, unmasked
from he_agg.sharing.shamir import share
from tests.sharing.dealt import MASK_KEY, at_zero, context_of, keys_of

WIDTH = 24
LIES = ("anything", "one number by one", "another polynomial", "the same offset", "nothing but zeros", "a copy")


def anything_goes(total):
    return True


def told(rng, answers, liars, kind, threshold):
    """The answers with those of the liars replaced, each by something else than it was."""
    width = next(iter(answers.values())).size
    out = dict(answers)
    offset = rng.integers(1, P, width)
    other = share(offset.astype(np.uint16), [rng.bytes(32) for _ in range(threshold - 1)], max(answers))
    for liar in liars:
        right = answers[liar].astype(int)
        if kind == "anything":
            wrong = rng.integers(0, P, width)
        elif kind == "one number by one":
            wrong = right.copy()
            wrong[int(rng.integers(width))] += 1
        elif kind == "another polynomial":
            wrong = right + other[liar - 1]
        elif kind == "the same offset":
            wrong = right + offset
        elif kind == "nothing but zeros":
            wrong = right * 0
        else:
            wrong = answers[next(point for point in answers if point != liar)].astype(int)
        out[liar] = (wrong % P).astype(np.uint16)
    return out


@st.composite
def answered(draw, most=12):
    holders = draw(st.integers(1, most))
    threshold = draw(st.integers(1, holders))
    there = draw(st.integers(threshold, holders))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    secret = rng.integers(0, P, WIDTH).astype(np.uint16)
    rows = share(secret, [rng.bytes(32) for _ in range(threshold - 1)], holders)
    points = (rng.permutation(holders)[:there] + 1).tolist()
    return threshold, secret, {point: rows[point - 1] for point in points}, rng


@given(answered(most=31), st.data())
def test_up_to_half_of_the_spare_answers_may_be_wrong(case, data):
    threshold, secret, answers, rng = case
    lying = data.draw(st.integers(0, (len(answers) - threshold) // 2))
    liars = list(answers)[:lying]
    wrong = told(rng, answers, liars, data.draw(st.sampled_from(LIES)), threshold)
    different = [point for point in answers if not np.array_equal(answers[point], wrong[point])]
    got = rebuild(wrong, threshold, anything_goes)
    assert np.array_equal(got.total, secret)
    assert list(got.liars) == sorted(different)


@given(answered(most=7), st.data())
def test_the_same_by_trying_everything(case, data):
    """The sum that most answers agree with, over all groups of t, one column after the other."""
    threshold, _, answers, rng = case
    liars = list(answers)[: (len(answers) - threshold) // 2]
    wrong = told(rng, answers, liars, data.draw(st.sampled_from(LIES)), threshold)
    got = rebuild(wrong, threshold, anything_goes)
    best = max(combinations(sorted(wrong), threshold), key=lambda group: agreement(wrong, group))
    for column in range(WIDTH):
        assert got.total[column] == at_zero({point: wrong[point][column] for point in best})


def agreement(answers, group):
    known = np.stack([answers[point] for point in group])
    return sum(np.array_equal(multiply(lagrange(group, (point,)), known)[0], row) for point, row in answers.items())


@given(answered(), st.data())
def test_with_a_judge_all_spare_answers_may_be_wrong(case, data):
    """Up to r - t, where the judge knows the sum when it sees it."""
    threshold, secret, answers, rng = case
    liars = list(answers)[: data.draw(st.integers(0, len(answers) - threshold))]
    kind = data.draw(st.sampled_from(LIES))
    wrong = told(rng, answers, liars, kind, threshold)
    different = [point for point in answers if not np.array_equal(answers[point], wrong[point])]
    got = rebuild(wrong, threshold, lambda total: np.array_equal(total, secret))
    assert np.array_equal(got.total, secret)
    # Errors that are alike may cancel, and give the right sum: see below.
    alike = ("the same offset", "one number by one", "a copy")
    assert kind in alike or list(got.liars) == sorted(different)


def test_liars_who_give_the_right_sum_are_not_told_from_the_others(rng):
    """Two of four lie on another line through the right sum. Nobody is named, and the sum is right."""
    played = Round(rng, 4, 2)
    offset = rng.integers(1, P, N)
    lies = {x: ((played.answers[x] + x * offset) % P).astype(np.uint16) for x in (1, 4)}
    got = rebuild(played.answers | lies, 2, played.is_right)
    assert got.liars == ()
    assert played.is_right(got.total)
    # A fifth answer decides.
    more = Round(rng, 5, 2)
    lies = {x: ((more.answers[x] + x * offset) % P).astype(np.uint16) for x in (1, 4)}
    assert rebuild(more.answers | lies, 2, more.is_right).liars == (1, 4)


@given(answered(), st.data())
def test_too_many_wrong_ones_give_no_sum(case, data):
    """With more than r - t wrong answers no t are right: whatever comes out, the judge does not take it."""
    threshold, secret, answers, rng = case
    wrong = told(rng, answers, list(answers)[: len(answers) - threshold + 1], "anything", threshold)
    with pytest.raises(DecryptionError) as refused:
        rebuild(wrong, threshold, lambda total: np.array_equal(total, secret))
    assert refused.value.reason == Reason.SUM_REJECTED


def test_fewer_answers_than_the_threshold(rng):
    rows = share(np.zeros(WIDTH, dtype=np.uint16), [rng.bytes(32)], 4)
    with pytest.raises(DecryptionError, match="expected 2 answers") as refused:
        rebuild({3: rows[2]}, 2, anything_goes)
    assert refused.value.reason == Reason.INCOMPLETE


class Round:
    """Answers about the keys of a few sites, and the judge that a site has."""

    def __init__(self, rng, holders, threshold, sites=5):
        keys, contexts = keys_of(rng, sites), [context_of(site) for site in range(sites)]
        self.masks, self.sites = total_mask(MASK_KEY, contexts), sites
        self.key_sum = keys.astype(int).sum(axis=0)
        secret = ((self.masks + self.key_sum) % P).astype(np.uint16)
        rows = share(secret, [rng.bytes(32) for _ in range(threshold - 1)], holders)
        self.answers = dict(enumerate(rows, start=1))

    def plausible(self, total):
        return unmasked(total, self.masks, self.sites) is not None

    def is_right(self, total):
        got = unmasked(total, self.masks, self.sites)
        return got is not None and np.array_equal(got, self.key_sum)


def test_three_liars_of_ten_are_named_within_10_ms(rng):
    played = Round(rng, 10, 4)
    times = []
    for kind in LIES * 5:
        wrong = told(rng, played.answers, [2, 7, 9], kind, 4)
        begin = time.process_time()
        got = rebuild(wrong, 4, played.plausible)
        times.append(time.process_time() - begin)
        assert got.liars == (2, 7, 9)
        assert played.is_right(got.total)
    assert min(times) < 0.010


@pytest.mark.parametrize("liars", [(1, 2), (3, 4), (1, 4)])
def test_two_liars_of_four_are_named_because_keys_are_small(rng, liars):
    """They lie together, so that their answers fit one another as well as those of the other two."""
    played = Round(rng, 4, 2)
    got = rebuild(told(rng, played.answers, liars, "another polynomial", 2), 2, played.plausible)
    assert got.liars == liars
    assert played.is_right(got.total)


def test_a_wrong_sum_that_is_one_of_keys_is_not_taken_for_the_right_one(rng):
    """Who knows others' answers can lie so that with some of them a sum of keys comes out: off by one in a place."""
    played = Round(rng, 3, 2)
    by_1_and_3 = lagrange((1, 3), (0,))[0]
    wrong = played.answers[3].astype(int)
    wrong[5] += pow(int(by_1_and_3[1]), -1, P) * (1 if played.key_sum[5] < 0 else -1)
    answers = played.answers | {3: (wrong % P).astype(np.uint16)}
    with pytest.raises(DecryptionError, match="wrong are those of 3, or of 2") as refused:
        rebuild(answers, 2, played.plausible)
    assert refused.value.reason == Reason.SUM_REJECTED
    # A judge who opens something with the sum can tell.
    got = rebuild(answers, 2, played.is_right)
    assert got.liars == (3,)
    # And so does one answer more.
    more = Round(rng, 4, 2)
    wrong = more.answers[3].astype(int)
    wrong[5] += pow(int(by_1_and_3[1]), -1, P) * (1 if more.key_sum[5] < 0 else -1)
    got = rebuild(more.answers | {3: (wrong % P).astype(np.uint16)}, 2, more.plausible)
    assert got.liars == (3,)
    assert more.is_right(got.total)


def test_answers_that_agree_on_no_sum_of_keys(rng):
    """A member whose shared key is another than it says: no holder is named."""
    played = Round(rng, 4, 2)
    secret = rng.integers(0, P, N).astype(np.uint16)
    answers = dict(enumerate(share(secret, [rng.bytes(32)], 4), start=1))
    with pytest.raises(DecryptionError, match="4 answers of holders agree, on what is no sum of keys"):
        rebuild(answers, 2, played.plausible)
    with pytest.raises(DecryptionError, match="a member shared another key"):
        rebuild({1: answers[1], 2: answers[2]}, 2, played.plausible)


def test_a_liar_that_a_look_does_not_show_is_seen_by_the_next(rng):
    """On one combination of the columns a wrong answer may look right; it has to be right in every column."""
    seed = rng.bytes(32)
    rows = share(np.zeros(WIDTH, dtype=np.uint16), [rng.bytes(32)], 4)
    looks = elements(_LOOKS * WIDTH, _LOOK, seed).reshape(_LOOKS, WIDTH)
    before = multiply(rows, looks[0])
    rows[1, 3] = (int(rows[1, 3]) + int(looks[0, 4])) % P
    rows[1, 4] = (int(rows[1, 4]) - int(looks[0, 3])) % P
    assert np.array_equal(multiply(rows, looks[0]), before)
    assert _liars((1, 2, 3, 4), rows, 2, seed) == (2,)
    got = _rebuild((1, 2, 3, 4), rows, 2, anything_goes, seed)
    assert got.liars == (2,)
    assert not got.total.any()


def test_a_look_that_shows_one_of_two_liars_is_not_believed(rng):
    seed = rng.bytes(32)
    rows = share(np.zeros(WIDTH, dtype=np.uint16), [rng.bytes(32)], 6)
    looks = elements(_LOOKS * WIDTH, _LOOK, seed).reshape(_LOOKS, WIDTH)
    rows[1, 3] = (int(rows[1, 3]) + int(looks[0, 4])) % P
    rows[1, 4] = (int(rows[1, 4]) - int(looks[0, 3])) % P
    rows[4, 7] = (int(rows[4, 7]) + 1) % P
    assert _wrong_places((1, 2, 3, 4, 5, 6), multiply(rows, looks[0]).tolist(), 4) == [4]
    assert _liars((1, 2, 3, 4, 5, 6), rows, 2, seed) == (2, 5)


def test_more_wrong_places_than_half_of_the_spare_ones_are_nobodys(rng, monkeypatch):
    """Two errors, so chosen that the shortest recurrence has their points for roots, leave t answers that agree."""
    points, column = (-1, 1, 2, 3), 5
    word = multiply(lagrange((2, 3), points), rng.integers(0, P, 2).astype(np.uint16)).astype(int)
    scale = dual_weights(points)
    # The first syndrome is 0, the second 1: the locator is 1 - z^2.
    half = inverse(2)
    word[1] += half * inverse(scale[1])
    word[0] -= half * inverse(scale[0])
    assert _wrong_places(points, (word % P).tolist(), 2) == [0, 1]
    rows = np.zeros((4, WIDTH), dtype=np.uint16)
    rows[:, column] = word % P
    monkeypatch.setattr(decoding, "elements", lambda count, *_: np.ones(count, dtype=np.uint16))
    assert _liars(points, rows, 2, rng.bytes(32)) is None


def test_groups_that_give_what_was_seen_are_not_judged_again(rng):
    played, judged = Round(rng, 10, 4), []

    def plausible(total):
        judged.append(total)
        return played.plausible(total)

    wrong = told(rng, played.answers, (7, 8, 9, 10), "anything", 4)
    assert rebuild(wrong, 4, plausible).liars == (7, 8, 9, 10)
    assert len(judged) == 210 - 15 + 1


def test_many_holders_are_not_tried_one_group_after_the_other(rng):
    """31 choose 11 is 85 million: beyond (r - t)/2 wrong ones a large list gives up at once."""
    played = Round(rng, 31, 11)
    begin = time.process_time()
    with pytest.raises(DecryptionError, match="too many are wrong"):
        rebuild(told(rng, played.answers, range(1, 12), "anything", 11), 11, played.plausible)
    assert time.process_time() - begin < 1
    got = rebuild(told(rng, played.answers, range(1, 11), "anything", 11), 11, played.plausible)
    assert got.liars == tuple(range(1, 11))


def test_nothing_secret_is_shown(rng):
    got = rebuild(Round(rng, 3, 2).answers, 2, anything_goes)
    assert repr(got) == "Rebuilt(liars=())"
