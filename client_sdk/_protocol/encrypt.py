"""Encrypt an update into the spool: all of it before anything leaves, or while its first parts travel."""

from __future__ import annotations

import hmac
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial

from client_sdk._disk.spool import SpoolEntry
from client_sdk._disk.stored import Begun
from client_sdk._effects import Flow, Report, cleaned_up, compute
from client_sdk._protocol.dealing import Dealer
from client_sdk._protocol.frames import HELD_BYTES, Frames
from client_sdk._protocol.making import Making
from client_sdk._protocol.outgoing import Encrypting, Made, Outgoing
from client_sdk._protocol.poll import OpenRound
from client_sdk._protocol.session import Session
from client_sdk.progress import PhaseProgress
from he_agg.codecs.base import Room, Watch
from he_agg.documents.manifest import Manifest
from he_agg.documents.sharing import HolderList
from he_agg.documents.signed import Signed
from he_agg.mac import RoundMac
from he_agg.plan.fixedpoint import Quantizing
from he_agg.plan.sections import Part
from keys import GroupKey

__all__ = ["Encryption", "encrypt"]

_SHORT_BYTES = 2**20
"""Up to here a submission is made before anything leaves: that takes less time than to let it leave meanwhile."""


@dataclass(frozen=True)
class Encryption:
    """What is encrypted, and for whom.

    Attributes:
        values: the update, in integers.
        fingerprint: keyed, of the update.
        previous: digest of the record before the round's.
        holders: whom its one-time key is dealt to, where keys are split.
        what: digest of all that decides about the encryption.
    """

    values: Quantizing
    fingerprint: str
    previous: str
    holders: HolderList | None
    what: str


def encrypt(
    session: Session, opened: OpenRound, entry: SpoolEntry, given: Encryption, begun: Begun | None
) -> Flow[Outgoing]:
    """Encrypt, from now on or before this returns; what is on its way is to be closed.

    Args:
        begun: what is gone on with; None to begin afresh, which nothing may have left for.
    """
    plan, codec = session.plan, session.codec
    if begun is not None or (codec.repeats and plan.wire_bytes > _SHORT_BYTES):
        return (yield from compute(partial(_stream, session, opened, entry, given, begun)))
    # Nothing of it has left when it ends early, not even if the last part was made in this moment.
    return (yield from cleaned_up(_make_first(session, opened, entry, given), entry.remove))


def _make_first(session: Session, opened: OpenRound, entry: SpoolEntry, given: Encryption) -> Flow[Made]:
    begin = partial(_begin, session, opened, entry, given, Begun.new(given.what), threads=1)
    making, _ = yield from compute(begin)
    done, held = 0, {}
    with making:
        while (number := (yield from compute(making.make))) is not None:
            frame, _ = yield from compute(partial(making.write, number))
            done += len(frame)
            if done <= HELD_BYTES:
                held[number] = frame
            yield Report(PhaseProgress(str(opened.id), "encrypt", done, session.plan.wire_bytes))
        # As long as a streamed one: with the tags of every update, a manifest of its own length would vary.
        return Made((yield from compute(making.seal)), held, making.manifest_bytes)


def _stream(
    session: Session, opened: OpenRound, entry: SpoolEntry, given: Encryption, before: Begun | None
) -> Encrypting:
    begun = before or Begun.new(given.what)
    making, dealer = _begin(session, opened, entry, given, begun)
    key_number = session.plan.places[0].number if dealer is None else None
    keep = partial(_keep, entry, begun)
    outgoing = Encrypting(making, keep, key_number=key_number, kept=begun.kept is not None)
    if dealer is not None:
        dealer.on_dealt = outgoing.dealt
    return outgoing


def _keep(entry: SpoolEntry, begun: Begun, digest: str) -> None:
    entry.note(replace(begun, kept=digest))


def _begin(
    session: Session, opened: OpenRound, entry: SpoolEntry, given: Encryption, begun: Begun, threads: int | None = None
) -> tuple[Making, Dealer | None]:
    """Begin to encrypt, or go on with what was begun."""
    plan, key, codec, holders = session.plan, session.key_of(opened.epoch), session.codec, given.holders
    key_part = dealer = None
    if begun.kept is None:
        # Twice: the parts of the sum may lie beside them.
        entry.begin(2 * plan.wire_bytes)
    elif holders is None:
        key_part = entry.kept_part(plan.places[0], begun.kept)
    if holders is not None:
        dealer = Dealer(entry, key, opened.id, session.site, begun.upload, holders, begun.kept)
    seed = _seed(key, begun)
    given.values.draw_from(seed)

    def encrypt_all(watch: Watch, room: Room) -> Generator[Part]:
        return codec.encrypt(
            given.values,
            key,
            opened.id,
            threads=threads,
            watch=watch,
            room=room,
            deal=dealer,
            seed=seed,
            key_part=key_part,
        )

    def sign(manifest: Manifest) -> Signed[Manifest]:
        dealing = None if dealer is None else dealer.digest
        return Signed.make(replace(manifest, dealing=dealing), session.identity.signing_key)

    unsigned = Manifest(
        round_id=opened.id,
        epoch=key.epoch,
        key_id=key.key_id,
        plan_id=plan.plan_id,
        site=session.site,
        nonce=begun.upload,
        part_digests=(),
        tags=(),
        roster=session.rosters.newest.body_digest,
        previous=given.previous,
        holders=None if holders is None else holders.digest,
    )
    mac, frames = RoundMac(key.mac_key, plan, key.epoch, opened.id), Frames(plan, session.memory)
    making = Making(plan, entry, mac, frames, encrypt_all, sign, unsigned=unsigned, fingerprint=given.fingerprint)
    return making, dealer


def _seed(key: GroupKey, begun: Begun) -> bytes:
    """Return what the randomness of an encryption follows from. The spool without the group key does not give it."""
    message = b"".join(bytes.fromhex(field) for field in (begun.salt, begun.upload, begun.what))
    return hmac.digest(key.mac_key, b"he-agg/submission/v1\0" + message, "sha256")
