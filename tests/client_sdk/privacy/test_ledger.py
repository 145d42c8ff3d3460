"""The budget: paid before sending, once per bytes, never beyond, and true after any crash."""

from __future__ import annotations

import multiprocessing
import os
import stat

import numpy as np
import pytest

from client_sdk import privacy
from client_sdk.privacy.mechanism import ORDERS
from he_agg import ConfigError, InputError, Reason

DIGESTS = [f"{i:064x}" for i in range(20)]
COST = np.array(ORDERS) / (2 * 4.0**2)  # Gaussian noise, z = 4
BUDGET = {"epsilon": 3.0, "delta": 1e-5}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cohort.budget"


def test_charges_add_up_and_stay(path):
    ledger = privacy.Ledger(path, **BUDGET)
    assert ledger.spent == 0.0
    before = 0.0
    for i in range(3):
        assert ledger.charge(f"fed.{i}", DIGESTS[i], COST)
        assert ledger.spent > before
        before = ledger.spent
    assert ledger.spent == pytest.approx(privacy.epsilon_of(3 * COST, 1e-5), rel=1e-12)
    again = privacy.Ledger(path, **BUDGET)
    assert again.spent == before
    assert [charge.what for charge in again.charges] == ["fed.0", "fed.1", "fed.2"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_same_bytes_are_paid_once_other_bytes_again(path):
    ledger = privacy.Ledger(path, **BUDGET)
    assert ledger.charge("fed.1", DIGESTS[0], COST)
    spent = ledger.spent
    assert not ledger.charge("fed.1", DIGESTS[0], COST)
    assert not privacy.Ledger(path, **BUDGET).charge("fed.1", DIGESTS[0], COST)
    assert ledger.spent == spent
    assert ledger.charge("fed.1", DIGESTS[1], COST)
    assert ledger.charge("fed.2", DIGESTS[0], COST)
    assert ledger.spent > spent


def test_refusal_when_the_budget_is_spent(path):
    ledger = privacy.Ledger(path, **BUDGET)
    paid = 0
    while ledger.covers(COST):
        ledger.charge(f"fed.{paid}", DIGESTS[paid], COST)
        paid += 1
    assert 1 < paid < 20
    size = path.stat().st_size
    for refuse in (lambda: ledger.charge("one.more", DIGESTS[-1], COST), lambda: ledger.require("one.more", COST)):
        with pytest.raises(privacy.BudgetSpentError, match="nothing was sent") as caught:
            refuse()
        assert caught.value.reason == Reason.FORBIDDEN
    assert path.stat().st_size == size
    assert ledger.spent <= 3.0
    assert not ledger.charge("fed.0", DIGESTS[0], COST)  # what is paid for may still be sent
    ledger.charge("smaller", DIGESTS[-1], COST * 1e-4)


def test_every_torn_last_line_is_no_charge_and_everything_before_counts(path):
    ledger = privacy.Ledger(path, **BUDGET)
    ledger.charge("fed.1", DIGESTS[0], COST)
    kept = path.read_bytes()
    ledger.charge("fed.2", DIGESTS[1], COST)
    whole = path.read_bytes()
    for length in range(len(kept), len(whole), 41):
        path.write_bytes(whole[:length])
        torn = privacy.Ledger(path, **BUDGET)
        assert [charge.what for charge in torn.charges] == ["fed.1"]
        assert torn.charge("fed.2", DIGESTS[1], COST)
        assert path.read_bytes() == whole
    head = len(whole.splitlines()[0])
    for length in range(0, head, 31):
        path.write_bytes(whole[:length])
        assert privacy.Ledger(path, **BUDGET).charges == []


def test_changed_ledgers_are_refused(path):
    ledger = privacy.Ledger(path, **BUDGET)
    for i in range(3):
        ledger.charge(f"fed.{i}", DIGESTS[i], COST)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for changed in (
        [lines[0], *lines[2:]],  # a charge taken out
        [lines[0], lines[2], lines[1], lines[3]],
        [lines[0], lines[1].replace(b"fed.0", b"fed.9"), *lines[2:]],
        [lines[0], b"{}\n", *lines[2:]],
        [b"x" + lines[0], *lines[1:]],
        [b"another file, without an end"],
    ):
        path.write_bytes(b"".join(changed))
        with pytest.raises(ConfigError):
            privacy.Ledger(path, **BUDGET)
    path.write_bytes(whole)
    assert len(privacy.Ledger(path, **BUDGET).charges) == 3
    with pytest.raises(ConfigError, match="another budget"):
        privacy.Ledger(path, epsilon=30.0, delta=1e-5)


def test_it_is_synced_before_charge_returns_and_nothing_is_charged_if_that_fails(path, monkeypatch):
    ledger = privacy.Ledger(path, **BUDGET)
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(os.fstat(descriptor).st_size), real(descriptor)))
    ledger.charge("fed.1", DIGESTS[0], COST)
    assert synced[0] == path.stat().st_size
    assert len(synced) == 2  # and the directory

    def broken(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(ConfigError, match="nothing was charged or sent"):
        ledger.charge("fed.2", DIGESTS[1], COST)
    monkeypatch.setattr(os, "fsync", real)
    assert [charge.what for charge in ledger.charges] == ["fed.1"]
    assert ledger.charge("fed.2", DIGESTS[1], COST)


def _charge_some(path, start):
    ledger = privacy.Ledger(path, **BUDGET)
    for i in range(start, start + 5):
        ledger.charge(f"fed.{i}", DIGESTS[i], COST * 0.01)


def test_two_processes_lose_no_charge(path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_charge_some, args=(path, start)) for start in (0, 5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    assert sorted(charge.what for charge in privacy.Ledger(path, **BUDGET).charges) == sorted(
        f"fed.{i}" for i in range(10)
    )


def test_costs_that_cannot_be(path):
    ledger = privacy.Ledger(path, **BUDGET)
    for wrong in (np.zeros(len(ORDERS)), -COST, COST[:-1], COST * np.nan):
        with pytest.raises(InputError):
            ledger.charge("fed.1", DIGESTS[0], wrong)
    for budget in ({"epsilon": 0, "delta": 1e-5}, {"epsilon": 1, "delta": 1.0}, {"epsilon": np.inf, "delta": 0.1}):
        with pytest.raises(InputError):
            privacy.Ledger(path.with_name("other"), **budget)
