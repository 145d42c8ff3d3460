"""Transcripts for tests: rounds as honest members sign them, and as dishonest ones would."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from he_agg.documents.manifest import Manifest
from he_agg.documents.record import NO_RECORD, RoundRecord
from he_agg.documents.roster import Role, Roster
from he_agg.documents.signed import Signed
from he_agg.documents.transcript import encode_header
from he_agg.documents.verdict import Verdict
from he_agg.ids import RoundId
from he_agg.mac import tag_count
from he_agg.plan.plan import PublicPlan
from he_agg.signing import SigningKey
from tests.support.trust import AGGREGATOR, Consortium

__all__ = ["Entry", "History", "digest_of"]


def digest_of(text: str) -> str:
    """Some digest."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """A record, the manifests of its members, and what they said of the sum."""

    manifests: tuple[Signed[Manifest], ...]
    record: Signed[RoundRecord]
    verdicts: list[Signed[Verdict]] = field(default_factory=list)


@dataclass
class History:
    """A federation's past, growing round by round.

    Attributes:
        people: everybody's keys.
        aggregator: the aggregator's.
        plan: the plan.
        rosters: all versions.
        entries: the chain.
        epoch: of the rounds to come.
    """

    people: Consortium
    aggregator: SigningKey
    plan: PublicPlan
    rosters: list[Signed[Roster]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    epoch: int = 1

    def __post_init__(self) -> None:
        self.rosters = self.rosters or [self.people.roster]

    @property
    def head(self) -> str:
        """Digest of the last record."""
        return self.entries[-1].record.digest if self.entries else NO_RECORD

    def round(
        self,
        number: int,
        attempt: int,
        members: Sequence[str],
        *,
        manifests: Mapping[str, Mapping[str, Any]] | None = None,
        keys: Mapping[str, SigningKey] | None = None,
        roster: Signed[Roster] | None = None,
        signed_by: SigningKey | None = None,
        **record: Any,
    ) -> Entry:
        """Let a round end. Everything beyond the members is for changing what honest people would write.

        Args:
            number: of the round.
            attempt: at it.
            members: sites in the sum; none when it failed.
            manifests: changed fields of manifests, by site.
            keys: what sites sign with, if not with their own.
            roster: what the record goes by, if not the newest.
            signed_by: what the record is signed with, if not the aggregator's key.
            record: changed fields of the record.
        """
        going_by = roster or self.rosters[-1]
        common: dict[str, Any] = {
            "round_id": RoundId(self.plan.federation, number, attempt),
            "epoch": self.epoch,
            "key_id": digest_of(f"key of epoch {self.epoch}"),
            "plan_id": self.plan.plan_id,
            "roster": going_by.body_digest,
            "previous": self.head,
        }
        signed = []
        for site in sorted(members):
            manifest = Manifest(
                site=site,
                nonce=digest_of(f"{site}.{number}.{attempt}")[:32],
                part_digests=tuple(digest_of(f"{site}.{number}.{attempt}.{p.number}") for p in self.plan.places),
                tags=tuple((1, *(p.section.modulus - 1,) * (tag_count(p.section) - 1)) for p in self.plan.places),
                **common,
            )
            key = (keys or {}).get(site) or self.people.identities[site].signing_key
            signed.append(Signed.make(replace(manifest, **(manifests or {}).get(site, {})), key))
        outcome = "published" if members else "failed"
        absent = set() if record.get("outcome") == "ended" else set(going_by.body.having(Role.SITE)) - set(members)
        body = RoundRecord(
            index=len(self.entries) + 1,
            closed_at=going_by.body.issued_at + 100 * (len(self.entries) + 1),
            outcome=outcome,
            members={each.body.site: each.digest for each in signed},
            excluded=dict.fromkeys(absent, "absent"),
            sum_digests=tuple(digest_of(f"sum {p.number}") for p in self.plan.places) if members else (),
            **common,
        )
        made = Signed.make(replace(body, **record), signed_by or self.aggregator, AGGREGATOR)
        self.entries.append(Entry(tuple(signed), made))
        return self.entries[-1]

    def end(self, number: int, attempt: int = 1, reason: str = "operator", **record: Any) -> Entry:
        """Let the federation end. Arguments as for `round`."""
        return self.round(number, attempt, [], **{"outcome": "ended", "reason": reason} | record)

    def judge(self, site: str, found: str, **changed: Any) -> None:
        """Let a member of the newest record say what it found."""
        record = self.entries[-1].record
        verdict = replace(Verdict(record.body.round_id, record.digest, site, found), **changed)
        self.entries[-1].verdicts.append(Signed.make(verdict, self.people.identities[verdict.site].signing_key))

    def documents(self) -> list[Signed]:
        """Everything signed, in the order of a transcript."""
        found: list[Signed] = list(self.rosters)
        for entry in self.entries:
            found += [*entry.manifests, entry.record, *entry.verdicts]
        return found

    def lines(self) -> list[bytes]:
        """The lines of the transcript, without line feeds."""
        return [encode_header(self.plan), *(document.encode() for document in self.documents())]

    def encode(self) -> bytes:
        """The transcript."""
        return b"".join(line + b"\n" for line in self.lines())
