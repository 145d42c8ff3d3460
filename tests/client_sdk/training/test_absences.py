"""Sites that are late, rounds that fail, sums that are gone."""

import numpy as np
import pytest

from client_sdk.training import simulate, train
from he_agg import dequantize, quantize
from he_agg.errors import ProtocolError, Reason
from he_agg.ids import RoundId
from tests.support.peers import operator, pass_time
from tests.support.real import until
from tests.support.regression import fit_for, model, plan_for


def late(federation, i, site_index, calls, step=2):
    """A `fit` that misses the deadline once, at one site in one step."""
    inner = fit_for(i)

    def fit(params, task):
        calls.append(task.step)
        if i == site_index and task.step == step and calls.count(step) == 1:
            close_without(federation, step)
        return inner(params, task)

    return fit


def close_without(federation, number):
    """Wait for the two others, and let the deadline come."""
    data_dir, name = federation.aggregator.data_dir, federation.plan.public.federation
    with operator(data_dir) as (store, _):

        def both():
            with store.read() as tx:
                return len(tx.completed(RoundId(name, number, 1))) == 2

        until(both)
    pass_time(data_dir, name)


def test_a_round_that_failed_is_tried_again_without_training_again(running, name):
    plan = plan_for(name, min_sites=3)
    calls = [[], [], []]
    with running(plan) as federation:
        results = federation.everywhere(
            lambda site, i: train(site, model(), late(federation, i, 2, calls[i]), rounds=3)
        )
    assert len({result.model_hash for result in results}) == 1
    assert calls == [[1, 2, 3]] * 3
    assert [entry["n_sites"] for entry in results[0].history] == [3, 3, 3]


def test_a_late_site_goes_on_with_the_mean_of_the_others(running, name):
    plan = plan_for(name, min_sites=2)
    with running(plan, options=["--keep-sums", "20"]) as federation:
        results = federation.everywhere(lambda site, i: train(site, model(), late(federation, i, 2, []), rounds=4))
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


@pytest.mark.parametrize("others", [("a", "c"), ("a", "b")])
def test_a_site_took_part_where_the_sum_says_so(tmp_path, others):
    """What is in the spool tells nothing: it may have come too late, or never have left before a crash."""

    class KilledError(BaseException):
        pass

    plan = plan_for("x", min_sites=2)
    means, took = [], []

    def work(site, i):
        class Round:
            federation, id, number, submitted = site.federation, f"{site.federation}.1.1", 1, False

            def take_part(self, payload, weight, **_):
                sums = quantize(plan, payload, weight).values.astype(np.int64) * len(
                    others
                )  # all have learned the same
                means.append(dequantize(plan, sums, len(others), others))
                raise KilledError

        site.rounds, site.last_published = lambda: iter([Round()]), lambda: Round.id
        site.pending, site.fetch = lambda: [Round.id], lambda round_id: means[0]
        checkpoint = tmp_path / "checkpoint"
        with pytest.raises(KilledError):
            train(site, model(), fit_for(i), checkpoint=checkpoint)
        site.rounds = lambda: iter(())
        took.extend(entry["took_part"] for entry in train(site, model(), fit_for(i), checkpoint=checkpoint).history)

    simulate(plan, ["b"], work)
    assert took == ["b" in others]
