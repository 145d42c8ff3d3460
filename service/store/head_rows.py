"""Read at once, by one statement, what the head of a submission is met with."""

from __future__ import annotations

from collections import namedtuple
from itertools import accumulate, pairwise
from typing import Any

from sqlalchemy import bindparam, func, select

from service.store.federation_rows import FEDERATIONS, FederationRows, federation_of
from service.store.queries import columns_of
from service.store.round_rows import ROUNDS, RoundRows, round_of
from service.store.rows import RosterRow
from service.store.schema import federations, invitations, rosters, rounds, submissions
from service.store.statements import Prepared
from service.store.submission_rows import SUBMISSIONS, SubmissionRows, submission_from

__all__ = ["HeadRows"]

_TABLES = (ROUNDS, FEDERATIONS, select(*columns_of(rosters, RosterRow)), select(invitations.c.site), SUBMISSIONS)
_FIELDS: list[Any] = [namedtuple("Found", each.selected_columns.keys()) for each in _TABLES]
_PLACES = [slice(*ends) for ends in pairwise(accumulate((len(each._fields) for each in _FIELDS), initial=0))]
_others = rosters.alias()
_NEWEST = select(func.max(_others.c.version)).where(_others.c.federation == rounds.c.federation).scalar_subquery()
_OF_SITE = (submissions.c.round_id == bindparam("round_id")) & (submissions.c.site == bindparam("site"))
_HEAD = Prepared(
    select(*(column for each in _TABLES for column in each.selected_columns))
    .select_from(
        rounds.join(federations, federations.c.name == rounds.c.federation)
        .join(rosters, (rosters.c.federation == rounds.c.federation) & (rosters.c.version == _NEWEST))
        .outerjoin(invitations, (invitations.c.round_id == rounds.c.id) & (invitations.c.site == bindparam("site")))
        .outerjoin(submissions, _OF_SITE | (submissions.c.id == bindparam("upload")))
    )
    .where(rounds.c.id == bindparam("round_id"), rounds.c.federation == bindparam("federation"))
)


class HeadRows(FederationRows, RoundRows, SubmissionRows):
    """What a transaction reads for the head of a submission."""

    def look_at_head(self, federation: str, round_id: str, site: str, upload: str) -> None:
        """Read a round of a federation, its newest roster, whether a site is invited, and its submission.

        They are remembered for the methods that are asked for each of them. Without such a round nothing is.
        """
        values = {"federation": federation, "round_id": round_id, "site": site, "upload": upload}
        rows = self._run(_HEAD, values).all()
        if not rows:
            return
        found = self._found
        round_, named, roster, invited, _ = _apart(rows[0])
        found["round", round_id] = round_of(round_)
        found["federation", federation] = federation_of(named)
        found["newest roster", federation] = RosterRow(*roster)
        found["is invited", round_id, site] = invited.site is not None
        found["submission", upload] = found["submission of", round_id, site] = None
        for submission in (_apart(row)[-1] for row in rows):
            if submission.id is not None:
                self._know(submission_from(submission))


def _apart(row: Any) -> list[Any]:
    return [fields._make(row[place]) for fields, place in zip(_FIELDS, _PLACES, strict=True)]
