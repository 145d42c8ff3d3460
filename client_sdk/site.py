"""`Site`: a hospital's end of a federation, blocking. `async_site.py` has the same verbs on asyncio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self, TypeVar, Unpack

from client_sdk._base import RoundBase, SiteBase
from client_sdk._effects import Flow
from client_sdk._net.transport import Transport
from client_sdk._protocol import verbs as _flows
from client_sdk._protocol.poll import last_published, next_round, open_round, status
from client_sdk.federated import Outcome, Sending, Update
from client_sdk.progress import Listener
from he_agg.documents.state import FederationState
from he_agg.ids import RoundId
from he_agg.plan.fixedpoint import Mean
from he_agg.protocol.messages import Receipt

__all__ = ["Round", "Site"]

T = TypeVar("T")


class Site(SiteBase):
    """One hospital in one federation. Make it with `Site.open`, and close it, or use it in a `with` statement.

    Every method raises a `HeAggError` whose `reason` is for programs and whose `hint` says what to do next.
    """

    _connect = Transport
    _transport: Transport

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rounds(self) -> Iterator[Round]:
        """Yield every round that this site is invited to, as it opens, each once; end with the federation.

        While nothing is open it waits. An aggregator that is away for less than `patience_s` is waited for.
        A round that this site has submitted to already, before a restart, comes too: look at `round.submitted`.

        Raises:
            KeystoreError: the federation uses another group key than the keystore's; nothing was encrypted.
            PlanError: the federation follows another plan.
            TransportError: the aggregator was away for too long.
            ProtocolError: it refused, offers a roster that does not follow the pinned one, or went back on records.
            ConfigError: the roster has expired, or does not list this site any more.
        """
        after: str | None = None
        while (opened := self._run(next_round(self._session, after))) is not None:
            after = str(opened.id)
            yield Round(self, opened)

    def current(self) -> Round | None:
        """Return the open round to which this site is invited, without waiting; None if there is none.

        Raises:
            KeystoreError: the federation uses another group key than the keystore's.
            PlanError: the federation follows another plan.
            TransportError: the aggregator was away for too long.
            ProtocolError: it refused.
        """
        opened = self._run(open_round(self._session))
        return None if opened is None else Round(self, opened)

    def status(self) -> FederationState:
        """Tell where the federation stands: what an aggregator has signed and this site's records agree with.

        Raises:
            TransportError: the aggregator was away for too long.
            ProtocolError: it refused.
        """
        return self._run(status(self._session))

    def last_published(self) -> str | None:
        """Return the id of the newest round with a mean, by the records that this site has verified; None if none.

        Raises:
            TransportError: the aggregator was away for too long.
            ProtocolError: it refused, or says what is not to be believed.
        """
        found = self._run(last_published(self._session))
        return None if found is None else str(found)

    def fetch(self, round_id: str | None = None) -> Mean:
        """Wait for the mean of a round, download and decrypt it.

        Args:
            round_id: which round; the newest published one if None.

        Raises:
            WireError: not a round id.
            InputError: a round of another federation.
            TransportError: the aggregator was away for too long.
            ProtocolError: the round failed, or the aggregator refused.
            DecryptionError: `SUM_REJECTED`, as for `Round.aggregate`.
        """
        if round_id is None:
            return self._run(_flows.fetch_latest(self._session))
        return self._run(_flows.fetch(self._session, RoundId.parse(round_id)))

    def close(self) -> None:
        """Close the connections to the aggregator."""
        self._closed = True
        self._transport.close()

    def _run(self, flow: Flow[T], note: Listener | None = None) -> T:
        self._check_open()
        return self._transport.run(flow, self._heard(note))


class Round(RoundBase):
    """One open round. Train, then `take_part`, or `aggregate` where a round without this site is an error."""

    def take_part(
        self, update: Mapping[str, Any] | None = None, weight: int | None = None, **how: Unpack[Sending]
    ) -> Outcome:
        """Encrypt, upload, wait, download, decrypt; a round that failed or was missed is an outcome, not an error.

        What unattended sites want. A round that failed has no mean, and its next attempt comes by itself; one that
        this site was too late for has the mean of the others. A round that this site has submitted something else to,
        before a restart or on another machine, is finished with that.

        Args:
            update: as for `aggregate`; None to finish what this site has submitted to the round before.
            weight: as for `aggregate`; 0 takes no part in the round, and waits for the mean of the others. They wait,
                too: until the round's deadline.
            how: as for `aggregate`.

        Raises:
            InputError: tensors or weight are not what the plan allows.
            TransportError: as for `aggregate`.
            ProtocolError: the aggregator refused for another reason, or contradicts what it told before.
            ConfigError: as for `aggregate`.
            DecryptionError: as for `aggregate`.
        """
        made = self._given(update, weight, **how)
        return self._run(_flows.take_part(self._session, self._opened, made))

    def aggregate(self, update: Mapping[str, Any], weight: int, **how: Unpack[Sending]) -> Mean:
        """Encrypt, upload, wait, download, decrypt: the weighted mean of all sites' updates.

        Called again with the same update after an interruption or a crash, it sends only what is missing, from the
        spool: the same bytes, never a new encryption.

        Args:
            update: named arrays, exactly the plan's tensors.
            weight: this site's sample count, 1 to the plan's cap. It is encrypted like the rest.
            how: `rounding="nearest"`, or "stochastic", which is unbiased; `on_overflow="error"`, or "clip", for values
                beyond the clip bound; `may_repeat=True` for an update that is in an earlier sum already, which is
                refused otherwise. Two sums with the same update in them, but not the same sites, differ by the updates
                of the others alone.

        Raises:
            InputError: tensors or weight are not what the plan allows, another update is stored for this round, or this
                one is in an earlier sum.
            TransportError: the aggregator was away for too long; the encrypted submission stays in the spool.
            ProtocolError: `ROUND_FAILED` (too few sites), `ROUND_CLOSED` (this site missed it; `fetch` gets the mean
                of the others), or the aggregator tells a history of records that contradicts what it told before.
            ConfigError: the roster has expired.
            DecryptionError: `SUM_REJECTED`: what the aggregator published is not what it must be; nothing was
                released, and the security log of the site says why.
        """
        return self._run(_flows.aggregate(self._session, self._opened, Update(update, weight, **how)))

    def submit(self, update: Mapping[str, Any], weight: int, **how: Unpack[Sending]) -> Receipt:
        """Encrypt and upload only. `fetch` or `resume` gets the mean later.

        Returns:
            The aggregator's promise to count the submission, or to name why not in the round's record.

        Raises:
            InputError: as for `aggregate`.
            TransportError: as for `aggregate`.
            ProtocolError: the round is closed, or the aggregator refused.
        """
        return self._run(_flows.submit(self._session, self._opened, Update(update, weight, **how)))

    def resume(self) -> Mean:
        """Finish the submission that is stored for this round: send what is missing, wait, download, decrypt.

        Raises:
            InputError: nothing is stored for this round.
            TransportError: as for `aggregate`.
            ProtocolError: as for `aggregate`.
            DecryptionError: as for `aggregate`.
        """
        return self._run(_flows.resume(self._session, self._opened))

    def fetch(self) -> Mean:
        """Wait for the mean, download and decrypt it; this site need not be in it.

        Raises:
            TransportError: as for `aggregate`.
            ProtocolError: as for `aggregate`.
            DecryptionError: as for `aggregate`.
        """
        return self._run(_flows.fetch(self._session, self._opened.id, self._opened.closes_at))

    def _run(self, flow: Flow[T]) -> T:
        site: Site = self._site
        return site._run(flow, self._note)
