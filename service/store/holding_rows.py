"""Read and write what holders send, and what is dealt to them, where one-time keys are split."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import BindParameter, Table, bindparam, delete, insert, select

from he_agg.ids import RoundId
from service.domain.events import Phase
from service.domain.submissions import State
from service.store.queries import Queries
from service.store.schema import answers, complaints, dealings, echoes, rounds, sharing_keys, submissions
from service.store.statements import Prepared, adding

__all__ = ["HoldingRows"]

_ROUND_ID: BindParameter[str] = bindparam("round_id")
_KEYS_OF = (sharing_keys.c.federation == bindparam("federation")) & (sharing_keys.c.epoch == bindparam("epoch"))
_SHARING_KEY = Prepared(select(sharing_keys.c.document).where(_KEYS_OF, sharing_keys.c.holder == bindparam("holder")))
_SHARING_KEYS = Prepared(select(sharing_keys.c.holder, sharing_keys.c.document).where(_KEYS_OF))
_HOLDER_LIST = Prepared(select(rounds.c.holder_list).where(rounds.c.id == _ROUND_ID))
_DEALING_DIGEST = Prepared(select(dealings.c.digest).where(dealings.c.submission_id == bindparam("id")))
_ADD_DEALING = adding(dealings, "submission_id", "digest", "data")
_DEALINGS = Prepared(
    select(submissions.c.site, dealings.c.data)
    .join(submissions, submissions.c.id == dealings.c.submission_id)
    .where(submissions.c.round_id == _ROUND_ID, submissions.c.state == State.COMPLETE.value)
)
_DEALT = select(submissions.c.round_id).join(dealings, submissions.c.id == dealings.c.submission_id)
_DEALINGS_TO_REMOVE = Prepared(
    select(rounds.c.id)
    .where((rounds.c.phase == Phase.FAILED.value) | (rounds.c.settled_at < bindparam("before")))
    .where(rounds.c.id.in_(_DEALT.scalar_subquery()))
    .order_by(rounds.c.id)
)
_COMPLAINT = Prepared(
    select(complaints.c.document).where(
        complaints.c.round_id == _ROUND_ID,
        complaints.c.holder == bindparam("holder"),
        complaints.c.dealer == bindparam("dealer"),
    )
)
_COMPLAINTS = Prepared(
    select(complaints.c.holder, complaints.c.dealer, complaints.c.fault, complaints.c.document).where(
        complaints.c.round_id == _ROUND_ID
    )
)


class _Said:
    """Statements about what holders send: one document of each for a round."""

    def __init__(self, table: Table) -> None:
        these = table.c.round_id == _ROUND_ID
        self.one = Prepared(select(table.c.document).where(these, table.c.holder == bindparam("holder")))
        self.all = Prepared(select(table.c.holder, table.c.document).where(these))
        self.holders = Prepared(select(table.c.holder).where(these))
        self.add = adding(table, "round_id", "holder", "document", "stored_at")


_ECHOES, _ANSWERS = _Said(echoes), _Said(answers)


class HoldingRows(Queries):
    """What a transaction reads and writes about sharing keys, dealings, echoes, answers and complaints."""

    def sharing_key(self, federation: str, epoch: int, holder: str) -> bytes | None:
        """Return the canonical bytes of a holder's sharing key."""
        return self._bytes(_SHARING_KEY, federation=federation, epoch=epoch, holder=holder)

    def sharing_keys(self, federation: str, epoch: int) -> dict[str, bytes]:
        """Return the canonical bytes of the sharing keys of an epoch, by holder, sorted."""
        found = self._run(_SHARING_KEYS, {"federation": federation, "epoch": epoch})
        return {row.holder: bytes(row.document) for row in sorted(found, key=lambda row: row.holder)}

    def holders_with_keys(self, federation: str, epoch: int) -> list[str]:
        """Return which holders have a sharing key in an epoch, sorted."""
        return list(self.sharing_keys(federation, epoch))

    def add_sharing_key(self, federation: str, epoch: int, holder: str, document: bytes, at: int) -> None:
        """Write a sharing key."""
        values = {"federation": federation, "epoch": epoch, "holder": holder}
        self._run(insert(sharing_keys).values(**values, document=document, stored_at=at))

    def drop_sharing_keys(self, federation: str, epoch: int, holders: Collection[str]) -> None:
        """Forget the sharing keys of holders. The lists of rounds keep those that were in them."""
        these = (sharing_keys.c.federation == federation) & (sharing_keys.c.epoch == epoch)
        these &= sharing_keys.c.holder.in_(holders)
        self._run(delete(sharing_keys).where(these))

    def holder_list(self, round_id: RoundId) -> bytes | None:
        """Return the list of holders of a round as it travels; None where keys are shared."""
        return self._bytes(_HOLDER_LIST, round_id=str(round_id))

    def dealing_digest(self, submission_id: str) -> str | None:
        """Return the digest of the dealing of a submission; None if it is not here."""
        found: str | None = self._run(_DEALING_DIGEST, {"id": submission_id}).scalar()
        return found

    def add_dealing(self, submission_id: str, digest: str, data: bytes) -> None:
        """Write the dealing of a submission."""
        self._run(_ADD_DEALING, {"submission_id": submission_id, "digest": digest, "data": data})

    def drop_dealing(self, submission_id: str) -> None:
        """Forget the dealing of a submission, so that another may come in its place."""
        self._run(delete(dealings).where(dealings.c.submission_id == submission_id))

    def dealings(self, round_id: RoundId) -> dict[str, bytes]:
        """Return the dealings of all complete submissions to an attempt, by site, sorted."""
        found = self._run(_DEALINGS, {"round_id": str(round_id)})
        return {row.site: bytes(row.data) for row in sorted(found, key=lambda row: row.site)}

    def dealings_to_remove(self, settled_before: int) -> list[RoundId]:
        """Return rounds whose dealings nobody needs any more: they have failed, or were settled long ago."""
        return self._all(lambda row: RoundId.parse(row.id), _DEALINGS_TO_REMOVE, before=settled_before)

    def remove_dealings(self, round_id: RoundId) -> None:
        """Remove the dealings of a round."""
        mine = select(submissions.c.id).where(submissions.c.round_id == str(round_id)).scalar_subquery()
        self._run(delete(dealings).where(dealings.c.submission_id.in_(mine)))

    def echo(self, round_id: RoundId, holder: str) -> bytes | None:
        """Return the canonical bytes of a holder's echo."""
        return self._bytes(_ECHOES.one, round_id=str(round_id), holder=holder)

    def echoes(self, round_id: RoundId) -> list[bytes]:
        """Return the canonical bytes of all echoes for a round, by holder."""
        return self._documents(_ECHOES, round_id)

    def echoed(self, round_id: RoundId) -> list[str]:
        """Return which holders have echoed a round's record, sorted."""
        return self._holders(_ECHOES, round_id)

    def add_echo(self, round_id: RoundId, holder: str, document: bytes, at: int) -> None:
        """Write a holder's echo."""
        self._add(_ECHOES, round_id, holder, document, at)

    def answer(self, round_id: RoundId, holder: str) -> bytes | None:
        """Return the canonical bytes of a holder's answer."""
        return self._bytes(_ANSWERS.one, round_id=str(round_id), holder=holder)

    def answers(self, round_id: RoundId) -> list[bytes]:
        """Return the canonical bytes of all answers for a round, by holder."""
        return self._documents(_ANSWERS, round_id)

    def answered(self, round_id: RoundId) -> list[str]:
        """Return which holders have answered for a round, sorted."""
        return self._holders(_ANSWERS, round_id)

    def add_answer(self, round_id: RoundId, holder: str, document: bytes, at: int) -> None:
        """Write a holder's answer."""
        self._add(_ANSWERS, round_id, holder, document, at)

    def complaint(self, round_id: RoundId, holder: str, dealer: str) -> bytes | None:
        """Return the canonical bytes of a holder's complaint of a dealer."""
        return self._bytes(_COMPLAINT, round_id=str(round_id), holder=holder, dealer=dealer)

    def complaints(self, round_id: RoundId) -> list[bytes]:
        """Return the canonical bytes of all complaints in a round, by holder and dealer."""
        found = self._run(_COMPLAINTS, {"round_id": str(round_id)})
        return [bytes(row.document) for row in sorted(found, key=lambda row: (row.holder, row.dealer))]

    def complained(self, round_id: RoundId) -> list[tuple[str, str, str]]:
        """Return (holder, dealer, fault) of all complaints in a round, sorted."""
        found = self._run(_COMPLAINTS, {"round_id": str(round_id)})
        return sorted((row.holder, row.dealer, row.fault) for row in found)

    def add_complaint(self, round_id: RoundId, holder: str, dealer: str, fault: str, document: bytes, at: int) -> None:
        """Write a holder's complaint of a dealer."""
        values = {"round_id": str(round_id), "holder": holder, "dealer": dealer, "fault": fault}
        self._run(insert(complaints).values(**values, document=document, stored_at=at))

    def _add(self, said: _Said, round_id: RoundId, holder: str, document: bytes, at: int) -> None:
        self._run(said.add, {"round_id": str(round_id), "holder": holder, "document": document, "stored_at": at})

    def _documents(self, said: _Said, round_id: RoundId) -> list[bytes]:
        found = self._run(said.all, {"round_id": str(round_id)})
        return [bytes(row.document) for row in sorted(found, key=lambda row: row.holder)]

    def _holders(self, said: _Said, round_id: RoundId) -> list[str]:
        return sorted(self._all(lambda row: str(row.holder), said.holders, round_id=str(round_id)))
