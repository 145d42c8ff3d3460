"""Rounds with noise on a real aggregator; crashes; and what an attacker with all other data can tell."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from client_sdk import privacy
from client_sdk.local import local_federation, plan_for
from he_agg import ConfigError, InputError, Layout, Plan, PlanError, quantize
from tests.client_sdk.privacy.streams import stream
from tests.support.flows import damage_file

VALUES = 300
Z = 2.0


def model(value=0.0):
    return {"w": np.full((VALUES - 4, 1), value, np.float32), "b": np.full(4, value)}


def layout():
    return Layout.of(model(), clip=privacy.noisy_clip(1.0, Z, 2, values=VALUES, value_bits=16), weight_cap=1)


class FakeSite:
    """A site as far as the preparing of updates goes."""

    def __init__(self, **options):
        self.plan = Plan.create("test", layout(), **({"min_sites": 3, "max_sites": 3} | options))


class FakeRound:
    def __init__(self, number=1, attempt=1):
        self.federation, self.number, self.id = "test", number, f"test.{number}.{attempt}"


def private_of(site, tmp_path, source=None, epsilon=50.0, colluders=1):
    tmp_path.mkdir(exist_ok=True)
    mechanism = privacy.Mechanism.for_plan(site.plan, clip_norm=1.0, noise_multiplier=Z, colluders=colluders)
    ledger = privacy.Ledger(tmp_path / "budget", epsilon=epsilon, delta=1e-5)
    return privacy.PrivateUpdates(site, mechanism, ledger, tmp_path / "noisy", source or stream(1))


def test_the_mean_is_the_clipped_mean_plus_noise_of_the_stated_size(aggregator, tmp_path):
    directions = [np.zeros((VALUES - 4, 1), np.float32) for _ in range(3)]
    for i, direction in enumerate(directions):
        direction[i] = 30.0  # clipped to 1
    with local_federation(plan_for(layout(), name="dp-mean"), aggregator=aggregator) as federation:

        def hospital(site, i):
            private = private_of(site, tmp_path / f"{i}", stream(i))
            means = []
            for round in site.rounds():
                means.append(private.aggregate(round, {"w": directions[i], "b": np.zeros(4)}))
                if round.number == 3:
                    return means, private
            return None

        outcomes = federation.everywhere(hospital)
    first, private = outcomes[0]
    for means, other in outcomes[1:]:
        for mine, theirs in zip(first, means, strict=True):
            assert np.array_equal(mine.sums, theirs.sums)
        assert other.ledger.spent == private.ledger.spent
    mechanism = private.mechanism
    assert len(private.ledger.charges) == 3
    assert private.ledger.spent == pytest.approx(privacy.epsilon_of(3 * mechanism.rdp(), 1e-5))
    assert [path.name.split(".")[:2] for path in (tmp_path / "0" / "noisy").iterdir()] == [["dp-mean", "3"]]
    noise = np.concatenate([mean.tensors["w"][3:, 0] for mean in first])
    # Five standard errors of a standard deviation, of the mean's 3 x 293 values.
    assert abs(noise.std() / mechanism.mean_std(3) - 1) < 5 / math.sqrt(2 * noise.size)
    for mean in first:
        assert (np.abs(mean.tensors["w"][:3, 0] - 1 / 3) < 6 * mechanism.mean_std(3)).all()


def test_what_is_sent_are_the_noisy_integers_to_the_bit(tmp_path):
    site = FakeSite()
    private = private_of(site, tmp_path)
    sent = private.prepare(FakeRound(), model(0.01))
    assert {name: (value.dtype, value.shape) for name, value in sent.items()} == {
        name: (value.dtype, value.shape) for name, value in model().items()
    }
    (path,) = (tmp_path / "noisy").iterdir()
    stored = np.frombuffer(path.read_bytes()[:-32], "<i4")
    assert np.array_equal(quantize(site.plan, sent, 1).values[:VALUES], stored)
    step = private.mechanism.steps[0]
    fresh = stream(1)
    noise = np.concatenate([private.mechanism.noise(i, fresh) for i in range(2)])
    clipped, _ = privacy.clip_update(model(0.01), 1.0)
    exact = np.rint(np.concatenate([clipped["w"].ravel(), clipped["b"]]) / step)
    assert np.array_equal(stored - noise, exact)


def test_after_a_crash_the_same_bytes_for_nothing(tmp_path):
    """Whatever was stored is sent again: by a new process, in another attempt, even with another update."""
    site = FakeSite()
    first = private_of(site, tmp_path, stream(1)).prepare(FakeRound(), model(0.01))
    again = private_of(site, tmp_path, stream(2))
    spent = again.ledger.spent
    for attempt, update in ((1, model(0.01)), (2, model(0.01)), (2, model(0.03))):
        sent = again.prepare(FakeRound(attempt=attempt), update)
        assert all(np.array_equal(sent[name], first[name]) for name in first)
    assert again.ledger.spent == spent
    founded_anew = private_of(FakeSite(rounds=7), tmp_path, stream(3))
    assert not np.array_equal(founded_anew.prepare(FakeRound(), model(0.01))["w"], first["w"])
    assert again.ledger.spent > spent
    other = again.prepare(FakeRound(number=2), model(0.01))
    assert not np.array_equal(other["w"], first["w"])
    assert again.ledger.spent > spent


def test_a_crash_between_storing_and_paying_is_paid_later(tmp_path, monkeypatch):
    site = FakeSite()
    private = private_of(site, tmp_path)
    monkeypatch.setattr(private.ledger, "charge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        private.prepare(FakeRound(), model(0.01))
    assert privacy.Ledger(tmp_path / "budget", epsilon=50.0, delta=1e-5).charges == []
    after = private_of(site, tmp_path, stream(9))
    after.prepare(FakeRound(), model(0.01))
    assert len(after.ledger.charges) == 1
    (stored,) = (tmp_path / "noisy").glob("*.noisy")
    damage_file(stored, "changed")
    with pytest.raises(ConfigError, match="damaged"):
        after.prepare(FakeRound(), model(0.01))


def test_nothing_is_prepared_beyond_the_budget(tmp_path):
    private = private_of(FakeSite(), tmp_path, epsilon=4.0)
    rounds = 0
    while private.ledger.covers(private.mechanism.rdp()):
        rounds += 1
        private.prepare(FakeRound(number=rounds), model(0.01))
    with pytest.raises(privacy.BudgetSpentError):
        private.prepare(FakeRound(number=rounds + 1), model(0.01))
    assert rounds >= 1
    assert len(private.ledger.charges) == rounds
    assert len(list((tmp_path / "noisy").iterdir())) == rounds
    assert private.ledger.spent <= 4.0


def test_wrong_updates_cost_nothing(tmp_path):
    private = private_of(FakeSite(), tmp_path)
    for wrong in (model(np.nan), {"w": model()["w"]}, model() | {"extra": np.zeros(1)}):
        with pytest.raises(InputError):
            private.prepare(FakeRound(), wrong)
    assert private.ledger.charges == []
    private.prepare(FakeRound(), model())


def test_a_mechanism_for_another_plan_is_refused(tmp_path):
    other = FakeSite(value_bits=17)
    mechanism = privacy.Mechanism.for_plan(other.plan, clip_norm=1.0, noise_multiplier=Z, colluders=1)
    ledger = privacy.Ledger(tmp_path / "budget", epsilon=5.0, delta=1e-5)
    site: Any = FakeSite()
    with pytest.raises(PlanError, match="this site's plan"):
        privacy.PrivateUpdates(site, mechanism, ledger, tmp_path / "noisy")


@pytest.mark.parametrize("colluders", [0, 1])
def test_an_attacker_who_knows_all_else_tells_neighbours_apart_no_better_than_epsilon_allows(tmp_path, colluders):
    """The best test between "hospital 0 took part with C in one direction" and "with zeros", given everything else.

    Advantage (true less false positives) of the likelihood ratio test on one round is at most 2 Phi(1/(2z)) - 1, what
    noise of multiplier z allows; without noise it is 1. The colluders subtract their own noise first.
    """
    site = FakeSite()
    mechanism = privacy.Mechanism.for_plan(site.plan, clip_norm=1.0, noise_multiplier=Z, colluders=colluders)
    step, trials = mechanism.steps[0], 1500
    hot = np.zeros(VALUES - 4)
    hot[0] = 1.0
    exact = np.rint(hot / step)
    honest = 3 - colluders
    scores = []
    for present in (0, 1):
        noise = np.array(
            [
                sum(mechanism.noise(1, stream(hash((present, t, s)) % 2**32))[0] for s in range(honest))
                for t in range(trials)
            ]
        )
        scores.append(noise + present * exact[0])
    threshold = exact[0] / 2
    advantage = (scores[1] > threshold).mean() - (scores[0] > threshold).mean()
    # Sizes are for min_sites less colluders: less noise than that is never in the sum.
    effective = Z * mechanism.sensitivity / (exact[0] * step)
    allowed = math.erf(1 / (2 * effective) / math.sqrt(2))
    error = 5 * math.sqrt(0.5 / trials)
    assert advantage < allowed + error
    assert advantage > allowed - error  # and the test is the best one: noise is not larger than it says
