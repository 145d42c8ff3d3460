"""Analyses over a real aggregator: the same bits at every site, and the same as on the pooled rows."""

from __future__ import annotations

import numpy as np
import pytest

from client_sdk import analytics
from client_sdk.local import local_federation, plan_for
from client_sdk.training import simulate
from he_agg import InputError, PlanError, ProtocolError
from he_agg.plan.plan import Plan
from tests.client_sdk.analytics.comparing import bits, split
from tests.client_sdk.analytics.questions import LOOSE, NAMES, questions


def test_every_analysis_one_after_another_in_one_federation(federate, rng):
    asked = list(questions(rng))
    shares = split(rng, 90)

    def hospital(site, i):
        return [analytics.run(site, q, *(column[shares[i]] for column in data)) for q, data in asked]

    with federate(*(question for question, _ in asked)) as federation:
        outcomes = federation.everywhere(hospital)
    for number, (question, data) in enumerate(asked):
        pooled = analytics.dry_run(question, [tuple(column[own] for column in data) for own in shares])
        for outcome in outcomes:
            assert bits(outcome[number]) == bits(pooled), NAMES[number]


@pytest.mark.parametrize("codec", ["ckks", "hybrid"])
def test_numbers_beyond_one_digit_are_exact(federate, codec):
    """Sums of squares around 10^17 leave float64's integers behind; they come out whole all the same."""
    grid = analytics.Grid(1, 0, 2**26)
    shares = [np.array([[2**26 - 1 - i], [3 + i]]) for i in range(3)]
    question = analytics.Moments([grid])
    with federate(question, codec=codec) as federation:
        results = federation.everywhere(lambda site, i: analytics.run(site, question, shares[i]))
    rows = [int(v) for share in shares for v in share.ravel()]
    exact = (6 * sum(v * v for v in rows) - sum(rows) ** 2) / 30
    assert [result.variance.tolist() for result in results] == [[exact]] * 3


def test_sites_that_ask_different_things_are_told(federate):
    mine, other = analytics.Histogram((0, 1, 2), LOOSE), analytics.Histogram((0, 1, 3), LOOSE)
    caught = []

    def hospital(site, i):
        with pytest.raises(InputError, match="the same analysis") as error:
            analytics.run(site, other if i == 1 else mine, [0.5])
        caught.append(error.value)

    with federate(mine) as federation:
        federation.everywhere(hospital)
    assert len(caught) == 3
    with federate(mine) as federation:  # the same code, all agreed
        results = federation.everywhere(lambda site, i: analytics.run(site, mine, [0.5]))
    assert [result.counts.tolist() for result in results] == [[3, 0]] * 3


def test_a_plan_for_something_else_is_refused(federate, aggregator):
    question = analytics.Histogram((0, 1, 2))
    model = {"w": np.zeros(100)}
    refused = pytest.raises(PlanError, match="a plan for analyses")
    with local_federation(plan_for(model, 2, "no-analyses"), 2, aggregator=aggregator) as federation, refused:
        analytics.run(federation.sites[0], question, [0.5])
    with federate(question, sites=2) as federation, pytest.raises(PlanError, match="a plan for analyses"):
        analytics.run(federation.sites[0], analytics.Histogram(tuple(range(99))), [0.5])


def test_too_few_rounds_are_explained(federate):
    question = analytics.Quantiles(analytics.Grid(1, 0, 10**6), bins=4)
    with federate(question, sites=2, rounds=2) as federation:

        def hospital(site, i):
            with pytest.raises(ProtocolError, match="ended before the analysis did") as caught:
                analytics.run(site, question, [1.0, 5.0])
            return caught.value.hint

        assert all("rounds" in hint for hint in federation.everywhere(hospital))


def test_a_round_that_fails_is_repeated(federate):
    """One site comes only after the first attempt has failed for want of it."""
    question = analytics.Histogram((0, 1, 2), LOOSE)
    with federate(question, sites=2, deadline_s=2) as federation:

        def hospital(site, i):
            if i == 1:
                next(rounds := site.rounds())
                assert next(rounds).attempt > 1
            return analytics.run(site, question, [0.5 + i])

        results = federation.everywhere(hospital)
    assert [result.counts.tolist() for result in results] == [[1, 1]] * 2


def test_simulated_sites_run_analyses_too(rng):
    question = analytics.Quantiles(analytics.Grid(1, 0, 1000), bins=8)
    shares = [(rng.integers(0, 1000, 20),) for _ in range(3)]
    layout = analytics.layout_for(question)
    plan = Plan.create("x", layout, value_bits=analytics.VALUE_BITS, max_sites=3, rounds=9)
    results = simulate(plan, ["a", "b", "c"], lambda site, i: analytics.run(site, question, *shares[i]))
    assert [bits(result) for result in results] == [bits(analytics.dry_run(question, shares))] * 3


def test_a_round_that_was_submitted_to_before_is_not_answered_with_old_data(federate):
    question = analytics.Histogram((0, 1, 2), LOOSE)
    with federate(question, sites=2) as federation:

        def hospital(site, i):
            if i == 0:  # as before a restart, with other data
                (spec,) = site.plan.layout.tensors
                round = site.current()
                round.submit({spec.name: np.zeros(spec.shape)}, 1)
                site.rounds = lambda: iter([round])  # this very one, even if the other site has finished it
            with pytest.raises(InputError, match="a site submits once per round" if i == 0 else "the same analysis"):
                analytics.run(site, question, [0.5])

        federation.everywhere(hospital)
