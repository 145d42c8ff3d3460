"""Write tests/vectors/documents/* from the package. Run by hand, only when a format changes:

    python -m tests.vectors.make_documents

The files are the format: a change of theirs changes the wire format, and `second_documents.py` must agree.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from he_agg import canonical
from he_agg.documents.draw import draw, members_digest
from he_agg.documents.roster import SUITE_BYTES, Member, Receiving, Role
from he_agg.documents.signed import Signed
from he_agg.ids import RoundId
from he_agg.protocol.http_signatures import EMPTY_DIGEST, RequestHead, digest_field, manifest_field
from tests.support.documents import EXAMPLES, KEYS, key_of
from tests.support.federation import plan_of
from tests.support.history import History
from tests.support.trust import Consortium, roster_of

FOLDER = Path(__file__).parent / "documents"
KINDS = sorted(EXAMPLES)
FILES = (*(f"{kind}.json" for kind in KINDS), "member.json", "request.json", "transcript.jsonl")
PUBLIC = {name: key.public_key.hex() for name, key in sorted(KEYS.items())}


def documents(kind):
    """The example; the same again in forms that are not to be taken, each with what is wrong about it."""
    example = EXAMPLES[kind]
    document, name = example.document, example.signers[0]
    text = document.encode().decode()
    other_kind = "commitment" if kind != "commitment" else "receipt"
    forged = {**document.signatures, name: key_of("mallory").sign(b"x")}
    changed = json.loads(text)
    changed["body"]["zzz"] = 1
    data = canonical.encode(changed["body"])
    message = f"he-agg/{kind}/v1\0".encode() + hashlib.sha256(data).digest()
    changed["signatures"] = {signer: KEYS[signer].sign(message).hex() for signer in example.signers}
    other_message = f"he-agg/{other_kind}/v1\0".encode() + bytes.fromhex(document.body_digest)
    moved = {**document.signatures, name: KEYS[name].sign(other_message)}
    wrong = {
        "signature of another key": Signed(document.body, forged).encode().decode(),
        "no signatures": Signed(document.body).encode().decode(),
        "signature on another kind of document": Signed(document.body, moved).encode().decode(),
        "a member that nobody knows, well signed": canonical.encode(changed).decode(),
        "white space": text.replace(":", ": ", 1),
        "a line feed": text + "\n",
        "another version": text[: -len('"v":1}')] + '"v":2}',
    }
    good = {"document": text, "public_keys": PUBLIC, "signers": sorted(example.signers), "id": document.digest}
    if kind == "roster":
        good["roster_digest"] = document.body_digest
    return [good, *({"document": w, "public_keys": PUBLIC, "wrong": why} for why, w in wrong.items())]


def members():
    cases = []
    for suite in (None, *sorted(SUITE_BYTES)):
        receiving = None if suite is None else Receiving(suite, "5a" * SUITE_BYTES[suite])
        member = Member("hospital-a", PUBLIC["hospital-a"], frozenset({Role.SITE} if suite else ()), receiving)
        public_file = {"v": 1, "name": member.name, "public": replace(member, roles=frozenset()).to_json()}
        cases.append({"public_file": canonical.encode(public_file).decode(), "fingerprint": member.fingerprint})
    return cases


def requests():
    rounds, upload = "/v1/rounds/stroke.3.1", "5c" * 16
    heads = {
        "": RequestHead("GET", f"{rounds}/record", "wait=60", EMPTY_DIGEST, "stroke"),
        "{}": RequestHead("PUT", f"{rounds}/verdicts/hospital-a", "", digest_field(b"{}"), "stroke"),
        "parts": RequestHead("PUT", f"{rounds}/submissions/{upload}", "from=2", manifest_field(upload), "stroke"),
    }
    cases: list[dict[str, Any]] = []
    for number, (body, head) in enumerate(heads.items()):
        components = '("@method" "@path" "@query" "content-digest" "he-agg-federation")'
        nonce = f"{number:022d}"
        params = f'{components};created=1800000000;nonce="{nonce}";keyid="hospital-a";alg="ed25519"'
        signature = KEYS["hospital-a"].sign(head.base(params))
        cases.append(
            {
                "method": head.method,
                "target": head.path + (f"?{head.query}" if head.query else ""),
                "body": body,
                "fields": {
                    "Content-Digest": head.content_digest,
                    "He-Agg-Federation": head.federation,
                    "Signature-Input": f"he-agg={params}",
                    "Signature": "he-agg=:" + _base64(signature) + ":",
                },
                "public_key": PUBLIC["hospital-a"],
                "created": 1_800_000_000,
            }
        )
    of_parts = cases[2]
    for why, change in (
        ("another upload", of_parts | {"target": of_parts["target"].replace(upload, "5d" * 16)}),
        ("another method", {"method": "DELETE"}),
        ("another path", {"target": "/v1/rounds/stroke.3.2/record?wait=60"}),
        ("another query", {"target": "/v1/rounds/stroke.3.1/record"}),
        ("a body where none was signed", {"body": "x"}),
        ("another federation", {"fields": {**cases[0]["fields"], "He-Agg-Federation": "strike"}}),
        ("another key", {"public_key": PUBLIC["hospital-b"]}),
    ):
        cases.append({**cases[0], **change, "wrong": why})
    return cases


def _base64(data):
    return base64.b64encode(data).decode()


def transcript():
    """Two rosters, a sum that is given up, the same set again, a draw under the second roster and the second epoch."""

    def member(name, role, suite="x25519"):
        receiving = None if suite is None else Receiving(suite, "5a" * SUITE_BYTES[suite])
        return Member(name, key_of(name).public_key.hex(), frozenset({role}), receiving)

    sites = ["hospital-a", "hospital-b", "hospital-c"]
    listed = {name: member(name, Role.SITE) for name in sites}
    listed["coordinator"] = member("coordinator", Role.COORDINATOR)
    listed["aggregator"] = member("aggregator", Role.AGGREGATOR, None)
    without = {name: one for name, one in listed.items() if name != "hospital-c"}
    first = roster_of("test", 1, 1_800_000_000, 1_800_000_000 + 365 * 86400, 1, 2, without)

    def signed(roster):
        return Signed.make(roster, key_of("coordinator"), "coordinator")

    rosters = [signed(first), signed(replace(first, version=2, members=listed))]
    identities: dict[str, Any] = {name: SimpleNamespace(signing_key=key_of(name)) for name in listed}
    plan = plan_of(5000, part_bytes=2**16, sample_percent=60).public
    history = History(Consortium("test", identities, rosters[0]), key_of("aggregator"), plan, rosters)
    history.round(1, 1, sites[:2], roster=rosters[0])
    history.judge(sites[0], "opened")
    history.judge(sites[1], "rejected")
    history.round(2, 1, [], roster=rosters[0], gives_up=history.head)
    history.epoch = 2
    history.round(1, 2, sites[:2], excluded={})
    counted = members_digest(history.entries[2].record.body.members)
    drawn = draw(set(sites), 2, RoundId("test", 2, 2), rosters[1].body_digest, counted)
    history.round(2, 2, sorted(drawn), excluded={})
    return history.encode().decode()


def make(name):
    stem = name.split(".")[0]
    if stem == "transcript":
        return transcript()
    cases = {"member": members, "request": requests}.get(stem, lambda: documents(stem))()
    return json.dumps({"cases": cases}, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in FILES:
        (FOLDER / each).write_text(make(each))
