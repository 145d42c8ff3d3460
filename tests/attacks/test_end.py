"""Ends of a federation that are none: only a record ends a training, the last of the chain, and never twice."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from client_sdk.training import train
from he_agg import HeAggError, ProtocolError, Reason
from he_agg.documents.record import RoundRecord
from he_agg.documents.signed import Signed
from he_agg.documents.state import FederationState
from he_agg.signing import SigningKey
from tests.attacks.malicious import Exchange, Lies
from tests.support.real import SITES, in_threads
from tests.support.regression import fit_for, model, plan_for
from tests.support.trust import AGGREGATOR

A, B, C = SITES
_AT = re.compile(r"/records/(\d+)\Z")


@dataclass
class FalseEnd:
    """Goes on with the honest chain as a liar does who has the aggregator's key.

    Attributes:
        stage: what the state says.
        changes: of each record that is added, of what an end would be that its operator made now.
        signer: what the records are signed with, if not the aggregator's key.
    """

    key: SigningKey
    stage: str = "ended"
    changes: tuple[dict[str, Any], ...] = ({},)
    signer: SigningKey | None = None
    state: FederationState | None = None
    added: list[Signed[RoundRecord]] = field(default_factory=list)
    _one_story: threading.Lock = field(default_factory=threading.Lock)
    """Sites ask at once: no one is to see the state of an end whose records are not made yet."""

    def lies(self) -> Lies:
        return Lies(answer=self._answer)

    def _answer(self, exchange: Exchange, status: int, body: bytes) -> tuple[int, bytes]:
        at = _AT.search(exchange.path)
        if exchange.path.endswith("/state"):
            honest = Signed.parse(FederationState, body).body
            with self._one_story:
                if self.state is None:
                    self._add(honest)
                    self.state = honest
            index = self.state.index + len(self.added)
            head = self.added[-1].digest if self.added else self.state.head
            false = replace(honest, stage=self.stage, index=index, head=head, open=None)
            return 200, Signed.make(false, self.key, AGGREGATOR).encode()
        if at is not None and self.state is not None and int(at[1]) > self.state.index:
            return 200, self.added[int(at[1]) - self.state.index - 1].encode()
        return status, body

    def _add(self, state: FederationState) -> None:
        assert state.round_id is not None
        head, index = state.head, state.index
        for number, changes in enumerate(self.changes):
            index += 1
            end = RoundRecord(
                round_id=replace(state.round_id, attempt=state.round_id.attempt + number),
                index=index,
                previous=head,
                closed_at=1,
                roster=state.roster,
                epoch=state.epoch,
                key_id=state.key_id,
                plan_id=state.plan_id,
                outcome="ended",
                members={},
                excluded={},
                sum_digests=(),
                reason="operator",
            )
            self.added.append(Signed.make(replace(end, **changes), self.signer or self.key, AGGREGATOR))
            head = self.added[-1].digest


FAILED = {"outcome": "failed", "reason": None, "excluded": dict.fromkeys(SITES, "absent")}
LATER = {"closed_at": 2}
LIES: dict[str, tuple[dict[str, Any], Reason, str]] = {
    "a state without a record": ({"changes": ()}, Reason.CHAIN_MISMATCH, "state, stage: expected not ended"),
    "a record that a stranger has signed": (
        {"signer": SigningKey.generate()}, Reason.BAD_SIGNATURE, "record, signature",
    ),
    "a record of another history": (
        {"changes": ({"index": 2, "previous": "ab" * 32},)}, Reason.CHAIN_MISMATCH, "record, index: expected 1, got 2",
    ),
    "an end before a record": ({"changes": ({}, FAILED)}, Reason.CHAIN_MISMATCH, "none after the federation's end"),
    "two ends": ({"changes": ({}, LATER)}, Reason.CHAIN_MISMATCH, "none after the federation's end"),
    "an early end that calls itself regular": (
        {"changes": ({"reason": "rounds"},)}, Reason.BAD_ANSWER, "reason of the end: expected operator, got rounds",
    ),
    "an end that skips rounds": (
        {"changes": ({"reason": "rounds"},)}, Reason.CHAIN_MISMATCH, "round and attempt",
    ),
    "a record of an end, and going on": (
        {"stage": "running"}, Reason.CHAIN_MISMATCH, "state, stage: expected ended, as its last record says",
    ),
}  # fmt: skip
STAYS = {"an end before a record", "two ends", "a record of an end, and going on"}
"""Where the site has seen a first, true end by then: it stays with that, and says so."""


def false_end(world: Any, lie: str) -> FalseEnd:
    how = dict(LIES[lie][0])
    if lie == "an end that skips rounds":
        skipped = {"round_id": replace(world.open_sites[A].status().round_id, number=world.plan.public.rounds + 1)}
        how["changes"] = ({**how["changes"][0], **skipped},)
    return FalseEnd(world.liar._key, **how)


@pytest.mark.parametrize("lie", LIES)
def test_a_false_end_ends_nothing(world, lie):
    """It is an error with a reason and a line in the security log; with the truth, the same site goes on."""
    _, reason, what = LIES[lie]
    site = world.open_sites[A]
    world.liar.lies = false_end(world, lie).lies()
    with pytest.raises(ProtocolError, match=re.escape(what)) as caught:
        next(site.rounds(), None)
    assert caught.value.reason is reason
    assert str(site._session.log.path) in caught.value.hint
    assert what.split(":")[0] in (world.directory(A) / "security.log").read_text()
    assert site.notices == ()
    world.liar.lies = Lies()
    if lie in STAYS:
        with pytest.raises(ProtocolError) as caught:
            next(site.rounds(), None)
        assert caught.value.reason is Reason.CHAIN_MISMATCH
        world.submit(B, C)  # the others were not asked, and go on
    else:
        world.assert_honest(A, world.submit(*SITES))


def test_an_end_that_takes_back_a_receipt_is_evidence(world):
    """The attempt that never opened has taken this site's submission, signed."""
    round_id = world.submit(A)
    world.liar.lies = FalseEnd(world.liar._key).lies()
    with pytest.raises(ProtocolError, match="ends the federation as if the attempt") as caught:
        world.open_sites[A].status()
    assert caught.value.reason is Reason.RECEIPT_BROKEN
    (broken,) = world.open_sites[A].evidence()
    assert str(broken.record.body.round_id) == round_id
    assert "never opened" in broken.check()


@pytest.mark.parametrize("lie", ["a state without a record", "an end that skips rounds", None])
def test_a_training_stops_with_an_error_and_keeps_no_end(found, tmp_path, lie):
    """After one round; with the truth, the same call with the same checkpoint goes on. None: a true early end."""
    world = found(plan_of=lambda name: plan_for(name, rounds=3))

    def learn(name: str, hook: Callable[[Any], None]) -> Any:
        fit, file = fit_for(SITES.index(name)), tmp_path / f"{name}.npz"
        return train(world.open_sites[name], model(), fit, checkpoint=file, hooks=[hook])

    def lie_now() -> None:
        world.liar.lies = (FalseEnd(world.liar._key) if lie is None else false_end(world, lie)).lies()

    together = threading.Barrier(len(SITES), lie_now, timeout=120)

    def lies_after_one(name: str) -> Any:
        def hook(report: Any) -> None:
            if report.round == 1:
                together.wait()

        try:
            return learn(name, hook)
        except HeAggError as error:
            return error

    results = in_threads(lies_after_one)
    for name, result in zip(SITES, results, strict=True):
        kept = str(np.load(tmp_path / f"{name}.npz")["he-agg/meta"])
        assert '"done": ""' in kept, kept
        if lie is None:
            assert result.stopped == "ended"
            assert "ended early" in result.notes[-1]
        else:
            assert isinstance(result, ProtocolError), result
            assert result.reason is LIES[lie][1]
    if lie is not None:
        world.liar.lies = Lies()
        results = in_threads(lambda name: learn(name, lambda _: None))
        assert {result.stopped for result in results} == {"ended"}
        assert {len(result.history) for result in results} == {3}
        assert not any("early" in note for result in results for note in result.notes)
