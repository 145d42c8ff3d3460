"""Strategies for everything that is signed, and one fixed example of each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from he_agg import canonical
from he_agg.documents.epoch import Commitment, EpochBundle
from he_agg.documents.holding import Answer, Complaint, Echo
from he_agg.documents.manifest import Manifest
from he_agg.documents.record import NO_RECORD, RoundRecord
from he_agg.documents.roster import SUITE_BYTES, Member, Receiving, Role, Roster, check_signed
from he_agg.documents.sharing import SharingKey
from he_agg.documents.signed import Body, Signed
from he_agg.documents.state import STAGES, FederationState, OpenAttempt
from he_agg.documents.verdict import OPENED, REJECTED, Verdict
from he_agg.ids import RoundId
from he_agg.protocol.messages import Receipt
from he_agg.sharing.shares import ANSWER_BYTES, Fault
from he_agg.sharing.thresholds import Thresholds
from he_agg.signing import SigningKey
from tests.support.trust import roster_of

__all__ = ["EXAMPLES", "KEYS", "Example", "bodies", "encoded", "key_of", "parsed"]


def key_of(name: str) -> SigningKey:
    """A key that follows from a name: vectors must not change from day to day."""
    return SigningKey.from_bytes(name.encode().ljust(32, b".")[:32])


KEYS = {name: key_of(name) for name in ("hospital-a", "hospital-b", "coordinator", "second", "aggregator")}

names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
epochs = st.integers(1, 10**9)
times = st.integers(0, 2**40)
numbers = st.integers(1, 10**9 - 1)
round_ids = st.builds(RoundId, names, numbers, numbers)


def _receiving(suite: str) -> st.SearchStrategy[Receiving]:
    size = SUITE_BYTES[suite]
    # Long keys out of few random bytes: Hypothesis has a budget.
    return st.binary(min_size=32, max_size=32).map(lambda seed: Receiving(suite, (seed * (size // 32)).hex()))


receivings = st.sampled_from(sorted(SUITE_BYTES)).flatmap(_receiving)


@st.composite
def _rosters(draw: Callable[..., Any]) -> Roster:
    some = st.frozensets(st.sampled_from([role for role in Role if role is not Role.HOLDER]))
    roles = {name: draw(some) for name in draw(st.sets(names, min_size=1, max_size=4))}
    first, min_sites, holders = min(roles), draw(st.integers(2, 10_000)), None
    if len(roles) >= 3 and min_sites >= 3 and draw(st.booleans()):
        roles = {name: has | {Role.HOLDER} for name, has in roles.items()}
        holders = Thresholds.choose(len(roles))
    roles[first] |= {Role.COORDINATOR}
    keys = draw(st.lists(digests, unique=True, min_size=len(roles), max_size=len(roles)))
    members = {}
    for (name, has), key in zip(roles.items(), keys, strict=True):
        receiving = draw(receivings) if Role.SITE in has else draw(st.none() | receivings)
        members[name] = Member(name, key, has, receiving)
    issued_at = draw(st.integers(0, 2**39))
    coordinators = sum(Role.COORDINATOR in has for has in roles.values())
    return roster_of(
        federation=draw(names),
        version=draw(epochs),
        issued_at=issued_at,
        expires_at=issued_at + draw(st.integers(1, 400 * 86400)),
        threshold=draw(st.integers(1, coordinators)),
        min_sites=min_sites,
        members=members,
        holders=holders,
    )


@st.composite
def _records(draw: Callable[..., Any]) -> RoundRecord:
    outcome = draw(st.sampled_from(["published", "failed", "ended"]))
    sites = sorted(draw(st.sets(names, max_size=0 if outcome == "ended" else 5)))
    inside = draw(st.integers(0, len(sites)))
    index = draw(st.integers(1, 2**53 - 1))
    return RoundRecord(
        round_id=draw(round_ids),
        index=index,
        previous=NO_RECORD if index == 1 else draw(digests.filter(lambda digest: digest != NO_RECORD)),
        closed_at=draw(times),
        roster=draw(digests),
        epoch=draw(epochs),
        key_id=draw(digests),
        plan_id=draw(digests),
        outcome=outcome,
        members={site: draw(digests) for site in sites[:inside]},
        excluded={site: draw(st.text(max_size=63)) for site in sites[inside:]},
        gives_up=draw(st.none() | digests) if outcome == "failed" else None,
        sum_digests=tuple(draw(st.lists(digests, min_size=1, max_size=3))) if outcome == "published" else (),
        reason=draw(st.sampled_from(["rounds", "operator"])) if outcome == "ended" else None,
    )


@st.composite
def _states(draw: Callable[..., Any]) -> FederationState:
    index, stage = draw(st.integers(0, 3) | st.integers(0, 2**53 - 1)), draw(st.sampled_from(STAGES))
    opened = None
    if stage == "running" and draw(st.booleans()):
        invited = tuple(sorted(draw(st.sets(names, max_size=4))))
        opened = OpenAttempt(draw(numbers), draw(numbers), draw(times), draw(times), invited)
    name = draw(names)
    awaits = opened is None and stage != "ended"
    return FederationState(
        federation=name,
        stage=stage,
        plan_id=draw(digests),
        epoch=draw(epochs),
        key_id=draw(digests),
        roster=draw(digests),
        roster_version=draw(epochs),
        index=index,
        head=draw(digests.filter(lambda digest: digest != NO_RECORD)) if index else NO_RECORD,
        open=opened,
        disputed=draw(st.none() | st.builds(RoundId, st.just(name), numbers, numbers)),
        awaited=draw(st.none() | st.builds(RoundId, st.just(name), numbers, numbers)) if awaits else None,
    )


_shares = st.binary(min_size=8, max_size=8).map(lambda seed: seed * (ANSWER_BYTES // 8))
_tags = st.lists(st.lists(st.integers(0, 10**20 - 1), max_size=3).map(tuple), max_size=3).map(tuple)
bodies: Mapping[str, st.SearchStrategy[Any]] = {
    "roster": _rosters(),
    "manifest": st.builds(
        Manifest,
        round_id=round_ids,
        epoch=epochs,
        key_id=digests,
        plan_id=digests,
        site=names,
        nonce=st.binary(min_size=16, max_size=16).map(bytes.hex),
        part_digests=st.lists(digests, max_size=3).map(tuple),
        tags=_tags,
        roster=digests,
        previous=digests,
        holders=st.none() | digests,
        dealing=st.none() | digests,
    ),
    "record": _records(),
    "receipt": st.builds(Receipt, digests, round_ids.map(str), names, times),
    "epoch": st.builds(
        EpochBundle,
        federation=names,
        epoch=epochs,
        plan_id=digests,
        key_id=digests,
        roster=digests,
        roster_version=epochs,
        dealer=names,
        payload=st.binary(max_size=60),
        sealed=st.dictionaries(names, st.binary(max_size=40), min_size=1, max_size=3),
    ),
    "state": _states(),
    "commitment": st.builds(Commitment, names, epochs, digests, names),
    "verdict": st.builds(Verdict, round_ids, digests, names, st.sampled_from([OPENED, REJECTED])),
    "sharing-key": st.builds(SharingKey, names, epochs, names, receivings),
    "echo": st.builds(Echo, round_ids, digests, names),
    "answer": st.builds(Answer, round_ids, digests, names, _shares),
    "complaint": st.builds(Complaint, round_ids, digests, names, names, st.just(Fault.SEALED))
    | st.builds(Complaint, round_ids, digests, names, names, st.just(Fault.OPENED), st.binary(max_size=80)),
}


@dataclass(frozen=True)
class Example:
    """One document, signed with fixed keys.

    Attributes:
        document: the body, signed.
        keys: of those who may sign it.
    """

    document: Signed
    keys: dict[str, bytes]

    @property
    def body(self) -> Any:
        """What it says."""
        return self.document.body

    @property
    def signers(self) -> tuple[str, ...]:
        """Who has signed."""
        return tuple(self.document.signatures)

    def parse_body(self, data: bytes) -> Any:
        """Read another body of this kind."""
        return parsed(type(self.body), data)

    def check(self, data: bytes) -> Any:
        """Read another document of this kind, and see that whoever has to has signed it."""
        document = Signed.parse(type(self.body), data)
        if isinstance(document.body, Roster):
            check_signed(document)
        else:
            document.check_signed(self.keys)
        return document.body


def _hex(digit: str) -> str:
    return digit * 64


_PUBLIC = {name: key.public_key for name, key in KEYS.items()}


def _member(name: str, suite: str | None, *roles: Role) -> Member:
    receiving = None if suite is None else Receiving(suite, "5a" * SUITE_BYTES[suite])
    return Member(name, _PUBLIC[name].hex(), frozenset(roles), receiving)


_ROUND = RoundId("stroke", 3, 1)
_ROSTER = roster_of(
    federation="stroke",
    version=1,
    issued_at=1_800_000_000,
    expires_at=1_800_000_000 + 365 * 86400,
    threshold=2,
    min_sites=3,
    members={
        "hospital-a": _member("hospital-a", "x25519", Role.SITE, Role.HOLDER),
        "hospital-b": _member("hospital-b", "mlkem768-x25519", Role.SITE, Role.HOLDER),
        "coordinator": _member("coordinator", "x25519", Role.COORDINATOR, Role.HOLDER),
        "second": _member("second", None, Role.COORDINATOR, Role.HOLDER),
        "aggregator": _member("aggregator", None, Role.AGGREGATOR),
    },
    holders=Thresholds.choose(4),
)
_MANIFEST = Manifest(
    round_id=_ROUND,
    epoch=1,
    key_id=_hex("a"),
    plan_id=_hex("b"),
    site="hospital-a",
    nonce="0f" * 16,
    part_digests=(_hex("1"), _hex("2")),
    tags=((0, 1099511480320),),
    roster="",
    previous=_hex("c"),
    holders=_hex("5"),
    dealing=_hex("6"),
)


def _examples() -> dict[str, Example]:
    roster = Signed(_ROSTER)
    signed_roster = roster.signed_by("coordinator", KEYS["coordinator"]).signed_by("second", KEYS["second"])
    manifest = replace(_MANIFEST, roster=roster.body_digest)
    signed_manifest = Signed.make(manifest, KEYS["hospital-a"])
    record = RoundRecord(
        round_id=_ROUND,
        index=7,
        previous=_hex("c"),
        closed_at=1_800_003_600,
        roster=roster.body_digest,
        epoch=1,
        key_id=_hex("a"),
        plan_id=_hex("b"),
        outcome="published",
        members={"hospital-a": signed_manifest.digest},
        excluded={"hospital-b": "absent"},
        sum_digests=(_hex("3"), _hex("4")),
    )
    receipt = Receipt(signed_manifest.digest, str(_ROUND), "hospital-a", 1_800_001_000)
    bundle = EpochBundle(
        federation="stroke",
        epoch=1,
        plan_id=_hex("b"),
        key_id=_hex("a"),
        roster=roster.body_digest,
        roster_version=1,
        dealer="coordinator",
        payload=bytes(range(40)),
        sealed={"hospital-a": b"sealed to a", "hospital-b": b"sealed to b"},
    )
    state = FederationState(
        federation="stroke",
        stage="running",
        plan_id=_hex("b"),
        epoch=1,
        key_id=_hex("a"),
        roster=roster.body_digest,
        roster_version=1,
        index=6,
        head=_hex("c"),
        open=OpenAttempt(3, 1, 1_800_000_000, 1_800_003_600, ("hospital-a", "hospital-b")),
        disputed=RoundId("stroke", 2, 1),
    )
    commitment = Commitment("stroke", 1, _hex("a"), "hospital-a")
    signed_record = Signed.make(record, KEYS["aggregator"], "aggregator")
    verdict = Verdict(_ROUND, signed_record.digest, "hospital-a", OPENED)
    sharing_key = SharingKey("stroke", 1, "hospital-a", Receiving("x25519", "5a" * SUITE_BYTES["x25519"]))
    echo = Echo(_ROUND, signed_record.digest, "hospital-a")
    answer = Answer(_ROUND, signed_record.digest, "hospital-a", bytes(range(256)) * (ANSWER_BYTES // 256))
    complaint = Complaint(_ROUND, signed_record.digest, "hospital-a", "hospital-b", Fault.OPENED, bytes(range(80)))

    coordinators = {name: _PUBLIC[name] for name in ("coordinator", "second")}
    site, aggregator = {"hospital-a": _PUBLIC["hospital-a"]}, {"aggregator": _PUBLIC["aggregator"]}
    by_aggregator = (KEYS["aggregator"], "aggregator")
    examples = (
        Example(signed_roster, coordinators),
        Example(signed_manifest, site),
        Example(signed_record, aggregator),
        Example(Signed.make(receipt, *by_aggregator), aggregator),
        Example(Signed.make(state, *by_aggregator), aggregator),
        Example(Signed.make(bundle, KEYS["coordinator"]), coordinators),
        Example(Signed.make(commitment, KEYS["hospital-a"]), site),
        Example(Signed.make(verdict, KEYS["hospital-a"]), site),
        *(Example(Signed.make(body, KEYS["hospital-a"]), site) for body in (sharing_key, echo, answer, complaint)),
    )
    return {example.body.KIND: example for example in examples}


AUTHORS = {
    **dict.fromkeys(("manifest", "commitment", "verdict"), "site"),
    **dict.fromkeys(("sharing-key", "echo", "answer", "complaint"), "holder"),
    "epoch": "dealer",
}
"""The member that names whose one signature a document carries."""


def encoded(body: Body) -> bytes:
    """The canonical bytes of a body alone."""
    return canonical.encode(body.to_json())


def parsed(kind: type[Body], data: bytes) -> Any:
    """Read a body as a document holds it, signed by whoever it names."""
    body = canonical.parse(data, 2**24)
    author = AUTHORS.get(kind.KIND)
    name = body.get(author) if author and isinstance(body, dict) else "someone"
    signatures = {name: "00" * 64} if isinstance(name, str) else {}
    return Signed.from_json(kind, {"v": 1, "kind": kind.KIND, "body": body, "signatures": signatures}).body


EXAMPLES = _examples()
