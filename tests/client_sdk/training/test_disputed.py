"""A training whose sum is rejected: its processes end, the round is given up, and they are started again."""

from __future__ import annotations

import pytest

from client_sdk import Site
from client_sdk._protocol import encrypt
from client_sdk.training import simulate, train
from he_agg import DecryptionError
from he_agg.mac import RoundMac
from service.operator import operations
from tests.support.peers import operator
from tests.support.real import SITES, Hospitals, in_threads
from tests.support.regression import fit_for, model, plan_for


class SpoilsRoundTwo(RoundMac):
    """One site's tags of one attempt do not hold."""

    def __init__(self, mac_key, plan, epoch, round_id) -> None:
        super().__init__(mac_key, plan, epoch, round_id)
        self._attempt = (round_id.number, round_id.attempt)

    def tags(self, total, site, nonce):
        parts = super().tags(total, site, nonce)
        if site != SITES[2] or self._attempt != (2, 1):
            return parts
        return ((parts[0][0] ^ 1, *parts[0][1:]), *parts[1:])


def test_a_training_goes_on_after_its_disputed_round_was_given_up(aggregator, tmp_path, name, monkeypatch):
    plan = plan_for(name, rounds=4)
    hospitals = Hospitals(aggregator, tmp_path, plan)
    trained: list[list[int]] = [[], [], []]

    def run(site_name):
        i = SITES.index(site_name)
        fit = fit_for(i, after=lambda task: trained[i].append(task.step))
        with Site.open(hospitals.config(site_name)) as site:
            return train(site, model(), fit, rounds=3, checkpoint=tmp_path / f"{site_name}.npz")

    def run_to_the_rejection(site_name):
        with pytest.raises(DecryptionError) as caught:
            run(site_name)
        return caught.value.hint

    try:
        with monkeypatch.context() as patch:
            patch.setattr(encrypt, "RoundMac", SpoilsRoundTwo)
            assert all("`he-agg dispute`" in text for text in in_threads(run_to_the_rejection))
        assert in_threads(run_to_the_rejection)  # started again before it is given up, a process meets it again
        with operator(hospitals.server.data_dir) as (store, conductor):
            operations.dispute(store, conductor, hospitals.name)
        results = in_threads(run)
    finally:
        hospitals.close()
    expected = simulate(plan, SITES, lambda site, i: train(site, model(), fit_for(i), rounds=3))
    for result, undisturbed in zip(results, expected, strict=True):
        assert [entry["n_sites"] for entry in result.history] == [3, 3, 3]
        assert result.model_hash == undisturbed.model_hash
    assert all(steps[0] == 1 and set(steps) == {1, 2, 3} for steps in trained)
