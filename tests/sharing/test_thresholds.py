"""Quorum, threshold and claim: the table of the documents, and what each of the three numbers in a claim is for."""

from __future__ import annotations

from itertools import product

import pytest

from he_agg.errors import PlanError, Reason
from he_agg.sharing.thresholds import MAX_HOLDERS, Thresholds

EVERY = [
    Thresholds(holders, quorum, threshold)
    for holders in range(1, 9)
    for quorum in range(1, holders + 1)
    for threshold in range(1, quorum + 1)
]


@pytest.mark.parametrize(
    ("holders", "quorum", "threshold", "claim", "min_sites", "away", "corrected"),
    [
        (3, 3, 3, 1, 3, 0, 0),
        (4, 3, 2, 1, 3, 1, 1),
        (5, 4, 3, 2, 4, 1, 1),
        (10, 7, 4, 3, 5, 3, 3),
        (31, 21, 11, 10, 12, 10, 10),
    ],
)
def test_the_defaults(holders, quorum, threshold, claim, min_sites, away, corrected):
    chosen = Thresholds.choose(holders)
    assert chosen == Thresholds(holders, quorum, threshold)
    assert chosen.require_claim(min_sites) == claim
    assert chosen.claim(min_sites - 1) == claim - 1
    assert chosen.may_be_away == away
    assert chosen.corrected(holders) == corrected


def test_defaults_work_with_a_third_of_the_holders_away_or_lying():
    for holders in range(1, MAX_HOLDERS + 1):
        chosen = Thresholds.choose(holders)
        bad = (holders - 1) // 3
        assert holders - bad >= chosen.quorum >= chosen.threshold
        assert chosen.corrected(holders) >= bad
        assert chosen.claim(10**4) >= min(bad, chosen.threshold - 1)


def both_reach_a_quorum(numbers, liars):
    """Whether two records can, for some division of the honest holders: liars echo both, the others one."""
    honest = numbers.holders - liars
    return any(min(ones, honest - ones) + liars >= numbers.quorum for ones in range(honest + 1))


def test_the_claim_is_where_two_records_of_a_number_are_impossible():
    """No division of the honest holders gives two quorums, counted out; with one liar more some division does."""
    for numbers in EVERY:
        possible = [liars for liars in range(numbers.holders + 1) if both_reach_a_quorum(numbers, liars)]
        assert all(liars > numbers.claim(10**4) for liars in possible)
        by_quorum = 2 * numbers.quorum - numbers.holders - 1
        if by_quorum >= 0:
            assert not both_reach_a_quorum(numbers, by_quorum)
            assert both_reach_a_quorum(numbers, by_quorum + 1)


def test_a_division_into_three_is_no_better_than_into_two():
    """Every way to show m - c honest holders up to three records: at most one of these gets a quorum."""
    for numbers in (Thresholds.choose(m) for m in (4, 5, 7)):
        claim = numbers.claim(10**4)
        for shown in product(range(3), repeat=numbers.holders - claim):
            assert sum(shown.count(record) + claim >= numbers.quorum for record in range(3)) <= 1


@pytest.mark.parametrize(
    ("numbers", "min_sites", "why"),
    [
        (Thresholds.choose(1), 3, "each holder has every key"),
        (Thresholds.choose(4, threshold=1), 3, "each holder has every key"),
        (Thresholds(4, 2, 2), 3, "two different sums"),
        (Thresholds(5, 3, 3), 9, "two different sums"),
        (Thresholds.choose(10), 2, "by subtraction"),
    ],
)
def test_refused_where_nothing_can_be_claimed(numbers, min_sites, why):
    with pytest.raises(PlanError, match=why) as refused:
        numbers.require_claim(min_sites)
    assert refused.value.reason == Reason.INSECURE_PARAMETERS
    assert "four holders" in refused.value.hint


@pytest.mark.parametrize("numbers", [(0, 0, 0), (3, 4, 2), (3, 2, 3), (3, 3, 0), (65, 44, 22)])
def test_numbers_that_no_list_has(numbers):
    with pytest.raises(PlanError, match=f"got {numbers[2]}, {numbers[1]} and {numbers[0]}"):
        Thresholds(*numbers)


def test_a_higher_threshold_up_to_the_quorum():
    assert [Thresholds.choose(10, threshold).claim(12) for threshold in (2, 4, 5, 7)] == [1, 3, 3, 3]
    assert [Thresholds.choose(10, threshold).corrected(10) for threshold in (2, 4, 7)] == [4, 3, 1]
    for threshold in (0, 8):
        with pytest.raises(PlanError):
            Thresholds.choose(10, threshold)
    with pytest.raises(PlanError):
        Thresholds.choose(0)
