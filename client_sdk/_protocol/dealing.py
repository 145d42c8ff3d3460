"""Deal a submission's one-time key to the holders of its round, while the codec has it; and send what was dealt."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from client_sdk._disk.spool import SpoolEntry
from client_sdk._disk.stored import Stored
from client_sdk._effects import Flow, Request, compute
from client_sdk._protocol.exchange import exchange
from client_sdk._protocol.history import refusing
from client_sdk._protocol.lists import list_to_deal_to
from client_sdk._protocol.outgoing import Outgoing
from client_sdk._protocol.poll import OpenRound
from client_sdk._protocol.session import Session
from he_agg.documents.sharing import HolderList
from he_agg.errors import ProtocolError, Reason, WireError
from he_agg.ids import RoundId
from he_agg.sharing.context import Context
from he_agg.sharing.dealer import deal
from he_agg.sharing.dealing import Dealing
from keys import GroupKey
from keys.dealing import sealing_to

__all__ = ["DAMAGED_ON_THE_WAY", "TRIES", "Dealer", "check_dealing", "send_dealing"]

DAMAGED_ON_THE_WAY = (Reason.BAD_DIGEST, Reason.TRUNCATED)
"""What an aggregator says of a body that is not what was sent."""

TRIES = 3
"""How often one body may arrive changed before the path to the aggregator is called broken, or be lost afterwards."""


class Dealer:
    """What a codec hands the one-time key to. The dealing is in the spool before anything is encrypted under the key.

    Attributes:
        digest: of the dealing, once it is made: what the manifest says.
        on_dealt: is told the digest then.
    """

    def __init__(
        self,
        entry: SpoolEntry,
        key: GroupKey,
        round_id: RoundId,
        site: str,
        nonce: str,
        holders: HolderList,
        kept: str | None = None,
    ) -> None:
        """Deal, or leave it at what was dealt before.

        Args:
            kept: digest of that, if it was: the same key is not dealt twice.
        """
        self.digest = kept
        self.on_dealt: Callable[[str], None] = lambda _: None
        self._entry, self._mask_key, self._holders = entry, key.mask_key, holders
        self._context = Context(
            round_id=round_id,
            epoch=key.epoch,
            plan_id=key.plan_id,
            key_id=key.key_id,
            roster=holders.roster,
            holders=holders.digest,
            dealer=site,
            nonce=nonce,
        )

    def __call__(self, one_time_key: NDArray[np.int8]) -> None:
        """Deal it, and store what was dealt, durably.

        Raises:
            ConfigError: the spool cannot be written.
        """
        if self.digest is None:
            seal = sealing_to(self._holders.receiving)
            dealing = deal(one_time_key, self._mask_key, self._context, self._holders.holders, seal)
            self._entry.write_dealing(dealing.to_bytes())
            self.digest = dealing.digest
        self.on_dealt(self.digest)


def send_dealing(session: Session, opened: OpenRound, entry: SpoolEntry, outgoing: Outgoing, until: float) -> Flow[int]:
    """Send a submission's dealing, which has to be there before the submission can be complete.

    Args:
        until: when trying again becomes pointless, on the driver's clock. Units: seconds.

    Returns:
        How long it is. Units: bytes.

    Raises:
        WireError: the spool is damaged: what is stored is not what the manifest names.
    """
    yield from compute(outgoing.wait_for_dealing)
    body = yield from compute(entry.dealing)
    request = Request(
        "PUT",
        f"/v1/rounds/{opened.id}/submissions/{outgoing.upload}/dealing",
        frozenset({200, 201}),
        body=body,
        headers={"Content-Type": "application/octet-stream"},
    )
    tries = 0
    while True:
        tries += 1
        try:
            yield from exchange(session.retries, request, until)
        except ProtocolError as error:
            if error.reason not in (*DAMAGED_ON_THE_WAY, Reason.BAD_FIELD, Reason.BAD_MAGIC, Reason.BAD_VERSION):
                raise
            yield from check_dealing(session, opened, entry, (yield from compute(outgoing.stored)))
            if error.reason not in DAMAGED_ON_THE_WAY or tries == TRIES:
                raise
        else:
            return len(body)


def check_dealing(session: Session, opened: OpenRound, entry: SpoolEntry, stored: Stored) -> Flow[None]:
    """See whether it is this site's own disk that has damaged a dealing. After a refusal only: it takes the list."""
    body = yield from compute(entry.dealing)
    listed = list_to_deal_to(session, opened.id, opened.epoch, opened.records)
    holders = yield from refusing(session, "holders-rejected", opened.id, listed)
    try:
        digest = (yield from compute(partial(Dealing.parse, body, holders.holders))).digest
    except WireError as error:
        raise entry.damaged_dealing(error.message) from error
    if (holders.digest, digest) != (stored.manifest.holders, stored.manifest.dealing):
        raise entry.damaged_dealing("it is not the one that the manifest names")
