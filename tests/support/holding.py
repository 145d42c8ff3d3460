"""Holders and dealers that speak the protocol, with real dealings, sealed by a stand-in that seals nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx
import numpy as np

from he_agg import Plan
from he_agg.documents.holding import Answer, Complaint, Echo
from he_agg.documents.record import RoundRecord
from he_agg.documents.roster import Receiving, Roster
from he_agg.documents.sharing import HolderList, SharingKey
from he_agg.documents.signed import Signed
from he_agg.ids import RoundId
from he_agg.sharing.context import Context
from he_agg.sharing.dealing import Dealing, Excerpt
from he_agg.sharing.shares import BadShare, Fault, answer, open_share
from keys import Identity
from tests.sharing.dealt import dealing_of, keys_of, stand_in_open
from tests.support.peers import KEY_ID, OCTETS, Ended, Peer, Prepared, prepare, read_ended

__all__ = [
    "JSON",
    "Dealt",
    "Held",
    "deal_to",
    "holders_of",
    "put_dealing",
    "put_sharing_key",
    "sharing_key",
    "submit_all",
]

JSON = {"Content-Type": "application/json"}


def sharing_key(federation: str, epoch: int, holder: Identity, **changed: Any) -> bytes:
    """What shares are sealed to, as far as a list of holders needs it."""
    public = Receiving("x25519", hashlib.sha256(f"{epoch} {holder.name}".encode()).hexdigest())
    fields: dict[str, Any] = {"federation": federation, "epoch": epoch, "holder": holder.name, "key": public}
    signer = changed.pop("signer", holder)
    return Signed.make(SharingKey(**(fields | changed)), signer.signing_key).encode()


def put_sharing_key(peer: Peer, epoch: int = 1, document: bytes | None = None) -> httpx.Response:
    """A holder's sharing key, brought in."""
    body = sharing_key(peer.federation, epoch, peer.member) if document is None else document
    return peer.bring(f"epochs/{epoch}/sharing-keys/{peer.member.name}", body)


def holders_of(peer: Peer, round_id: str | RoundId) -> HolderList:
    """Whom the members of a round deal to, as a site finds out."""
    found = peer.request("GET", f"/v1/rounds/{round_id}/holders")
    assert found.status_code == 200, found.text
    named, version = found.json(), 1
    while (roster := Signed.parse(Roster, peer.document(f"rosters/{version}").content)).body_digest != named["roster"]:
        version += 1
    return HolderList.parse(found.content, roster, named["epoch"])


@dataclass(frozen=True)
class Dealt:
    """A submission with its dealing, and the key that was dealt."""

    prepared: Prepared
    dealing: Dealing
    key: Any

    @property
    def id(self) -> str:
        return self.prepared.id

    @property
    def upload(self) -> str:
        return self.prepared.upload

    @property
    def path(self) -> str:
        return f"/v1/rounds/{self.prepared.round_id}/submissions/{self.upload}"


def deal_to(plan: Plan, listed: HolderList, round_id: str, site: str, seed: int, **changed: Any) -> Dealt:
    """A submission of random residues, and the dealing of a random key."""
    rng = np.random.default_rng([seed, *f"{round_id} {site}".encode()])  # no two have one nonce
    nonce, number = rng.bytes(16).hex(), RoundId.parse(round_id)
    key_id = changed.get("key_id", KEY_ID)
    context = Context(
        number, listed.epoch, plan.plan_id, key_id, listed.roster, listed.digest, dealer=site, nonce=nonce
    )
    key = keys_of(rng, 1)[0]
    dealing = dealing_of(key, context, listed.holders, rng)
    fields = {"nonce": nonce, "holders": listed.digest, "dealing": dealing.digest, "epoch": listed.epoch}
    return Dealt(prepare(plan, round_id, site, seed, **(fields | changed)), dealing, key)


def put_dealing(peer: Peer, dealt: Dealt, data: bytes | None = None) -> httpx.Response:
    """A dealing, sent; or other bytes in its place."""
    data = dealt.dealing.to_bytes() if data is None else data
    return peer.request("PUT", f"{dealt.path}/dealing", OCTETS, content=data)


def submit_all(plan: Plan, peer: Callable[[str], Peer], round_id: str, sites: str = "abc") -> list[Dealt]:
    """All of a round's submissions with their dealings, over HTTP."""
    listed, submitted = holders_of(peer(sites[0]), round_id), []
    for seed, site in enumerate(sites):
        dealt = deal_to(plan, listed, round_id, site, seed)
        assert put_dealing(peer(site), dealt).status_code == 201
        assert peer(site).submit(dealt.prepared).status_code == 200
        submitted.append(dealt)
    return submitted


@dataclass
class Held:
    """A published round as one of its holders sees it, and what it says."""

    peer: Peer
    round_id: str

    @property
    def name(self) -> str:
        return self.peer.member.name

    @cached_property
    def ended(self) -> Ended:
        found = self.peer.record(self.round_id)
        assert found.status_code == 200, found.text
        return read_ended(found.content)

    @property
    def record(self) -> Signed[RoundRecord]:
        return self.ended.signed

    def about(self, **changed: Any) -> dict[str, Any]:
        fields = {"round_id": RoundId.parse(self.round_id), "record": self.record.digest, "holder": self.name}
        return fields | changed

    def get(self, what: str, **parameters: Any) -> httpx.Response:
        query = {name: value for name, value in parameters.items() if value is not None}
        return self.peer.request("GET", f"/v1/rounds/{self.round_id}/{what}", params=query, timeout=70)

    def put(self, what: str, body: Echo | Answer | Complaint, **changed: Any) -> httpx.Response:
        signer = changed.pop("signer", self.peer.member)
        document = Signed.make(body, signer.signing_key).encode()
        return self.peer.request("PUT", f"/v1/rounds/{self.round_id}/{what}", JSON, content=document)

    def echo(self, **changed: Any) -> httpx.Response:
        signer = {name: changed.pop(name) for name in ("signer",) if name in changed}
        return self.put(f"echoes/{self.name}", Echo(**self.about(**changed)), **signer)

    def excerpts(self) -> list[Excerpt]:
        """Its own part of the members' dealings, in the order of their names."""
        found = self.get("shares")
        assert found.status_code == 200, found.text
        holders = holders_of(self.peer, self.round_id)
        size = holders.holders.excerpt_bytes(holders.holders.index(self.name))
        assert len(found.content) == size * len(self.record.body.members)
        pieces = [found.content[at : at + size] for at in range(0, len(found.content), size)]
        return [Excerpt.parse(piece, holders.holders, self.name) for piece in pieces]

    def contexts(self) -> list[Context]:
        """What the members' dealings were made for, in the order of their names."""
        return [
            Context(
                one.round_id, one.epoch, one.plan_id, one.key_id, self.record.body.roster, one.holders or "",
                dealer=one.site, nonce=one.nonce,
            )
            for one in (signed.body for signed in self.ended.manifests)
        ]  # fmt: skip

    def shares(self) -> bytes:
        """The sum of its shares."""
        opened = []
        for context, excerpt in zip(self.contexts(), self.excerpts(), strict=True):
            share = open_share(excerpt, context, stand_in_open(self.name))
            assert not isinstance(share, BadShare)
            opened.append(share)
        return answer(opened)

    def answer(self, shares: bytes | None = None, **changed: Any) -> httpx.Response:
        signer = {name: changed.pop(name) for name in ("signer",) if name in changed}
        mine = self.shares() if shares is None else shares
        return self.put(f"answers/{self.name}", Answer(**self.about(**changed), shares=mine), **signer)

    def complain(self, dealer: str, fault: Fault = Fault.SEALED, **changed: Any) -> httpx.Response:
        signer = {name: changed.pop(name) for name in ("signer",) if name in changed}
        plaintext = b"not what it should be" if fault is Fault.OPENED else None
        complaint = Complaint(**self.about(**changed), dealer=dealer, fault=fault, plaintext=plaintext)
        return self.put(f"complaints/{self.name}.{dealer}", complaint, **signer)
