"""A sum that sites reject is shown to the operator, with who said what, and accuses nobody."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, generate_latest

from he_agg.documents.verdict import OPENED, REJECTED
from service.monitor.metrics import _Stored
from service.monitor.view import take_view
from service.operator import operations
from service.operator.federation import _table
from tests.support.peers import make_plan
from tests.support.simulated import SimulatedFederation


def test_a_disputed_round_is_shown_until_enough_sites_have_opened_it(tmp_path, caplog):
    inside = SimulatedFederation(tmp_path / "data", make_plan("f", rounds=5))
    for i, site in enumerate("abc"):
        inside.submit(site, i, "f.1.1")
    inside.fold_one("f.1.1")

    def seen():
        aggregator = inside.aggregator
        view = take_view(aggregator.store, aggregator.part_store, inside.settings, time.time())
        (federation,) = view["federations"]
        return federation["disputed"], federation["history"][0]["verdicts"]

    def told():
        (shown,) = operations.show(inside.aggregator.store, inside.settings, "f")
        return _table([shown])

    assert seen() == (None, {})
    assert inside.at("a").judge("f.1.1", OPENED).status_code == 201
    assert seen() == (None, {"a": OPENED})
    assert inside.at("b").judge("f.1.1", REJECTED).status_code == 201
    said = {"a": OPENED, "b": REJECTED}
    assert seen() == ({"id": "f.1.1", "verdicts": said, "quorum": 2}, said)
    assert "DISPUTED: a opened, b rejected; 2 must open it" in told()
    assert "a site has rejected a sum" in caplog.text
    assert 'he_agg_disputed{federation="f"} 1.0' in metrics(inside)
    assert inside.at("c").judge("f.1.1", OPENED).status_code == 201
    assert seen() == (None, said | {"c": OPENED})
    assert "DISPUTED" not in told()
    assert 'he_agg_disputed{federation="f"} 0.0' in metrics(inside)
    inside.end()


def metrics(inside):
    registry = CollectorRegistry()
    registry.register(_Stored(inside.aggregator))
    return generate_latest(registry).decode()
