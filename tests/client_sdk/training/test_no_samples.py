"""Rounds in which a site has nothing to say: no samples, or an update that is refused."""

import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest

from client_sdk.compression import FewBits, LowRank
from client_sdk.training import simulate, train, training_plan
from he_agg import Layout, Plan
from he_agg.errors import InputError, ProtocolError, Reason

SITES = ["hospital-a", "hospital-b", "hospital-c", "hospital-d"]


def model():
    return {"w": np.arange(12.0).reshape(3, 4) / 10, "b": np.zeros(3)}


def fit_for(absent):
    """Move by what the site and the step say; without samples, divide by their number as a careless loop does."""

    def fit(model, task):
        n = 0 if (SITES.index(task.site), task.step) in absent else 3 + SITES.index(task.site)
        with np.errstate(invalid="ignore"):
            shift = np.float64(n) / n * task.step / 64
        return {name: array + shift for name, array in model.items()}, n

    return fit


def run(sites, absent, compression, rounds):
    plan = training_plan("x", model(), clip=2.0, weight_cap=8, max_sites=4, min_sites=2, compression=compression)
    return simulate(
        plan,
        sites,
        lambda site, i: train(site, model(), fit_for(absent), compression=compression, rounds=rounds),
    )


@pytest.mark.parametrize("compression", [None, FewBits(stochastic=False), LowRank(rank=2, stochastic=False)], ids=repr)
def test_a_site_without_samples_follows_the_others_to_the_bit(compression):
    """Absent from every step, it is as if it were not there, but for its name."""
    rounds = 4
    absent = {(3, step) for step in range(1, rounds + 1)}
    with_it = run(SITES, absent, compression, rounds)
    without = run(SITES[:3], set(), compression, rounds)
    for result in with_it:
        assert {name: array.tobytes() for name, array in result.tensors.items()} == {
            name: array.tobytes() for name, array in without[0].tensors.items()
        }
        assert [line["n_sites"] for line in result.history] == [3] * rounds
    assert [line["took_part"] for line in with_it[3].history] == [False] * rounds
    assert [line["took_part"] for line in with_it[0].history] == [True] * rounds


def test_absences_come_and_go():
    results = run(SITES, {(0, 2), (1, 2), (3, 3)}, None, 4)
    assert len({result.model_hash for result in results}) == 1
    assert [line["n_sites"] for line in results[0].history] == [4, 2, 3, 4]
    assert [line["took_part"] for line in results[0].history] == [True, False, True, True]


def test_too_few_with_samples_is_said():
    with pytest.raises(ProtocolError, match="expected samples at 2 sites at least, got some at 1") as caught:
        run(SITES, {(0, 1), (1, 1), (2, 1)}, None, 2)
    assert caught.value.reason == Reason.ROUND_FAILED


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lambda model: ({name: array + 5 for name, array in model.items()}, 3), Reason.BEYOND_CLIP),
        (lambda model: (model, 9), Reason.WEIGHT_OUT_OF_RANGE),
        (lambda model: (model, -1), Reason.WEIGHT_OUT_OF_RANGE),
    ],
    ids=["beyond clip", "weight above", "weight below"],
)
def test_what_was_refused_is_not_kept(tmp_path, bad, reason):
    """Mended, the same program goes on from its checkpoint; what was refused is asked for again, not sent again."""
    plan = training_plan("x", model(), clip=2.0, weight_cap=8, max_sites=4, min_sites=2)
    calls: list[Any] = []

    def work(site, index, broken):
        def fit(model, task):
            calls.append((site.name, task.step))
            return bad(model) if broken and index == 0 else fit_for(set())(model, task)

        return train(site, model(), fit, rounds=3, checkpoint=tmp_path / f"{site.name}.npz")

    with pytest.raises(InputError) as caught:
        simulate(plan, SITES, lambda site, index: work(site, index, broken=True))
    assert caught.value.reason == reason
    calls.clear()
    results = simulate(plan, SITES, lambda site, index: work(site, index, broken=False))
    assert ("hospital-a", 1) in calls
    assert {name: array.tobytes() for name, array in results[0].tensors.items()} == {
        name: array.tobytes() for name, array in run(SITES, set(), None, 3)[0].tensors.items()
    }


@pytest.mark.parametrize("weight", [False, None, 0.0])
def test_a_simulated_round_takes_for_no_samples_what_a_real_one_does(weight):
    """Only the number nought: `False` is an error at a real site, so it is here."""
    plan = training_plan("x", model(), clip=2.0, weight_cap=8, max_sites=4, min_sites=2)
    with pytest.raises(InputError, match="weight"):
        simulate(plan, SITES, lambda site, i: next(iter(site.rounds())).take_part(model(), weight))


def test_a_simulated_site_sends_no_update_into_two_sums_unless_it_says_so():
    """As a real one: who tries a recipe first finds that out before the federation has begun."""
    plan = Plan.create("x", Layout.of(model(), clip=2.0, weight_cap=8), max_sites=4, min_sites=2, rounds=2)

    def twice(site, index, **how):
        return [round.take_part(model(), 2, **how).counted for round in itertools.islice(site.rounds(), 2)]

    assert simulate(plan, SITES, partial(twice, may_repeat=True)) == [[True, True]] * len(SITES)
    with pytest.raises(
        InputError, match=r"x\.2\.1: this very update, with this weight, is in the sum of round x\.1\.1"
    ):
        simulate(plan, SITES, twice)
