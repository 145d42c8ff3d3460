"""A second, independent reader of everything that is signed: json, hashlib and Ed25519; nothing of he_agg.

    python tests/vectors/second_documents.py      exits with 1 and names the first disagreement

Written from he_agg/FORMAT.md. Vectors with "wrong" must be refused, the others must not.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class Refused(Exception):  # noqa: N818 - it says what happened
    pass


def need(truth, what):
    if not truth:
        raise Refused(what)


def sha256(data):
    return hashlib.sha256(data).digest()


def canonical(value):
    """RFC 8785, by hand: members in the order of their names' UTF-16, text as UTF-8."""
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return b"{" + b",".join(canonical(name) + b":" + canonical(value[name]) for name in names) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(canonical, value)) + b"]"
    return json.dumps(value, ensure_ascii=False).encode()


def parse(text):
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Refused("JSON") from error
    need(canonical(value) == text.encode(), "one form")
    return value


# What each member has to be.


def number(low, high):
    return lambda x: type(x) is int and low <= x <= high


def text(pattern):
    return lambda x: isinstance(x, str) and re.fullmatch(pattern, x) is not None


def array(of, most=20_000):
    return lambda x: isinstance(x, list) and len(x) <= most and all(map(of, x))


def table(of, most=10_000, least=0):
    return lambda x: isinstance(x, dict) and least <= len(x) <= most and all(name(k) and of(v) for k, v in x.items())


def record_of(**members):
    return lambda x: (
        isinstance(x, dict) and x.keys() == members.keys() and all(check(x[key]) for key, check in members.items())
    )


def maybe(of):
    return lambda x: x is None or of(x)


def boolean(x):
    return isinstance(x, bool)


def in_base64(x):
    return isinstance(x, str) and base64.b64encode(base64.b64decode(x)).decode() == x


def receiving(x):
    sizes = {"x25519": 32, "mlkem768-x25519": 1216}
    return x is None or (
        record_of(suite=text("|".join(sizes)), key=text("[0-9a-f]*"))(x) and len(x["key"]) == 2 * sizes[x["suite"]]
    )


def roles(x):
    return array(text("site|coordinator|operator|auditor|aggregator|holder"))(x) and x == sorted(set(x))


name = text("[a-z0-9][a-z0-9-]{0,62}")
digest = text("[0-9a-f]{64}")
counter, moment = number(1, 10**9), number(0, 2**40)
round_, attempt = number(1, 10**9 - 1), number(1, 10**9 - 1)
member = record_of(signing_key=digest, receiving=receiving, roles=roles)
of_round = {"federation": name, "round": round_, "attempt": attempt}
under_key = {"epoch": counter, "key_id": digest, "plan_id": digest}
BODIES = {
    "roster": record_of(
        v=number(1, 1),
        federation=name,
        version=counter,
        issued_at=moment,
        expires_at=moment,
        threshold=number(1, 10_000),
        min_sites=number(2, 10_000),
        small_groups=boolean,
        holders=maybe(record_of(quorum=number(1, 64), threshold=number(1, 64))),
        members=table(member),
    ),
    "manifest": record_of(
        v=number(1, 1),
        **of_round,
        **under_key,
        site=name,
        nonce=text("[0-9a-f]{32}"),
        parts=array(digest),
        tags=array(array(text("0|[1-9][0-9]{0,19}"), 128)),
        roster=digest,
        previous=digest,
        holders=maybe(digest),
        dealing=maybe(digest),
    ),
    "receipt": record_of(
        v=number(1, 1), id=digest, round_id=text(r"[a-z0-9-]+\.\d+\.\d+"), site=name, accepted_at=moment
    ),
    "commitment": record_of(v=number(1, 1), federation=name, epoch=counter, key_id=digest, site=name),
    "verdict": record_of(
        v=number(1, 1),
        federation=name,
        round=number(1, 10**9 - 1),
        attempt=number(1, 10**9 - 1),
        record=digest,
        site=name,
        verdict=text("opened|rejected"),
    ),
    "epoch": record_of(
        v=number(1, 1),
        federation=name,
        **under_key,
        roster=digest,
        roster_version=counter,
        dealer=name,
        payload=in_base64,
        sealed=table(in_base64, least=1),
    ),
    "sharing-key": record_of(
        v=number(1, 1), federation=name, epoch=counter, holder=name, key=lambda x: x is not None and receiving(x)
    ),
    "echo": record_of(v=number(1, 1), **of_round, record=digest, holder=name),
    "answer": record_of(
        v=number(1, 1),
        **of_round,
        record=digest,
        holder=name,
        shares=lambda x: in_base64(x) and len(base64.b64decode(x)) == 4096,
    ),
    "complaint": lambda x: (
        record_of(
            v=number(1, 1),
            **of_round,
            record=digest,
            holder=name,
            dealer=name,
            fault=text("sealed|opened"),
            plaintext=maybe(in_base64),
        )(x)
        and (x["fault"] == "opened") == (x["plaintext"] is not None)
    ),
}


def record_body(x):
    members = {
        "v": number(1, 1),
        **of_round,
        **under_key,
        "index": number(1, 2**53 - 1),
        "previous": digest,
        "closed_at": moment,
        "roster": digest,
        "outcome": text("published|failed|ended"),
        "members": table(digest),
        "excluded": table(lambda reason: isinstance(reason, str) and len(reason) <= 63),
        "sum": array(digest),
        "gives_up": lambda given: given is None or digest(given),
        "reason": lambda reason: reason is None or text("rounds|operator")(reason),
    }
    return (
        record_of(**members)(x)
        and (x["index"] == 1) == (x["previous"] == "0" * 64)
        and (x["outcome"] == "published") == (x["sum"] != [])
        and (x["outcome"] == "ended") == (x["reason"] is not None)
        and (x["outcome"] != "ended" or x["members"] == x["excluded"] == {})
        and (x["outcome"] == "failed" or x["gives_up"] is None)
        and not x["members"].keys() & x["excluded"].keys()
    )


BODIES["record"] = record_body


def in_order(x):
    return array(name, 10_000)(x) and x == sorted(set(x))


def state_body(x):
    opened = record_of(round=round_, attempt=attempt, opened_at=moment, deadline_at=moment, invited=in_order)
    members = {
        "v": number(1, 1),
        "federation": name,
        "stage": text("created|running|paused|ended"),
        **under_key,
        "roster": digest,
        "roster_version": counter,
        "index": number(0, 2**53 - 1),
        "head": digest,
        "open": lambda value: value is None or opened(value),
        "disputed": maybe(record_of(round=round_, attempt=attempt)),
        "awaited": maybe(record_of(round=round_, attempt=attempt)),
    }
    return (
        record_of(**members)(x)
        and (x["index"] == 0) == (x["head"] == "0" * 64)
        and (x["open"] is None or x["stage"] == "running")
        and (x["awaited"] is None or (x["open"] is None and x["stage"] != "ended"))
    )


BODIES["state"] = state_body


# Signatures.


def verifies(public_key, signature, message):
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(bytes.fromhex(signature), message)
    except InvalidSignature:
        return False
    return True


def read(document, kind):
    """The body of a document and who may have signed it."""
    value = parse(document)
    need(isinstance(value, dict) and value.keys() == {"v", "kind", "body", "signatures"}, "members of the envelope")
    need(value["v"] == 1 and value["kind"] == kind, "kind")
    need(table(text("[0-9a-f]{128}"), 64)(value["signatures"]), "signatures")
    need(BODIES[kind](value["body"]), "body")
    return value["body"], value["signatures"]


def signers(kind, body, signatures, keys):
    message = b"he-agg/" + kind.encode() + b"/v1\0" + sha256(canonical(body))
    return {who for who, signature in signatures.items() if who in keys and verifies(keys[who], signature, message)}


def with_role(roster, role):
    return {who: m["signing_key"] for who, m in roster["members"].items() if role in m["roles"]}


AUTHORS = {"epoch": "dealer", **dict.fromkeys(("sharing-key", "echo", "answer", "complaint"), "holder")}


def check_holders(roster):
    """See that the aggregator and one holder together learn nothing, where there are holders."""
    m, stated = len(with_role(roster, "holder")), roster["holders"]
    need((stated is None) == (m == 0), "holders")
    if stated is not None:
        e, t = stated["quorum"], stated["threshold"]
        need(t <= e <= m, "thresholds")
        need(min(t - 1, 2 * e - m - 1, roster["min_sites"] - 2) >= 1, "claim")


def check_signed(kind, body, signatures, keys):
    """See that whoever has to has signed it."""
    if kind == "roster":
        keys = with_role(body, "coordinator")
        need(len(keys) >= body["threshold"], "coordinators")
        few = body["min_sites"] < max(3, len(with_role(body, "site")) // 2 + 1)
        need(body["small_groups"] == few, "small groups")
        need(0 < body["expires_at"] - body["issued_at"] <= 400 * 86400, "time")
        need(all(body["members"][who]["receiving"] for who in with_role(body, "site")), "receiving")
        check_holders(body)
        need(len({m["signing_key"] for m in body["members"].values()}) == len(body["members"]), "each its own key")
        found = signers(kind, body, signatures, keys)
        need(len(found) >= body["threshold"], "threshold")
        return found
    found = signers(kind, body, signatures, keys)
    if kind in ("record", "receipt", "state"):
        need("aggregator" in found, "aggregator")
    else:
        author = body[AUTHORS.get(kind, "site")]
        need(author in found and list(signatures) == [author], "one signature, its author's")
    return found


def fingerprint(who, public):
    sealed_to = public["receiving"]
    last = "" if sealed_to is None else f"{sealed_to['suite']}:{sealed_to['key']}"
    digits = sha256(f"he-agg/member/v1\0{who}\0{public['signing_key']}\0{last}".encode()).hex()
    return " ".join(digits[i : i + 4] for i in range(0, 32, 4))


# Cases.


def check_document(case, kind):
    body, signatures = read(case["document"], kind)
    found = check_signed(kind, body, signatures, case["public_keys"])
    need(sorted(found) == case["signers"], "who signed")
    need(sha256(case["document"].encode()).hex() == case["id"], "id")
    need(kind != "roster" or sha256(canonical(body)).hex() == case["roster_digest"], "digest of the roster")


def check_member(case, _):
    value = parse(case["public_file"])
    need(record_of(v=number(1, 1), name=name, public=member)(value), "public file")
    need(fingerprint(value["name"], value["public"]) == case["fingerprint"], "fingerprint")


def check_request(case, _):
    fields = case["fields"]
    path, _, query = case["target"].partition("?")
    upload = re.fullmatch(r"/v1/rounds/[^/]+/submissions/([0-9a-f]{32})", path)
    # With parts the field names their upload: their digests are in the manifest behind them.
    name, value = "sha-256", sha256(case["body"].encode())
    if upload is not None:
        name, value = "he-agg-manifest", bytes.fromhex(upload[1])
    need(fields["Content-Digest"] == f"{name}=:{base64.b64encode(value).decode()}:", "digest")
    components = ("@method", "@path", "@query", "content-digest", "he-agg-federation")
    stated = re.fullmatch(
        r'he-agg=(\(([^)]*)\);created=([1-9][0-9]{0,11});nonce="[A-Za-z0-9_-]{22}";keyid="([a-z0-9-]+)";alg="ed25519")',
        fields["Signature-Input"],
    )
    if stated is None:
        raise Refused("Signature-Input")
    need(stated[2] == " ".join(f'"{c}"' for c in components), "Signature-Input")
    need(int(stated[3]) == case["created"], "created")
    values = (case["method"], path, f"?{query}", fields["Content-Digest"], fields["He-Agg-Federation"])
    lines = [f'"{c}": {v}' for c, v in zip(components, values, strict=True)] + [f'"@signature-params": {stated[1]}']
    signature = re.fullmatch(r"he-agg=:([A-Za-z0-9+/]{86}==):", fields["Signature"])
    if signature is None:
        raise Refused("Signature")
    raw = base64.b64decode(signature[1]).hex()
    need(verifies(case["public_key"], raw, "\n".join(lines).encode()), "signature")


def invited(plan, roster, body, counted, again):
    """Draw the sites of a record's attempt, unless a sum of its number was given up."""
    sites = with_role(roster, "site")
    if again is not None:
        return again & sites.keys()
    share = -(-plan["sample_percent"] * len(sites) // 100)
    seed = {key: body[key] for key in ("federation", "round", "attempt", "roster")} | {"draw": 1, "counted": counted}
    text = sha256(canonical(seed)).hex()
    order = sorted(sites, key=lambda site: sha256(f"{text}.{site}".encode()))
    return set(order[: max(share, plan["min_sites"], roster["min_sites"])])


def check_transcript(content):
    """The whole chain. Returns how many documents there were."""
    need(content.endswith("\n"), "cut")
    header, *lines = content.removesuffix("\n").split("\n")
    first = parse(header)
    need(first.keys() == {"v", "kind", "federation", "plan"} and first["kind"] == "transcript", "header")
    plan_id = sha256(canonical(first["plan"])).hex()
    rosters, newest, previous, counted, index, waiting = {}, None, "0" * 64, "0" * 64, 0, {}
    last: dict = {}
    judges: list = []
    summed: dict = {}
    again = None
    for line in lines:
        kind = parse(line)["kind"]
        body, signatures = read(line, kind)
        need(body["federation"] == first["federation"], "federation")
        if kind == "roster":
            check_signed(kind, body, signatures, None)
            need(body["version"] == len(rosters) + 1, "version")
            if newest is not None:
                found = signers(kind, body, signatures, with_role(newest, "coordinator"))
                need(len(found) >= newest["threshold"], "signed by the coordinators before")
            newest = rosters[sha256(canonical(body)).hex()] = body
            continue
        if kind == "verdict":
            need(last and not waiting and body["record"] == previous, "on the record before")
            need(body["site"] in last["members"], "of a member")
            check_signed(kind, body, signatures, with_role(rosters[last["roster"]], "site"))
            need(not judges or max(judges) < body["site"], "sorted")
            judges.append(body["site"])
            continue
        keys = rosters[body["roster"]]
        check_signed(kind, body, signatures, with_role(keys, "site" if kind == "manifest" else "aggregator"))
        need(body["plan_id"] == plan_id and body["previous"] == previous, "plan, chain")
        if kind == "manifest":
            need(not waiting or max(waiting) < body["site"], "sorted")
            waiting[body["site"]] = (sha256(line.encode()).hex(), body)
            continue
        index += 1
        need(body["index"] == index, "index")
        need(body["members"] == {site: id_ for site, (id_, _) in waiting.items()}, "members")
        named = body["members"].keys() | body["excluded"].keys()
        need(named == invited(first["plan"], keys, body, counted, again), "invited")
        if body["outcome"] == "published":
            need(again is None or not body["excluded"], "all of the set")
            counted = sha256(canonical(body["members"])).hex()
            summed, again = {"id": sha256(line.encode()).hex(), "members": set(body["members"])}, None
        elif body["gives_up"] is not None:
            need(body["gives_up"] == summed["id"] and again is None, "gives_up")
            again = summed["members"]
        need(not body["members"] or len(body["members"]) >= keys["min_sites"], "number of sites")
        same = ("round", "attempt", "epoch", "key_id")
        need(all(m[key] == body[key] for _, m in waiting.values() for key in same), "round, epoch, key")
        previous, waiting, last, judges = sha256(line.encode()).hex(), {}, body, []
    need(index and not waiting, "an end")
    return len(lines) + 1


def holds(check, *arguments):
    try:
        check(*arguments)
    except Refused:
        return False
    return True


def main(folder):
    count = files = 0
    for file in sorted(folder.glob("*.json*")):
        files += 1
        if file.suffix == ".jsonl":
            if not holds(check_transcript, file.read_text()):
                print(f"{file.name}: disagrees")
                return 1
            count += 1
            continue
        check = {"member": check_member, "request": check_request}.get(file.stem, check_document)
        for number_, case in enumerate(json.loads(file.read_text())["cases"]):
            if holds(check, case, file.stem) == ("wrong" in case):
                print(f"{file.name}: case {number_} disagrees")
                return 1
            count += 1
    print(f"{count} cases in {files} files agree")
    return 0 if count else 1


if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent / "documents"))
