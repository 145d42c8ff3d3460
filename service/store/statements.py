"""SQL that every request runs, put together once: making a statement costs more than running it.

Parameters are named as in schema.py; those of conditions beside values to set begin with `this_`.
"""

from __future__ import annotations

from sqlalchemy import bindparam, func, insert, select, update

from service.domain.events import Phase
from service.domain.submissions import AWAITED, State
from service.store.schema import (
    epochs,
    federations,
    invitations,
    meta,
    parts,
    rosters,
    rounds,
    submissions,
    sum_parts,
)

# federations, rosters, epochs

FEDERATIONS = select(
    federations.c.name,
    federations.c.document,
    federations.c.stage,
    federations.c.created_at,
    federations.c.paused_at,
    federations.c.sample_fraction,
    federations.c.keep_sums,
    federations.c.keep_submissions,
)
FEDERATION = FEDERATIONS.where(federations.c.name == bindparam("name"))

ROSTERS = select(rosters.c.federation, rosters.c.version, rosters.c.digest)
ROSTER = ROSTERS.where(rosters.c.federation == bindparam("federation"), rosters.c.version == bindparam("version"))
NEWEST_ROSTER = (
    ROSTERS.where(rosters.c.federation == bindparam("federation")).order_by(rosters.c.version.desc()).limit(1)
)

EPOCHS = select(epochs.c.federation, epochs.c.number, epochs.c.key_id)
NEWEST_EPOCH = EPOCHS.where(epochs.c.federation == bindparam("federation")).order_by(epochs.c.number.desc()).limit(1)

# rounds

ROUNDS = select(
    rounds.c.id,
    rounds.c.phase,
    rounds.c.opened_at,
    rounds.c.deadline_at,
    rounds.c.record,
    rounds.c.record_digest,
    rounds.c.sample_seed,
    rounds.c.sum_scrubbed,
    rounds.c.epoch,
    rounds.c.key_id,
    rounds.c.roster,
    rounds.c.roster_version,
    rounds.c.closed_at,
    rounds.c.ended_at,
)
ROUND = ROUNDS.where(rounds.c.id == bindparam("id"))
NEWEST_ROUND = (
    ROUNDS.where(rounds.c.federation == bindparam("federation"))
    .order_by(rounds.c.number.desc(), rounds.c.attempt.desc())
    .limit(1)
)
INVITED = select(invitations.c.site).where(invitations.c.round_id == bindparam("round_id"))
CHAIN_HEAD = (
    select(rounds.c.chain_index, rounds.c.record_digest)
    .where(rounds.c.federation == bindparam("federation"), rounds.c.chain_index.is_not(None))
    .order_by(rounds.c.chain_index.desc())
    .limit(1)
)
KEPT_SUMS = ROUNDS.where(
    rounds.c.federation == bindparam("federation"), rounds.c.phase == Phase.PUBLISHED.value, ~rounds.c.sum_scrubbed
).order_by(rounds.c.number.desc())
UNSUMMED = select(rounds.c.federation).where(
    rounds.c.phase.in_([phase.value for phase in (Phase.OPEN, Phase.CLOSED, Phase.FOLDING)])
)

# submissions

SUBMISSIONS = select(
    submissions.c.id, submissions.c.round_id, submissions.c.site, submissions.c.state, submissions.c.accepted_at
)
SUBMISSION = SUBMISSIONS.where(submissions.c.id == bindparam("id"))
SUBMISSION_OF = SUBMISSIONS.where(
    submissions.c.round_id == bindparam("round_id"), submissions.c.site == bindparam("site")
)
COMPLETED = select(submissions.c.site).where(
    submissions.c.round_id == bindparam("round_id"), submissions.c.state == State.COMPLETE.value
)
STORED_SUBMISSIONS = (
    select(func.count())
    .select_from(submissions.join(rounds, rounds.c.id == submissions.c.round_id))
    .where(rounds.c.federation == bindparam("federation"), ~rounds.c.scrubbed)
)
STORED_SUBMISSIONS_OF = STORED_SUBMISSIONS.where(submissions.c.site == bindparam("site"))
ADD_SUBMISSION = insert(submissions)
MOVE_SUBMISSION = update(submissions).where(submissions.c.id == bindparam("this_id")).values(state=bindparam("state"))
ACCEPT_SUBMISSION = MOVE_SUBMISSION.values(accepted_at=bindparam("at"))
TOUCH = update(submissions).where(submissions.c.id == bindparam("this_id")).values(active_at=bindparam("at"))

# parts

PARTS = select(parts.c.submission_id, parts.c.number, parts.c.digest, parts.c.stored, parts.c.damaged_at)
PARTS_OF = PARTS.where(parts.c.submission_id == bindparam("submission_id"))
PART = PARTS.where(parts.c.submission_id == bindparam("submission_id"), parts.c.number == bindparam("number"))
MISSING = (
    select(parts.c.number)
    .where(parts.c.submission_id == bindparam("submission_id"), ~parts.c.stored)
    .order_by(parts.c.number)
)
AWAITED_PARTS = (
    select(rounds.c.federation, func.count().label("parts"))
    .select_from(
        parts.join(submissions, submissions.c.id == parts.c.submission_id).join(
            rounds, rounds.c.id == submissions.c.round_id
        )
    )
    .where(submissions.c.state.in_([state.value for state in AWAITED]), ~parts.c.stored)
    .group_by(rounds.c.federation)
)
ADD_PART = insert(parts)
MARK_STORED = (
    update(parts)
    .where(parts.c.submission_id == bindparam("this_submission"), parts.c.number == bindparam("this_number"))
    .values(stored=True, damaged_at=None)
)
SUM_DIGESTS = (
    select(sum_parts.c.number, sum_parts.c.digest)
    .where(sum_parts.c.round_id == bindparam("round_id"))
    .order_by(sum_parts.c.number)
)

# changes

GENERATION = select(meta.c.number).where(meta.c.name == "generation")
BUMP = update(meta).where(meta.c.name == "generation").values(number=meta.c.number + 1)
