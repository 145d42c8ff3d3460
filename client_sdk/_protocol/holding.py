"""Check a published record before this member answers for it as a holder, in a fixed order.

    1   it is about the expected round, under the plan, and has a sum           accept.py, check_subject
    2   of so many sites that no single update shows                            accept.py, check_number
    3   all members are sites of a roster that this member trusts, and the      accept.py, check_members; lists.py
        list of holders is of that very roster
    4   an aggregator has signed the record, its site every manifest, and       accept.py, check_manifests,
        each of them names this list                                            check_holders
    5   what this site had sent itself is in it                                 accept.py, check_own
    6   it follows the record before it, and goes into the chain                accept.py, check_follows and others
    7   this member's share of every one-time key opens, is what its dealer     own_key, split_shares, check_dealing;
        committed to, and lies on the polynomials that the dealer proves; if    he_agg/sharing/shares.py
        not: a complaint, and no promise
    8   the promise: this record for this number and no other, none of an       _disk/promises.py;
        older number, none in a history without the record promised last;       (hold.py)
        durable before anybody hears of it
    9   the echo: this member's word that it has seen this record               (hold.py)
    10  only if so many other holders have seen the very same one: the answer,  seen_by
        whose bytes are kept before they are sent

Each raises `RejectedError`; the flow (`hold.py`) takes them in this order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from client_sdk._protocol.accept import RejectedError
from he_agg import canonical
from he_agg.documents.holding import MAX_ECHO_BYTES, Echo
from he_agg.documents.manifest import Manifest
from he_agg.documents.record import PUBLISHED, RoundRecord
from he_agg.documents.roster import Receiving
from he_agg.documents.sharing import HolderList
from he_agg.documents.signed import Signed
from he_agg.errors import Reason, WireError
from he_agg.ids import RoundId
from he_agg.sharing.context import Context
from he_agg.sharing.dealing import Excerpt, Holders
from he_agg.sharing.shares import BadShare, Fault
from he_agg.sharing.thresholds import MAX_HOLDERS

__all__ = [
    "MAX_ECHOES_BYTES",
    "check_dealing",
    "check_published",
    "context_of",
    "own_key",
    "parse_echoes",
    "seen_by",
    "split_shares",
]

MAX_ECHOES_BYTES = 64 + MAX_HOLDERS * MAX_ECHO_BYTES


def check_published(record: RoundRecord) -> None:
    """Step 1, second half: the record has a sum."""
    if record.outcome != PUBLISHED:
        raise RejectedError(Reason.BAD_ANSWER, "record, outcome", PUBLISHED, record.outcome)


def own_key(holders: HolderList, name: str, key: Receiving) -> bool:
    """Step 7, at first: shares are sealed to the key that this member has; False if none are sealed to it at all."""
    listed = holders.receiving.get(name)
    if listed is not None and listed != key:
        raise RejectedError(
            Reason.KEY_MISMATCH, f"holders, sharing key of {name}", f"{key.key[:16]}...", f"{listed.key[:16]}..."
        )
    return listed is not None


def split_shares(body: bytes, holders: Holders, name: str, sites: Sequence[str]) -> dict[str, bytes]:
    """Step 7, then: one excerpt for each member, as long as it has to be.

    Args:
        sites: the members, sorted.
    """
    each = holders.excerpt_bytes(holders.index(name))
    if len(body) != each * len(sites):
        raise RejectedError(Reason.BAD_ANSWER, "shares, length", each * len(sites), len(body))
    return {site: body[each * place : each * (place + 1)] for place, site in enumerate(sites)}


def check_dealing(excerpt: bytes, holders: Holders, name: str, manifest: Manifest) -> Excerpt | BadShare:
    """Step 7, then: the excerpt is of the dealing that the member's manifest names.

    Returns:
        It; or what is wrong with it, if the member itself has signed a dealing that nobody can read.
    """
    try:
        got = Excerpt.digest_of(excerpt, holders, name)
    except WireError as error:
        raise RejectedError(error.reason, f"dealing of {manifest.site}", None, error.message) from error
    if got != manifest.dealing:
        raise RejectedError(Reason.BAD_DIGEST, f"dealing of {manifest.site}, digest", manifest.dealing, got)
    try:
        return Excerpt.parse(excerpt, holders, name)
    except WireError:
        return BadShare(Fault.SEALED)


def context_of(holders: HolderList, manifest: Manifest) -> Context:
    """Return what a member's dealing is of. Its roster is the list's, whichever the manifest was renewed under."""
    return Context(
        round_id=manifest.round_id,
        epoch=manifest.epoch,
        plan_id=manifest.plan_id,
        key_id=manifest.key_id,
        roster=holders.roster,
        holders=holders.digest,
        dealer=manifest.site,
        nonce=manifest.nonce,
    )


def parse_echoes(body: bytes) -> list[Signed[Echo]]:
    """Read the echoes of a round. Nothing is proven about them yet: see `seen_by`."""
    try:
        fields = canonical.Fields(canonical.parse(body, MAX_ECHOES_BYTES), "echoes")
        fields.integer("v", 1, 1)
        documents = fields.array("echoes", MAX_HOLDERS)
        fields.end()
        return [Signed.from_json(Echo, value) for value in documents]
    except WireError as error:
        raise RejectedError(error.reason, "echoes", "signed echoes of holders", error.message) from error


def seen_by(
    holders: HolderList, keys: Mapping[str, bytes], round_id: RoundId, record: str, echoes: Iterable[Signed[Echo]]
) -> frozenset[str]:
    """Step 10: name the holders who have seen this very record. Other echoes, and of others, count for nothing.

    Args:
        keys: of the holders of the roster that the round opened under, by name.
        record: digest of the signed record.
    """
    return frozenset(
        echo.body.holder
        for echo in echoes
        if echo.body.holder in holders.names
        and (echo.body.round_id, echo.body.record) == (round_id, record)
        and echo.body.holder in echo.signers(keys)
    )
