"""Strategies for everything that is signed, and one fixed example of each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from he_agg.documents.epoch import Commitment, EpochBundle, SignedBundle, SignedCommitment
from he_agg.documents.manifest import Manifest, SignedManifest
from he_agg.documents.record import NO_RECORD, RoundRecord, SignedRecord
from he_agg.documents.roster import SUITE_BYTES, Member, Receiving, Role, Roster, SignedRoster
from he_agg.documents.signed import Signed
from he_agg.errors import Reason, WireError
from he_agg.ids import RoundId
from he_agg.protocol.messages import MAX_RECEIPT_BYTES, Receipt
from he_agg.signing import SigningKey

__all__ = ["EXAMPLES", "KEYS", "Example", "bodies", "key_of"]


def key_of(name: str) -> SigningKey:
    """A key that follows from a name: vectors must not change from day to day."""
    return SigningKey.from_bytes(name.encode().ljust(32, b".")[:32])


KEYS = {name: key_of(name) for name in ("hospital-a", "hospital-b", "coordinator", "second", "aggregator")}

names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
epochs = st.integers(1, 10**9)
times = st.integers(0, 2**40)
round_ids = st.builds(RoundId, names, st.integers(1, 10**9 - 1), st.integers(1, 10**9 - 1))


def _receiving(suite: str) -> st.SearchStrategy[Receiving]:
    size = SUITE_BYTES[suite]
    # Long keys out of few random bytes: Hypothesis has a budget.
    return st.binary(min_size=32, max_size=32).map(lambda seed: Receiving(suite, (seed * (size // 32)).hex()))


receivings = st.sampled_from(sorted(SUITE_BYTES)).flatmap(_receiving)


@st.composite
def _rosters(draw: Callable[..., Any]) -> Roster:
    roles = {name: draw(st.frozensets(st.sampled_from(Role))) for name in draw(st.sets(names, min_size=1, max_size=4))}
    first = min(roles)
    roles[first] |= {Role.COORDINATOR}
    keys = draw(st.lists(digests, unique=True, min_size=len(roles), max_size=len(roles)))
    members = {}
    for (name, has), key in zip(roles.items(), keys, strict=True):
        receiving = draw(receivings) if Role.SITE in has else draw(st.none() | receivings)
        members[name] = Member(name, key, has, receiving)
    issued_at = draw(st.integers(0, 2**39))
    coordinators = sum(Role.COORDINATOR in has for has in roles.values())
    return Roster(
        federation=draw(names),
        version=draw(epochs),
        issued_at=issued_at,
        expires_at=issued_at + draw(st.integers(1, 400 * 86400)),
        threshold=draw(st.integers(1, coordinators)),
        min_sites=draw(st.integers(1, 10_000)),
        members=members,
    )


@st.composite
def _records(draw: Callable[..., Any]) -> RoundRecord:
    sites = sorted(draw(st.sets(names, max_size=5)))
    inside = draw(st.integers(0, len(sites)))
    outcome = draw(st.sampled_from(["published", "failed"]))
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
        sum_digests=() if outcome == "failed" else tuple(draw(st.lists(digests, min_size=1, max_size=3))),
        sample_seed=draw(st.none() | digests),
    )


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
    "commitment": st.builds(Commitment, names, epochs, digests, names),
}


@dataclass(frozen=True)
class Example:
    """One document, signed with fixed keys.

    Attributes:
        body: what it says.
        document: the same, signed.
        signers: who has signed.
        parse_body: reads the body alone.
        check: reads a whole document and sees that whoever has to has signed it; raises WireError otherwise.
    """

    body: Any
    document: Signed
    signers: tuple[str, ...]
    parse_body: Callable[[bytes], Any]
    check: Callable[[bytes], Any]


def _hex(digit: str) -> str:
    return digit * 64


_PUBLIC = {name: key.public_key for name, key in KEYS.items()}


def _member(name: str, role: Role, suite: str | None) -> Member:
    receiving = None if suite is None else Receiving(suite, "5a" * SUITE_BYTES[suite])
    return Member(name, _PUBLIC[name].hex(), frozenset({role}), receiving)


_ROUND = RoundId("stroke", 3, 1)
_ROSTER = Roster(
    federation="stroke",
    version=1,
    issued_at=1_800_000_000,
    expires_at=1_800_000_000 + 365 * 86400,
    threshold=2,
    min_sites=2,
    members={
        "hospital-a": _member("hospital-a", Role.SITE, "x25519"),
        "hospital-b": _member("hospital-b", Role.SITE, "mlkem768-x25519"),
        "coordinator": _member("coordinator", Role.COORDINATOR, "x25519"),
        "second": _member("second", Role.COORDINATOR, None),
        "aggregator": _member("aggregator", Role.AGGREGATOR, None),
    },
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
)


def _examples() -> dict[str, Example]:
    roster = SignedRoster.unsigned(_ROSTER)
    signed_roster = roster.document.signed_by("coordinator", KEYS["coordinator"]).signed_by("second", KEYS["second"])
    manifest = replace(_MANIFEST, roster=roster.digest)
    signed_manifest = SignedManifest.make(manifest, KEYS["hospital-a"])
    record = RoundRecord(
        round_id=_ROUND,
        index=7,
        previous=_hex("c"),
        closed_at=1_800_003_600,
        roster=roster.digest,
        epoch=1,
        key_id=_hex("a"),
        plan_id=_hex("b"),
        outcome="published",
        members={"hospital-a": signed_manifest.submission_id},
        excluded={"hospital-b": "absent"},
        sum_digests=(_hex("3"), _hex("4")),
        sample_seed=_hex("5"),
    )
    receipt = Receipt(signed_manifest.submission_id, str(_ROUND), "hospital-a", 1_800_001_000)
    bundle = EpochBundle(
        federation="stroke",
        epoch=1,
        plan_id=_hex("b"),
        key_id=_hex("a"),
        roster=roster.digest,
        roster_version=1,
        dealer="coordinator",
        payload=bytes(range(40)),
        sealed={"hospital-a": b"sealed to a", "hospital-b": b"sealed to b"},
    )
    commitment = Commitment("stroke", 1, _hex("a"), "hospital-a")

    def check_receipt(data: bytes) -> Receipt:
        document = Signed.parse(data, "receipt", MAX_RECEIPT_BYTES)
        parsed = Receipt.parse(document.body)
        assert_signed(document.signers({"aggregator": _PUBLIC["aggregator"]}) == {"aggregator"})
        return parsed

    def check_roster(data: bytes) -> Roster:
        parsed = SignedRoster.parse(data)
        parsed.check_signed()
        return parsed.roster

    def checked(kind: Any, name: str, keys: Any) -> Callable[[bytes], Any]:
        def check(data: bytes) -> Any:
            parsed = kind.parse(data)
            parsed.check_signed(keys)
            return getattr(parsed, name)

        return check

    one = {name: _PUBLIC[name] for name in ("coordinator", "second")}
    by_aggregator = {"aggregator": _PUBLIC["aggregator"]}
    site = _PUBLIC["hospital-a"]
    return {
        "roster": Example(_ROSTER, signed_roster, ("coordinator", "second"), Roster.parse, check_roster),
        "manifest": Example(
            manifest,
            signed_manifest.document,
            ("hospital-a",),
            Manifest.parse,
            checked(SignedManifest, "manifest", site),
        ),
        "record": Example(
            record,
            SignedRecord.make(record, "aggregator", KEYS["aggregator"]).document,
            ("aggregator",),
            RoundRecord.parse,
            checked(SignedRecord, "record", by_aggregator),
        ),
        "receipt": Example(
            receipt,
            Signed.make("receipt", receipt.encode(), "aggregator", KEYS["aggregator"]),
            ("aggregator",),
            Receipt.parse,
            check_receipt,
        ),
        "epoch": Example(
            bundle,
            SignedBundle.make(bundle, KEYS["coordinator"]).document,
            ("coordinator",),
            EpochBundle.parse,
            checked(SignedBundle, "bundle", one),
        ),
        "commitment": Example(
            commitment,
            SignedCommitment.make(commitment, KEYS["hospital-a"]).document,
            ("hospital-a",),
            Commitment.parse,
            checked(SignedCommitment, "commitment", site),
        ),
    }


def assert_signed(signed: bool) -> None:
    """What `check_signed` does, for the one document that has none of its own."""
    if not signed:
        raise WireError(Reason.BAD_SIGNATURE, "receipt: the aggregator has not signed it")


EXAMPLES = _examples()
