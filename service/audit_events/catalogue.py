"""List every event of the audit log: its name, its severity, what it tells, and which fields it may have.

The page of audit events of `make docs` is made from it. A field that is not known is left out. No event holds
plaintext, a key, a token, a link, or anything out of an update.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

__all__ = ["CATALOGUE", "FIELDS", "Kind", "Severity"]


class Severity(IntEnum):
    """How urgent an event is, by RFC 5424."""

    ALERT = 1
    CRITICAL = 2
    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6


@dataclass(frozen=True)
class Kind:
    """One kind of event.

    Attributes:
        name: at most 32 characters, what it is about and what has become of it.
        fields: which of `FIELDS` it may have.
        meaning: one sentence, the same for each event of the kind.
    """

    name: str
    severity: Severity
    fields: tuple[str, ...]
    meaning: str


FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "by": "who did it: a user of the machine, a member, or a person by the identity provider's name",
        "via": "how: `command`, `request` of a member, `page`; of a sign-in, by `link` or by `oidc`",
        "action": "what was asked for: `pause`, `resume` or `skip`",
        "role": "`operator` or `viewer`",
        "source": "address that the connection came from; a proxy's, if there is one",
        "federation": "name of the federation",
        "member": "name of the member that it is about, proved by its signature",
        "claimed": "federation/name that a request claimed to come from, which nobody has proved",
        "round": "id of the attempt at a round: federation.number.attempt",
        "members": "how many members the roster or the sum has",
        "removed": "how many sites and holders the new roster does not list any more",
        "record": "SHA-256 of the signed record",
        "records": "how many records were exported",
        "roster_version": "version of the roster",
        "epoch": "number of the epoch",
        "key_id": "id of the group key, which is no part of the key",
        "dealer": "the member that dealt the key, or whose dealing is complained of",
        "part": "number of the part",
        "reason": "why, one of a closed set: `he-agg explain REASON`, and the words of records and complaints",
        "request": "`X-Request-Id` of the answer, and `id` of its line in the aggregator's own log",
        "count": "how often, since an event of the same kind, reason and sender was sent",
        "lost": "how many events could not be sent",
        "version": "version of he-agg",
        "purpose": "`serve` or `work`",
    }
)

_ACT = ("by", "via")
_ALL = (
    Kind("aggregator.started", Severity.NOTICE, ("purpose", "version"), "A process of the aggregator has started"),
    Kind("aggregator.stopped", Severity.NOTICE, ("purpose",), "A process of the aggregator was asked to stop"),
    Kind(
        "aggregator.key-not-listed",
        Severity.CRITICAL,
        ("federation",),
        "The newest roster does not list this aggregator's key, so nothing can be signed",
    ),
    Kind(
        "aggregator.key-forgotten",
        Severity.WARNING,
        _ACT,
        "Which key replicas have to sign with was forgotten: the next one brings its own",
    ),
    Kind("operator.link-made", Severity.NOTICE, _ACT, "A link to the operators' page was made"),
    Kind(
        "operator.signed-in",
        Severity.INFO,
        ("by", "via", "role", "source"),
        "Somebody has signed in to the operators' page",
    ),
    Kind(
        "operator.sign-in-failed",
        Severity.WARNING,
        ("by", "via", "source", "reason", "count"),
        "Somebody could not sign in to the operators' page",
    ),
    Kind(
        "operator.signed-out", Severity.INFO, ("by", "via", "source"), "Somebody has signed out of the operators' page"
    ),
    Kind(
        "operator.refused",
        Severity.WARNING,
        ("federation", "action", "source", "count", *_ACT),
        "A viewer has tried what is for operators",
    ),
    Kind(
        "federation.created",
        Severity.NOTICE,
        ("federation", "roster_version", "members", "epoch", "key_id", *_ACT),
        "A federation was registered",
    ),
    Kind("federation.started", Severity.NOTICE, ("federation", *_ACT), "A federation was started"),
    Kind("federation.paused", Severity.NOTICE, ("federation", *_ACT), "A federation was paused"),
    Kind("federation.resumed", Severity.NOTICE, ("federation", *_ACT), "A paused federation goes on"),
    Kind(
        "federation.skipped",
        Severity.WARNING,
        ("federation", "round", *_ACT),
        "The holders of a sum are not waited for any longer; it may stay unopened",
    ),
    Kind(
        "federation.sum-given-up",
        Severity.WARNING,
        ("federation", "round", *_ACT),
        "A disputed sum was given up, and its round is tried again",
    ),
    Kind(
        "federation.ended",
        Severity.NOTICE,
        ("federation", "reason", "record", *_ACT),
        "A federation has ended for good",
    ),
    Kind(
        "federation.exported",
        Severity.NOTICE,
        ("federation", "records", *_ACT),
        "The transcript of a federation, all that is signed, was written to a file",
    ),
    Kind(
        "roster.changed",
        Severity.NOTICE,
        ("federation", "roster_version", "members", "removed", *_ACT),
        "A new version of the signed roster holds",
    ),
    Kind(
        "epoch.changed",
        Severity.NOTICE,
        ("federation", "epoch", "key_id", "dealer", *_ACT),
        "The sealed bundle of a group key was brought in",
    ),
    Kind(
        "request.refused",
        Severity.WARNING,
        ("reason", "federation", "member", "claimed", "source", "request", "count"),
        "A request was refused for who sent it or how it was signed",
    ),
    Kind(
        "member.sent-key",
        Severity.ALERT,
        ("federation", "member", "source", "request", "count"),
        "A member has sent what looks like a key; it was not kept",
    ),
    Kind(
        "quota.exceeded",
        Severity.WARNING,
        ("reason", "federation", "member", "source", "request", "count"),
        "A member wanted more room or more requests at once than it may have",
    ),
    Kind(
        "store.full",
        Severity.ALERT,
        ("federation", "member", "request", "count"),
        "There is no room for a submission on the disk or in the object store",
    ),
    Kind(
        "part.damaged",
        Severity.CRITICAL,
        ("federation", "round", "member", "part"),
        "A stored part is not what was received; its site is asked for it again",
    ),
    Kind(
        "folding.failed", Severity.ERROR, ("federation", "round", "count"), "A sum could not be made; it is tried again"
    ),
    Kind(
        "round.published",
        Severity.INFO,
        ("federation", "round", "members", "record"),
        "A round has a sum, with a signed record of who is in it",
    ),
    Kind(
        "round.failed",
        Severity.WARNING,
        ("federation", "round", "reason", "record"),
        "An attempt at a round has failed, with a signed record of why",
    ),
    Kind(
        "verdict.rejected",
        Severity.ERROR,
        ("federation", "round", "member"),
        "A site says, signed, that it could not open a sum",
    ),
    Kind(
        "dealing.complained",
        Severity.ERROR,
        ("federation", "round", "member", "dealer", "reason"),
        "A holder complains, signed, of what a member dealt to it",
    ),
    Kind(
        "audit-log.gap",
        Severity.WARNING,
        ("lost",),
        "The audit log's target is back, and events before this one were lost",
    ),
)
CATALOGUE: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in _ALL})
"""Every kind of event, by name."""
