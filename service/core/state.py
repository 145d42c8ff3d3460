"""Tell where a federation stands, signed: once for each change, and then out of memory, however many ask."""

from __future__ import annotations

from dataclasses import dataclass, replace

from he_agg.documents.signed import Signed
from he_agg.documents.state import FederationState, OpenAttempt
from service.core.conductor import Conductor
from service.core.roster_cache import newest_roster
from service.core.verdicts import disputed_round
from service.domain.events import Phase, Stage
from service.store.rows import FederationRow
from service.store.transaction import Transaction

__all__ = ["SignedState", "States"]


@dataclass(frozen=True)
class SignedState:
    """A state as it travels: the canonical bytes, and their SHA-256 in hex.

    Attributes:
        generation: the number of `Transaction.generation` that it was last the newest at.
    """

    generation: int
    body: FederationState
    document: bytes
    digest: str


class States:
    """The newest state of each federation that was asked for."""

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor
        self._newest: dict[str, SignedState] = {}

    def of(self, tx: Transaction, row: FederationRow) -> SignedState:
        """Return a federation's state as a transaction sees it.

        Raises:
            InputError: the newest roster does not list this aggregator's key.
        """
        generation, newest = tx.generation(), self._newest.get(row.name)
        if newest is None or newest.generation != generation:  # nothing that is in a state changes without a bump
            body = _body(tx, row)
            if newest is not None and newest.body == body:
                newest = replace(newest, generation=generation)
            else:
                name = self._conductor.signer(tx, row.name, body.roster_version)
                signed = Signed.make(body, self._conductor.key.signing_key, name)
                newest = SignedState(generation, body, signed.encode(), signed.digest)
            self._newest[row.name] = newest
        return newest


def _body(tx: Transaction, row: FederationRow) -> FederationState:
    newest, epoch, head = tx.newest_round(row.name), tx.newest_epoch(row.name), tx.chain_head(row.name)
    roster, disputed = newest_roster(tx, row.name), disputed_round(tx, row.name)
    opened, stage = None, row.stage
    awaited = newest is not None and newest.is_awaited
    if stage is Stage.ENDED and newest is not None and (awaited or newest.phase in (Phase.CLOSED, Phase.FOLDING)):
        stage = Stage.RUNNING  # ended for its operator; its sites still get a sum, and then hear it
    if row.stage is Stage.RUNNING and newest is not None and newest.phase is Phase.OPEN:
        invited = tuple(sorted(tx.invited(newest.id)))
        opened = OpenAttempt(newest.id.number, newest.id.attempt, newest.opened_at, newest.deadline_at, invited)
    return FederationState(
        federation=row.name,
        stage=stage.value,
        plan_id=row.parsed.plan.plan_id,
        epoch=epoch.number,
        key_id=epoch.key_id,
        roster=roster.body_digest,
        roster_version=roster.body.version,
        index=head.index,
        head=head.digest,
        open=opened,
        disputed=None if disputed is None else disputed.id,
        awaited=newest.id if newest is not None and awaited else None,
    )
