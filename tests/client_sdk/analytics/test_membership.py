"""Hospitals that are late for a sum: every step of an analysis is about the same ones, and results say how many."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from client_sdk import analytics
from client_sdk.analytics.course import ABSENCES
from client_sdk.analytics.question import check_same, question_values
from he_agg import InputError, ProtocolError
from he_agg.ids import RoundId
from tests.client_sdk.analytics.comparing import bits, in_step, split
from tests.client_sdk.analytics.questions import LOOSE, NAMES, questions
from tests.support.peers import operator, pass_time
from tests.support.real import until


def shares_of(data, rng, rows=90):
    return [tuple(column[own] for column in data) for own in split(rng, rows)]


@pytest.mark.parametrize("number", range(len(NAMES)), ids=NAMES)
@pytest.mark.parametrize("late_in", [1, 2, 3, "any"])
def test_a_hospital_that_is_late_once_changes_nothing_but_what_the_result_says(rng, number, late_in):
    question, data = list(questions(rng))[number]
    shares = shares_of(data, rng)
    who = int(rng.integers(0, 3))
    late = set(rng.choice(30, 15, replace=False).tolist()) if late_in == "any" else {late_in}
    late -= {n for n in late if {n - 1, n - 2, n - 3, n - 4} <= late}  # not ABSENCES times in a row
    result, members = in_step(question, shares, lambda n: {who} if n in late else ())
    kept = [share for i, share in enumerate(shares) if not (i == who and 1 in late)]
    assert bits(result) == bits(analytics.dry_run(question, kept))
    assert result.n_sites == len(members) == len(kept)


def test_a_hospital_that_stays_away_is_named(rng):
    question, data = list(questions(rng))[3]
    with pytest.raises(ProtocolError, match=rf"step 2 .*hospital-1 missing in {ABSENCES} sums in a row") as caught:
        in_step(question, shares_of(data, rng), lambda n: {1} if n > 1 else ())
    assert "again" in caught.value.hint


def test_two_hospitals_that_are_late_in_turn(rng):
    question, data = list(questions(rng))[4]
    shares = shares_of(data, rng)
    result, _ = in_step(question, shares, lambda n: {2: {0}, 3: {2}, 5: {0, 1}}.get(n, ()))
    assert bits(result) == bits(analytics.dry_run(question, shares))


def let_pass(federation, round):
    """Wait until two hospitals have submitted to a round, then let its deadline come."""
    with operator(federation.aggregator.data_dir) as (store, _):

        def both_sent():
            with store.read() as tx:
                return len(tx.completed(RoundId.parse(round.id))) == 2

        until(both_sent, 120)
    pass_time(federation.aggregator.data_dir, round.federation)


@pytest.mark.parametrize("late_in", [1, 2])
def test_late_in_a_real_round(federate, rng, late_in):
    """The third hospital misses a deadline: late for the first sum it follows the others, later they wait."""
    question = analytics.Quantiles(analytics.Grid(1, 0, 500), bins=8)
    shares = [(rng.integers(0, 500, 30),) for _ in range(3)]
    warned = []

    def hospital(site, i):
        rounds = site.rounds

        def sleepy():
            for round in rounds():
                if i == 2 and round.number == late_in:
                    let_pass(federation, round)
                yield round

        site.rounds = sleepy
        if i == 2 and late_in == 1:
            with pytest.warns(analytics.AbsentWarning, match="hospital-a, hospital-b"):
                result = analytics.run(site, question, *shares[i])
            warned.append(threading.get_ident())
            return result
        return analytics.run(site, question, *shares[i])

    with federate(question, min_sites=2, rounds=20) as federation:
        results = federation.everywhere(hospital)
    expected = analytics.dry_run(question, shares[:2] if late_in == 1 else shares)
    assert [bits(result) for result in results] == [bits(expected)] * 3
    assert len(warned) == (late_in == 1)


def test_a_hospital_that_starts_in_the_middle_is_left_out_and_the_others_go_on(federate, rng):
    """It would be the end of the analysis for all if it sent what belongs to the first step."""
    question = analytics.Quantiles(analytics.Grid(1, 0, 5000), bins=8)
    shares = [(rng.integers(0, 5000, 30),) for _ in range(3)]

    def hospital(site, i):
        if i < 2:
            return [analytics.run(site, question, *shares[i]) for _ in range(2)]
        for round in site.rounds():
            if round.number == 3:
                break
            let_pass(federation, round)
        with pytest.warns(analytics.AbsentWarning, match="hospital-a, hospital-b, not of its own"):
            first = analytics.run(site, question, *shares[i])
        return [first, analytics.run(site, question, *shares[i])]  # asked again by all: the last one is over

    with federate(question, min_sites=2, rounds=40) as federation:
        results = federation.everywhere(hospital)
    expected = [analytics.dry_run(question, shares[:2]), analytics.dry_run(question, shares)]
    assert [bits(result) for result in results[0]] == [bits(result) for result in expected]
    assert [bits(each) for each in results] == [bits(results[0])] * 3


def test_a_member_that_starts_again_in_the_middle_ends_the_analysis_for_all(federate, rng):
    """Its data may be others by now, and no sum would show it."""
    question = analytics.Quantiles(analytics.Grid(1, 0, 5000), bins=8)
    shares = [(rng.integers(0, 5000, 30),) for _ in range(3)]

    def hospital(site, i):
        if i == 2:  # as if its process had ended after the first sum
            rounds = site.rounds
            site.rounds = lambda: iter([next(rounds())])
            with pytest.raises(ProtocolError, match="ended before"):
                analytics.run(site, question, *shares[i])
            site.rounds = rounds
        with pytest.raises(InputError, match="unlike steps") as caught:
            analytics.run(site, question, *shares[i])
        return caught.value.hint

    with federate(question, rounds=40, deadline_s=60) as federation:
        assert all("started again in the middle" in hint for hint in federation.everywhere(hospital))


def test_unlike_questions_are_both_told():
    one, other = analytics.KaplanMeier(1, 100), analytics.KaplanMeier(1, 200, ["a", "b"])
    for mine, theirs, counts in ((one, other, (2, 3)), (other, one, (3, 2)), (one, other, (6, 1))):
        here, there = counts
        state = mine.start()
        sums = here * question_values(mine.question, state) + there * question_values(theirs.question, state)
        with pytest.raises(InputError) as caught:
            check_same(mine.question, state, sums, here + there)
        told = f"Here: {mine.question} -- at {there} of the {here + there} sites: {theirs.question};"
        assert told in str(caught.value)


def test_three_questions_and_unlike_steps_are_told_apart():
    asked = [analytics.Histogram((0, n), LOOSE) for n in (1, 2, 3)]
    sums = np.sum([question_values(question.question, ()) for question in asked], axis=0)
    with pytest.raises(InputError, match="several questions"):
        check_same(asked[0].question, (), sums, 3)
    text = asked[0].question
    with pytest.raises(InputError, match="unlike steps"):
        check_same(text, 1, question_values(text, 1) + question_values(text, 2), 2)


def test_long_questions_are_told_as_far_as_they_fit():
    one, other = (analytics.Counts({"x": [*range(300), last]}, LOOSE) for last in ("a", "b"))
    sums = question_values(one.question, ()) + question_values(other.question, ())
    with pytest.raises(InputError, match=r"two questions.* at 1 of the 2 sites: Counts .* \.\.\."):
        check_same(one.question, (), sums, 2)


def test_results_carry_whose_data_they_are_about(rng):
    for question, data in questions(rng):
        result = analytics.dry_run(question, shares_of(data, rng))
        assert result.n_sites == 3
        assert np.all(np.asarray(result.n) == 90), type(result).__name__
