"""Read and write what holders send, and what is dealt to them, where one-time keys are split."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import ColumnElement, Table, delete, insert, select

from he_agg.ids import RoundId
from service.domain.events import Phase
from service.domain.submissions import State
from service.store.queries import Queries
from service.store.schema import answers, complaints, dealings, echoes, rounds, sharing_keys, submissions

__all__ = ["HoldingRows"]


class HoldingRows(Queries):
    """What a transaction reads and writes about sharing keys, dealings, echoes, answers and complaints."""

    def sharing_key(self, federation: str, epoch: int, holder: str) -> bytes | None:
        """Return the canonical bytes of a holder's sharing key."""
        these = _keys(federation, epoch) & (sharing_keys.c.holder == holder)
        return self._bytes(select(sharing_keys.c.document).where(these))

    def sharing_keys(self, federation: str, epoch: int) -> dict[str, bytes]:
        """Return the canonical bytes of the sharing keys of an epoch, by holder, sorted."""
        query = select(sharing_keys.c.holder, sharing_keys.c.document).where(_keys(federation, epoch))
        return {row.holder: bytes(row.document) for row in sorted(self._run(query), key=lambda row: row.holder)}

    def holders_with_keys(self, federation: str, epoch: int) -> list[str]:
        """Return which holders have a sharing key in an epoch, sorted."""
        query = select(sharing_keys.c.holder).where(_keys(federation, epoch))
        return sorted(self._all(lambda row: str(row.holder), query))

    def add_sharing_key(self, federation: str, epoch: int, holder: str, document: bytes, at: int) -> None:
        """Write a sharing key."""
        values = {"federation": federation, "epoch": epoch, "holder": holder}
        self._run(insert(sharing_keys).values(**values, document=document, stored_at=at))

    def drop_sharing_keys(self, federation: str, epoch: int, holders: Collection[str]) -> None:
        """Forget the sharing keys of holders. The lists of rounds keep those that were in them."""
        these = _keys(federation, epoch) & sharing_keys.c.holder.in_(holders)
        self._run(delete(sharing_keys).where(these))

    def holder_list(self, round_id: RoundId) -> bytes | None:
        """Return the list of holders of a round as it travels; None where keys are shared."""
        return self._bytes(select(rounds.c.holder_list).where(rounds.c.id == str(round_id)))

    def has_dealing(self, submission_id: str) -> bool:
        """Tell whether the dealing of a submission is here."""
        query = select(dealings.c.submission_id).where(dealings.c.submission_id == submission_id)
        return self._run(query).first() is not None

    def add_dealing(self, submission_id: str, data: bytes) -> None:
        """Write the dealing of a submission."""
        self._run(insert(dealings).values(submission_id=submission_id, data=data))

    def dealings(self, round_id: RoundId) -> dict[str, bytes]:
        """Return the dealings of all complete submissions to an attempt, by site, sorted."""
        query = (
            select(submissions.c.site, dealings.c.data)
            .join(submissions, submissions.c.id == dealings.c.submission_id)
            .where(submissions.c.round_id == str(round_id), submissions.c.state == State.COMPLETE.value)
        )
        return {row.site: bytes(row.data) for row in sorted(self._run(query), key=lambda row: row.site)}

    def dealings_to_remove(self, settled_before: int) -> list[RoundId]:
        """Return rounds whose dealings nobody needs any more: they have failed, or were settled long ago."""
        mine = select(submissions.c.round_id).join(dealings, submissions.c.id == dealings.c.submission_id)
        done = (rounds.c.phase == Phase.FAILED.value) | (rounds.c.settled_at < settled_before)
        query = select(rounds.c.id).where(done, rounds.c.id.in_(mine.scalar_subquery())).order_by(rounds.c.id)
        return self._all(lambda row: RoundId.parse(row.id), query)

    def remove_dealings(self, round_id: RoundId) -> None:
        """Remove the dealings of a round."""
        mine = select(submissions.c.id).where(submissions.c.round_id == str(round_id)).scalar_subquery()
        self._run(delete(dealings).where(dealings.c.submission_id.in_(mine)))

    def echo(self, round_id: RoundId, holder: str) -> bytes | None:
        """Return the canonical bytes of a holder's echo."""
        return self._said(echoes, round_id, holder)

    def echoes(self, round_id: RoundId) -> list[bytes]:
        """Return the canonical bytes of all echoes for a round, by holder."""
        return self._documents(echoes, round_id)

    def echoed(self, round_id: RoundId) -> list[str]:
        """Return which holders have echoed a round's record, sorted."""
        return self._holders(echoes, round_id)

    def add_echo(self, round_id: RoundId, holder: str, document: bytes, at: int) -> None:
        """Write a holder's echo."""
        self._run(insert(echoes).values(round_id=str(round_id), holder=holder, document=document, stored_at=at))

    def answer(self, round_id: RoundId, holder: str) -> bytes | None:
        """Return the canonical bytes of a holder's answer."""
        return self._said(answers, round_id, holder)

    def answers(self, round_id: RoundId) -> list[bytes]:
        """Return the canonical bytes of all answers for a round, by holder."""
        return self._documents(answers, round_id)

    def answered(self, round_id: RoundId) -> list[str]:
        """Return which holders have answered for a round, sorted."""
        return self._holders(answers, round_id)

    def add_answer(self, round_id: RoundId, holder: str, document: bytes, at: int) -> None:
        """Write a holder's answer."""
        self._run(insert(answers).values(round_id=str(round_id), holder=holder, document=document, stored_at=at))

    def complaint(self, round_id: RoundId, holder: str, dealer: str) -> bytes | None:
        """Return the canonical bytes of a holder's complaint of a dealer."""
        these = _of(complaints, round_id) & (complaints.c.holder == holder) & (complaints.c.dealer == dealer)
        return self._bytes(select(complaints.c.document).where(these))

    def complaints(self, round_id: RoundId) -> list[bytes]:
        """Return the canonical bytes of all complaints in a round, by holder and dealer."""
        query = select(complaints.c.holder, complaints.c.dealer, complaints.c.document)
        found = self._run(query.where(_of(complaints, round_id))).all()
        return [bytes(row.document) for row in sorted(found, key=lambda row: (row.holder, row.dealer))]

    def complained(self, round_id: RoundId) -> list[tuple[str, str, str]]:
        """Return (holder, dealer, fault) of all complaints in a round, sorted."""
        query = select(complaints.c.holder, complaints.c.dealer, complaints.c.fault)
        return sorted(
            self._all(lambda row: (row.holder, row.dealer, row.fault), query.where(_of(complaints, round_id)))
        )

    def add_complaint(self, round_id: RoundId, holder: str, dealer: str, fault: str, document: bytes, at: int) -> None:
        """Write a holder's complaint of a dealer."""
        values = {"round_id": str(round_id), "holder": holder, "dealer": dealer, "fault": fault}
        self._run(insert(complaints).values(**values, document=document, stored_at=at))

    def _said(self, table: Table, round_id: RoundId, holder: str) -> bytes | None:
        return self._bytes(select(table.c.document).where(_of(table, round_id), table.c.holder == holder))

    def _documents(self, table: Table, round_id: RoundId) -> list[bytes]:
        found = self._run(select(table.c.holder, table.c.document).where(_of(table, round_id))).all()
        return [bytes(row.document) for row in sorted(found, key=lambda row: row.holder)]

    def _holders(self, table: Table, round_id: RoundId) -> list[str]:
        return sorted(self._all(lambda row: str(row.holder), select(table.c.holder).where(_of(table, round_id))))


def _keys(federation: str, epoch: int) -> ColumnElement[bool]:
    return (sharing_keys.c.federation == federation) & (sharing_keys.c.epoch == epoch)


def _of(table: Table, round_id: RoundId) -> ColumnElement[bool]:
    return table.c.round_id == str(round_id)
