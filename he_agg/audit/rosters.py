"""Rosters in a transcript: each signed by those of the one before, the first by coordinators whom the auditor knows."""

from __future__ import annotations

from collections.abc import Mapping

from he_agg.audit.findings import Coordinator, Notes, RosterRow
from he_agg.documents.roster import Role, Roster, check_follows, check_signed
from he_agg.documents.signed import Signed
from he_agg.errors import Reason, WireError, counted

__all__ = ["RosterChain"]


class RosterChain:
    """Follows rosters."""

    def __init__(self, notes: Notes, fingerprints: Mapping[str, str] | None) -> None:
        self._result = notes.result
        self._find = notes.find
        self._fingerprints = fingerprints
        self._any = False
        self._newest: Signed[Roster] | None = None
        self.trusted: dict[str, Roster] = {}

    def take(self, signed: Signed[Roster]) -> None:
        """Check the next roster, and trust it if it follows."""
        roster = signed.body
        first, self._any = not self._any, True
        try:
            if first:
                self._first(signed)
            elif self._newest is not None:
                check_follows(signed, self._newest)
            else:
                return
        except WireError as error:
            self._find("roster-signature" if error.reason == Reason.BAD_SIGNATURE else "roster-version", error.message)
            return
        self._newest = signed
        self.trusted[signed.body_digest] = roster
        signers = sorted(signed.signers(roster.keys_of(Role.COORDINATOR)))
        self._result.rosters.append(
            RosterRow(
                roster.version,
                signed.body_digest,
                roster.issued_at,
                roster.expires_at,
                tuple(roster.having(Role.SITE)),
                roster.min_sites,
                tuple(signers),
            )
        )

    def _first(self, signed: Signed[Roster]) -> None:
        roster = signed.body
        if (roster.federation, roster.version) != (self._result.federation, 1):
            raise WireError(
                Reason.ROSTER_MISMATCH,
                f"expected version 1 of the roster of {self._result.federation} first, "
                f"got version {roster.version} of {roster.federation}",
            )
        check_signed(signed)
        given = None if self._fingerprints is None else {n: _compact(f) for n, f in self._fingerprints.items()}
        coordinators = roster.having(Role.COORDINATOR)
        confirmed = set()
        for name, member in coordinators.items():
            if given is not None and given.pop(name, None) == _compact(member.fingerprint):
                confirmed.add(name)
            elif self._fingerprints is not None and name in self._fingerprints:
                self._find(
                    "coordinator",
                    f"coordinator {name}: expected the fingerprint that was given, got {member.fingerprint}",
                )
            self._result.coordinators.append(Coordinator(name, member.fingerprint, name in confirmed))
        if given:
            self._find("coordinator", f"the first roster has no coordinator {min(given)!a}")
        if given is not None:
            keys = {name: coordinators[name].public_key for name in confirmed}
            signers = signed.signers(keys)
            if len(signers) < roster.threshold:
                self._find(
                    "coordinator",
                    f"expected the first roster to be signed by {counted(roster.threshold, 'coordinator')} of given "
                    f"fingerprints, got {len(signers)}",
                )


def _compact(text: str) -> str:
    return "".join(text.split()).lower()
