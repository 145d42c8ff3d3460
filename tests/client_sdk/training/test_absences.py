"""Sites that are late, rounds that fail, sums that are gone."""

import time

import pytest

from client_sdk.training import simulate, train
from he_agg.errors import ProtocolError, Reason
from tests.support.regression import fit_for, model, plan_for

DEADLINE_S = 6


def late(i, site_index, calls, step=2):
    """A `fit` that misses the deadline once, at one site in one step."""
    inner = fit_for(i)

    def fit(params, task):
        calls.append(task.step)
        if i == site_index and task.step == step and calls.count(step) == 1:
            time.sleep(DEADLINE_S + 3)
        return inner(params, task)

    return fit


def test_a_round_that_failed_is_tried_again_without_training_again(running, name):
    plan = plan_for(name, min_sites=3, deadline_s=DEADLINE_S)
    calls = [[], [], []]
    with running(plan) as federation:
        results = federation.everywhere(lambda site, i: train(site, model(), late(i, 2, calls[i]), rounds=3))
    assert len({result.model_hash for result in results}) == 1
    assert calls == [[1, 2, 3]] * 3
    assert [entry["n_sites"] for entry in results[0].history] == [3, 3, 3]


def test_a_late_site_goes_on_with_the_mean_of_the_others(running, name):
    plan = plan_for(name, min_sites=2, deadline_s=DEADLINE_S)
    with running(plan, options=["--keep-sums", "20"]) as federation:
        results = federation.everywhere(lambda site, i: train(site, model(), late(i, 2, []), rounds=4))
    assert len({result.model_hash for result in results}) == 1
    assert results[0].history[1]["n_sites"] == 2
    assert not results[2].history[1]["took_part"]
    assert results[2].history[0]["took_part"]


def test_a_sum_that_is_gone_is_explained():
    def work(site, i):
        def fetch(round_id):
            if round_id.endswith(".1"):
                raise ProtocolError(Reason.ROUND_FAILED, "too few")
            raise ProtocolError(Reason.SUM_GONE, "not kept")

        site.fetch = fetch
        site.rounds = lambda: iter(())
        site.last_published = lambda: f"{site.federation}.3.1"
        with pytest.raises(ProtocolError, match="has missed it") as caught:
            train(site, model(), fit_for(i))
        assert "--keep-sums" in caught.value.hint
        assert caught.value.reason == Reason.SUM_GONE

    simulate(plan_for("x"), ["a", "b"], work)
