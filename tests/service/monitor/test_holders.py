"""Whom a split federation waits for is shown to the operator, with what can be done about it."""

from __future__ import annotations

import re
import time

import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console

from he_agg.errors import InputError
from he_agg.sharing.shares import Fault
from service.monitor.metrics import _Stored
from service.monitor.view import take_view
from service.operator import federation, operations
from service.operator.federation import _table
from service.operator.watch import _draw
from tests.support.holding import Held, put_sharing_key, submit_all
from tests.support.peers import make_plan
from tests.support.simulated import SimulatedFederation


@pytest.fixture
def inside(tmp_path):
    plan = make_plan("f", split=True, min_sites=3, rounds=5)
    made = SimulatedFederation(tmp_path / "data", plan, holders=("a", "b", "c", "trustee"))
    yield made
    made.end()


def view(inside):
    aggregator = inside.aggregator
    return take_view(aggregator.store, aggregator.part_store, inside.settings, time.time())


def shown(inside):
    (one,) = view(inside)["federations"]
    return one


def table(inside):
    return _table(operations.show(inside.aggregator.store, inside.settings, "f"))


def watched(inside):
    console = Console(width=200)
    with console.capture() as capture:
        console.print(_draw(view(inside)))
    return capture.get()


def metrics(inside):
    registry = CollectorRegistry()
    registry.register(_Stored(inside.aggregator))
    found = re.findall(r'he_agg_(holders\w*|awaited\w*)\{federation="f"\} (\S+)', generate_latest(registry).decode())
    return {name: float(value) for name, value in found}


def publish(inside):
    for name in ("a", "b", "c"):
        assert put_sharing_key(inside.at(name)).status_code == 201
    submit_all(inside.plan, inside.at, "f.1.1")
    inside.fold()


def test_who_has_no_sharing_key_is_shown(inside):
    assert put_sharing_key(inside.at("a")).status_code == 201
    assert shown(inside)["holding"] == {
        "quorum": 3,
        "threshold": 2,
        "holders": [{"holder": name, "has_key": name == "a"} for name in ("a", "b", "c", "trustee")],
        "ready": False,
        "awaited": None,
    }
    told = "1 of 4 have a sharing key of epoch 1, not b, c, trustee: NO ROUND OPENS before 3 have one"
    assert f"  holders {told}" in table(inside)
    assert f"no round yet; holders: {told}" in table(inside)
    assert told in watched(inside)
    assert metrics(inside) == {"holders": 4, "holders_with_key": 1, "holders_quorum": 3, "awaited": 0}


def test_who_is_awaited_is_shown_and_can_be_skipped(inside):
    publish(inside)
    a, b, c = (Held(inside.at(name), "f.1.1") for name in "abc")
    assert shown(inside)["holding"]["awaited"]["waits_for"] == ["a", "b", "c", "trustee"]
    assert a.echo().status_code == b.echo().status_code == a.complain("b", Fault.OPENED).status_code == 201
    awaited = shown(inside)["holding"]["awaited"]
    assert (awaited["id"], awaited["since"]) == ("f.1.1", int(inside.clock.now))
    assert awaited["waits_for"] == ["c", "trustee"]
    assert c.echo().status_code == 201
    assert shown(inside)["holding"]["awaited"]["waits_for"] == ["a", "b", "c"]  # the trustee was dealt nothing
    assert b.answer().status_code == 201
    line = "round f.1.1 waits for its holders: 3 of 3 echoes (a, b, c), 1 of 2 answers (b); not yet a, c"
    complaint = "a complains of the dealing of b in round f.1.1 (opened)"
    assert "round f.1.1 is published, 3 of 3 sites complete" in table(inside)
    assert "; its holders are awaited" in table(inside)
    for text in (line, complaint, "without them: `he-agg federation skip f`"):
        assert text in table(inside)
    assert line in watched(inside)
    assert complaint in watched(inside)
    assert metrics(inside) == {
        "holders": 4, "holders_with_key": 3, "holders_quorum": 3, "awaited": 1, "awaited_echoes": 3,
        "awaited_answers": 1, "awaited_complaints": 1, "awaited_since_timestamp_seconds": int(inside.clock.now),
    }  # fmt: skip
    result = CliRunner().invoke(federation.federation_skip, ["f", "--data-dir", str(inside.settings.data_dir)])
    assert result.exit_code == 0, result.output
    assert "federation f waits for no holders any longer: round f.2.1 is open" in result.output
    assert shown(inside)["holding"]["awaited"] is None
    assert "f.1.1 waits" not in table(inside) + watched(inside)
    (ended,) = shown(inside)["history"]
    assert (ended["answered"], ended["settled_at"] is not None) == (["b"], True)
    # Who comes now is heard all the same.
    assert a.answer().status_code == 201
    assert shown(inside)["history"][0]["answered"] == ["a", "b"]


def test_nothing_is_skipped_that_is_not_awaited(inside, tmp_path):
    store, conductor = inside.aggregator.store, inside.aggregator.conductor
    with pytest.raises(InputError, match="expected a round whose holders are awaited, there is none"):
        operations.skip(store, conductor, "f")
    shared = SimulatedFederation(tmp_path / "shared", make_plan("g"))
    with pytest.raises(InputError, match="its sites share one-time keys"):
        operations.skip(shared.aggregator.store, shared.aggregator.conductor, "g")
    shared.end()


def test_a_rejected_sum_is_not_tried_again_where_keys_are_split(inside):
    publish(inside)
    store, conductor = inside.aggregator.store, inside.aggregator.conductor
    operations.skip(store, conductor, "f")
    for site, found in zip("abc", ("rejected", "rejected", "rejected"), strict=True):
        assert inside.at(site).judge("f.1.1", found).status_code == 201
    with pytest.raises(InputError, match="no round is tried again where keys are split"):
        operations.dispute(store, conductor, "f")
    assert shown(inside)["round"]["id"] == "f.2.1"
