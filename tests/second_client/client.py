"""A site that was written from two pages, he_agg/FORMAT.md and service/PROTOCOL.md. It shares no code with he-agg.

    python client.py < job.json      take part in one round, open its mean, write it

Every function names the section that it follows. It knows one way only, checks before it opens, and keeps nothing:
a site that may crash and go on needs more than this.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import io
import json
import math
import secrets
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tenseal as ts
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from tenseal import sealapi

ZEROS = "0" * 64


class RefusedError(Exception):
    """Something is not what the pages say."""


def need(holds, what):
    if not holds:
        raise RefusedError(what)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


# Canonical JSON, signed documents


def canonical(value):
    """FORMAT.md: Canonical JSON. (Keys of these documents are ASCII, whose order is the same in UTF-16.)"""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def parse(data):
    """FORMAT.md: Canonical JSON."""
    value = json.loads(data)
    need(canonical(value) == data, "canonical JSON")
    return value


def message(kind, body):
    """FORMAT.md: Signed documents."""
    return b"he-agg/" + kind.encode() + b"/v1\0" + hashlib.sha256(canonical(body)).digest()


def sign(kind, body, name, key):
    """FORMAT.md: Signed documents."""
    signature = key.sign(message(kind, body)).hex()
    return canonical({"v": 1, "kind": kind, "body": body, "signatures": {name: signature}})


def signers(document, kind, keys):
    """FORMAT.md: Signed documents. Returns the body and who signed it."""
    need(document.keys() == {"v", "kind", "body", "signatures"}, "members of a signed document")
    need((document["v"], document["kind"]) == (1, kind), f"a signed {kind}")
    found = set()
    for name, signature in document["signatures"].items():
        if name in keys and verifies(keys[name], bytes.fromhex(signature), message(kind, document["body"])):
            found.add(name)
    return document["body"], found


def verifies(key, signature, data):
    """FORMAT.md: Signed documents."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(signature, data)
    except InvalidSignature:
        return False
    return True


def by_author(data, kind, author, keys):
    """FORMAT.md: Signed documents. Returns the body of a manifest, bundle or commitment."""
    document = parse(data)
    body, found = signers(document, kind, keys)
    need(found == {body[author]} == document["signatures"].keys(), f"{kind}: signed by its {author}")
    return body


class Rosters:
    """FORMAT.md: Body of a roster. From the one that this site has accepted on."""

    def __init__(self, pinned):
        """FORMAT.md: Body of a roster."""
        self.newest: Any = None
        self.by_digest: dict[str, Any] = {}
        self.follow(pinned)

    def follow(self, data):
        """FORMAT.md: Body of a roster."""
        document = parse(data)
        body = document["body"]
        need(len(signers(document, "roster", keys_of(body, "coordinator"))[1]) >= body["threshold"], "roster: signed")
        if self.newest is not None:
            need(body["federation"] == self.newest["federation"], "roster: federation")
            need(body["version"] == self.newest["version"] + 1, "roster: version")
            before = keys_of(self.newest, "coordinator")
            need(len(signers(document, "roster", before)[1]) >= self.newest["threshold"], "roster: follows")
        need(body["issued_at"] < body["expires_at"] <= body["issued_at"] + 400 * 86400, "roster: times")
        least = max(3, len(keys_of(body, "site")) // 2 + 1)
        need(body["small_groups"] == (body["min_sites"] < least), "roster: small groups")
        self.newest, self.by_digest[sha256(canonical(body))] = body, body

    @property
    def digest(self):
        """FORMAT.md: Signed documents."""
        return sha256(canonical(self.newest))


def keys_of(roster, role):
    """FORMAT.md: Body of a roster."""
    return {name: m["signing_key"] for name, m in roster["members"].items() if role in m["roles"]}


# Files and keys


def open_file(path, kind, passphrase=None):
    """FORMAT.md: Files with secrets. Returns header and content."""
    file = parse(Path(path).read_bytes())
    header, protection, content = file["header"], file["protection"], base64.b64decode(file["body"], validate=True)
    need((header["kind"], header["v"]) == (kind, 1), f"a file of the kind {kind}")
    if protection != {"kind": "none"}:
        need(protection["kind"] == "argon2id-chacha20poly1305", "protection")
        cost = {"iterations": 3, "lanes": 4, "memory_kib": 65536}
        need({name: protection[name] for name in cost} == cost, "cost of the protection")
        salt, nonce = bytes.fromhex(protection["salt"]), bytes.fromhex(protection["nonce"])
        derivation = Argon2id(salt=salt, length=32, iterations=3, lanes=4, memory_cost=65536)
        key = derivation.derive(passphrase.encode())
        content = ChaCha20Poly1305(key).decrypt(nonce, content, canonical({"header": header, "protection": protection}))
    return header, content


class Identity:
    """FORMAT.md: Files with secrets."""

    def __init__(self, path, passphrase=None):
        """FORMAT.md: Files with secrets."""
        header, content = open_file(path, "he-agg-identity", passphrase)
        secret = parse(content)
        self.name, self.public = header["name"], header["public"]
        self.signing = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret["signing"]))
        receiving = bytes.fromhex(secret["receiving"])
        self.x25519 = X25519PrivateKey.from_private_bytes(receiving[-32:])
        self.mlkem = MLKEM768PrivateKey.from_seed_bytes(receiving[:64]) if len(receiving) == 96 else None
        need(self.signing.public_key().public_bytes_raw().hex() == self.public["signing_key"], "identity: signing key")

    @property
    def fingerprint(self):
        """FORMAT.md: Body of a roster."""
        receiving = self.public["receiving"]
        last = f"{receiving['suite']}:{receiving['key']}"
        digits = sha256(f"he-agg/member/v1\0{self.name}\0{self.public['signing_key']}\0{last}".encode())
        return " ".join(digits[i : i + 4] for i in range(0, 32, 4))

    def open_sealed(self, sealed, info):
        """FORMAT.md: Bundles."""
        if self.mlkem is None:
            suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
            return suite.decrypt(sealed, self.x25519, info=info)
        private = MLKEM768X25519PrivateKey(self.mlkem, self.x25519)
        suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
        return suite.decrypt(sealed, private, info=info)


class GroupKey:
    """FORMAT.md: Group keys."""

    def __init__(self, facts, content):
        """FORMAT.md: Group keys."""
        secret = parse(content)
        self.federation, self.epoch, self.key_id = facts["federation"], facts["epoch"], facts["key_id"]
        self.plan = Plan(secret["plan"])
        material, seed = base64.b64decode(secret["key_material"], validate=True), bytes.fromhex(secret["mac_seed"])
        named = canonical({"epoch": self.epoch, "federation": self.federation, "plan_id": self.plan.id})
        data = b"he-agg/key-id/v1\0" + hashlib.sha256(material).digest() + named
        need(self.federation == self.plan.federation and facts["plan_id"] == self.plan.id, "group key: plan")
        need(hmac.digest(seed, data, "sha256").hex() == self.key_id, "group key: id")
        self.mac_key = hmac.digest(seed, b"he-agg/mac-key/v1", "sha256")
        self.ckks = Ckks(self.plan.ckks, ts.context_from(material))

    @classmethod
    def from_keystore(cls, path, passphrase=None):
        """FORMAT.md: Files with secrets."""
        return cls(*open_file(path, "he-agg-group-key", passphrase))

    @classmethod
    def from_bundle(cls, data, rosters, identity):
        """FORMAT.md: Bundles."""
        bundle = by_author(data, "epoch", "dealer", keys_of(rosters.newest, "coordinator"))
        need(bundle["roster"] == rosters.digest, "bundle: roster")
        need(bundle["sealed"].keys() == keys_of(rosters.newest, "site").keys(), "bundle: sealed to the sites")
        names = ("federation", "epoch", "plan_id", "key_id", "roster", "dealer")
        context = {"label": "he-agg/epoch-key/v1"} | {name: bundle[name] for name in names}
        info = canonical(context | {"site": identity.name})
        content_key = identity.open_sealed(base64.b64decode(bundle["sealed"][identity.name], validate=True), info)
        payload = base64.b64decode(bundle["payload"], validate=True)
        return cls(bundle, ChaCha20Poly1305(content_key).decrypt(bytes(12), payload, canonical(context)))


# Plans, sections, parts

N, SLOTS, RING, LANES, BATCH = 4096, 2048, 2048, 16, 32768
PROFILES = {
    "ckks-n4096-q17": (114689, 188417),
    "ckks-n4096-q19": (417793, 1032193),
    "ckks-n4096-q22": (4169729, 8380417),
    "ckks-n4096-q24": (16736257, 16760833),
    "ckks-n4096-q27": (134111233, 134176769),
    "ckks-n4096-q30": (1073668097, 1073692673),
    "ckks-n4096-q40": (1099511390209, 1099511480321),
    "ckks-n4096-q50": (1125899906629633, 1125899906826241),
    "ckks-n4096-q60": (1152921504606830593, 70368743669761),
}


class Plan:
    """FORMAT.md: Plans."""

    def __init__(self, file):
        """FORMAT.md: Plans."""
        self.public, self.layout = public, layout = file["public"], file["layout"]
        self.id, self.federation, self.codec = sha256(canonical(public)), public["federation"], public["codec"]
        self.K, self.M = public["max_sites"], 2 ** (public["value_bits"] - 1) - 1
        self.w_max, self.values, self.sections = layout["weight_cap"], public["values"], public["sections"]
        self.sizes = [math.prod(tensor["shape"]) for tensor in layout["tensors"]]
        self.digits = -(-self.w_max.bit_length() // (public["value_bits"] - 1))
        need(public["layout"] == sha256(canonical(layout)), "plan: layout")
        need(self.values == sum(self.sizes) + self.digits + 1, "plan: values")
        parameters = public["parameters"]
        self.ckks = parameters if self.codec == "ckks" else parameters["key"]
        need(self.ckks["scale_bits"] == scale_bits(self.K), "plan: scale")
        values, keys = room(self.K, self.M, 2 ** self.ckks["scale_bits"])
        q = PROFILES[self.ckks["profile"]][0]
        need((values if self.codec == "ckks" else keys) < q, "plan: room in the profile")
        if self.codec == "hybrid":
            self.v, self.D = parameters["packing"], int(parameters["delta"])
            self.primes, self.moduli = parameters["primes"], parameters["moduli"]
            self.B, self.q, self.p = 2 * self.K * self.M + 1, math.prod(self.primes), math.prod(self.moduli)
            need(self.primes == primes_of(self.primes, 4096, 16, (30, 26, 26)), "plan: primes")
            need(self.moduli == primes_of(self.moduli, 2, 16, (31, 25, 24)), "plan: moduli")
            need(self.p < self.q and 1 <= self.v <= 53, "plan: moduli, packing")
            need((self.q - 1) // self.B**self.v == self.D, "plan: delta")
            need(2 * math.floor(largest_noise(self, self.K)) + 1 <= self.D <= 2**25, "plan: step")
            whole, rest = divmod(self.values, self.v * BATCH)
            self.coefficients = whole * BATCH + -(-rest // self.v)
        need(self.sections == self.computed_sections(), "plan: sections")
        # By number: section, index within it, residues in it
        parts = [
            (s, index, min(section["part_residues"], section["residues"] - first))
            for s, section in enumerate(self.sections)
            for index, first in enumerate(range(0, section["residues"], section["part_residues"]))
        ]
        self.parts = sorted(parts, key=lambda part: (part[1], part[0]))

    def computed_sections(self):
        """FORMAT.md: Plans."""

        def section(name, q, residues, unit, widest=None):
            unit_bytes = packed_bytes(unit, widest or q)
            part = unit * max(1, (self.public["part_bytes"] - 64) // unit_bytes)
            return {"name": name, "modulus": str(q), "residues": residues, "part_residues": part}

        q = PROFILES[self.ckks["profile"]][0]
        if self.codec == "ckks":
            return [section("ckks", q, 2 * N * -(-self.values // SLOTS), 2 * N)]
        widest = max(self.moduli)
        limbs = [section(f"limb-{i}", r, self.coefficients, BATCH, widest) for i, r in enumerate(self.moduli)]
        return [section("key", q, 2 * N, 2 * N), *limbs]

    def modulus(self, section):
        """FORMAT.md: Plans."""
        return int(self.sections[section]["modulus"])


def scale_bits(K):
    """FORMAT.md: Plans."""
    return math.ceil(math.log2(29.2 * math.sqrt(N / 2 * (10.5 * K + K * K / 6))))


def room(K, M, scale):
    """FORMAT.md: Plans. What q has to be larger than: for values, and for the keys of the codec `hybrid`."""
    return 4 * K * M * scale, 29.2 * math.sqrt(10.5 * K * (scale**2 / 2048 + 1)) + 2 * K


def primes_of(stated, step, least, most):
    """FORMAT.md: Plans. The primes 1 mod `step` with the widths of those stated; `most` of one, twins, others."""

    def largest(bits, place):
        candidates = range(2**bits - step + 1, 0, -step)
        found = (n for n in candidates if all(n % d for d in (2, *range(3, math.isqrt(n) + 1, 2))))
        return [next(found) for _ in range(place + 1)][place]

    b, *more = [q.bit_length() for q in stated]
    need(more in ([], [b], [b + 1]), "plan: widths of the primes")
    need(least <= b <= most[0 if not more else 1 if more == [b] else 2], "plan: widths of the primes")
    return [largest(b, int(more == [b]))] + [largest(bits, 0) for bits in more]


def float_noise(plan, n):
    """FORMAT.md: Plans. F(n)."""
    return 3 * n * plan.q * 2.0**-54 + 2


def largest_noise(plan, n):
    """FORMAT.md: Plans. L(n)."""
    ratio, of_floats = plan.q / plan.p, float_noise(plan, n)
    return min(
        21 * n + n * ratio / 2 + of_floats,
        14.6 * math.sqrt(10.5 * n) + n * ratio / 2 + of_floats,
        14.6 * math.sqrt(n * (10.5 + ratio**2 / 12)) + of_floats,
    )


def packed_bytes(count, q):
    """FORMAT.md: Packed residues."""
    return (count * q.bit_length() + 7) // 8


def pack(residues, q):
    """FORMAT.md: Packed residues."""
    bits = np.unpackbits(residues.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    return np.packbits(bits[:, : q.bit_length()].reshape(-1), bitorder="little").tobytes()


def unpack(data, count, q):
    """FORMAT.md: Packed residues."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    need(bits.size == 8 * packed_bytes(count, q) and not bits[count * q.bit_length() :].any(), "padding")
    wide = np.zeros((count, 64), np.uint8)
    wide[:, : q.bit_length()] = bits[: count * q.bit_length()].reshape(count, -1)
    residues = np.packbits(wide, axis=1, bitorder="little").view("<u8").reshape(-1)
    need(int(residues.max()) < q, "residue out of range")
    return residues.astype(np.uint64)


def part_header(plan, number):
    """FORMAT.md: Sections and parts."""
    section, index, count = plan.parts[number]
    q = plan.modulus(section)
    fixed = struct.pack("<4sBBHIIQ", b"HEAP", 1, q.bit_length(), section, index, count, q)
    return fixed + bytes.fromhex(plan.id) + bytes(8)


def to_parts(plan, sections):
    """FORMAT.md: Sections and parts."""
    out = []
    for number, (section, index, count) in enumerate(plan.parts):
        start = index * plan.sections[section]["part_residues"]
        packed = pack(sections[section][start : start + count], plan.modulus(section))
        out.append(part_header(plan, number) + packed)
    return out


def from_parts(plan, parts):
    """FORMAT.md: Sections and parts."""
    sections = [[] for _ in plan.sections]
    for number, (part, (section, _, count)) in enumerate(zip(parts, plan.parts, strict=True)):
        need(part[:64] == part_header(plan, number), f"header of part {number}")
        sections[section].append(unpack(part[64:], count, plan.modulus(section)))
    return [np.concatenate(residues) for residues in sections]


# Fixed point


def quantize(plan, tensors, weight):
    """FORMAT.md: Plaintext integers."""
    need(1 <= weight <= plan.w_max, "weight")
    limit, out = -(-plan.M * weight // plan.w_max), []
    for tensor in plan.layout["tensors"]:
        x = tensors[tensor["name"]]
        need((list(x.shape), x.dtype.name) == (tensor["shape"], tensor["dtype"]), tensor["name"])
        need(bool(np.all(np.abs(x) <= float(tensor["clip"]))), "clip")
        scaled = x.astype(np.float64).reshape(-1) * (plan.M * (weight / plan.w_max) / float(tensor["clip"]))
        out.append(np.clip(np.rint(scaled), -limit, limit).astype(np.int64))
    digits = [weight // (plan.M + 1) ** i % (plan.M + 1) for i in range(plan.digits)]
    return np.concatenate([*out, np.array([*digits, 1])])


def mean_of(plan, sums, n):
    """FORMAT.md: Plaintext integers. Returns the tensors by name and the total weight."""
    M, w_max, size = plan.M, plan.w_max, sum(plan.sizes)
    digits = [int(digit) for digit in sums[size:-1]]
    need(int(sums[-1]) == n, "count")
    W = sum(digit * (M + 1) ** i for i, digit in enumerate(digits))
    need(all(0 <= digit <= n * M for digit in digits) and n <= W <= n * w_max, "total weight")
    largest = min(n * M, (M * W + n * (w_max - 1)) // w_max)
    need(bool(np.all(np.abs(sums[:size]) <= largest)), "sums beyond the total weight")
    out, start = {}, 0
    for tensor, count in zip(plan.layout["tensors"], plan.sizes, strict=True):
        step = float(tensor["clip"]) * (w_max / (M * W))
        values = sums[start : start + count].astype(np.float64) * step
        out[tensor["name"]] = values.astype(tensor["dtype"]).reshape(tensor["shape"])
        start += count
    return out, W


def check_noise(distances, variance, most, each):
    """FORMAT.md: Plaintext integers. `each` is what float64 may add to a distance."""
    v, x = distances.size, 160 * math.log(2)
    largest = math.sqrt(variance * (v + 2 * math.sqrt(v * x) + 2 * x)) + each * math.sqrt(v)
    need(float(np.abs(distances).max()) <= most, "noise: distance")
    need(math.sqrt(float(np.square(distances).sum())) <= largest, "noise: squares")


# Tags


def derived(key, *fields):
    """FORMAT.md: Tags."""
    return hmac.digest(key, b"".join(len(f).to_bytes(4, "big") + f for f in fields), "sha256")


def stream(key, limb, batch, size):
    """FORMAT.md: Keystreams."""
    start = struct.pack(">IQI", limb, batch, 2)
    return Cipher(algorithms.AES256(key), modes.CTR(start)).encryptor().update(bytes(size))


def tag_count(q):
    """FORMAT.md: Tags."""
    words = 2**64
    g, b = -(-words // min(q, 2**26)), -(-words // min(q, 2**28))
    top, bottom, count = (g + b) * words - g * b, words * words, 1
    while top**count << 128 > bottom**count:
        count += 1
    return count


class Tags:
    """FORMAT.md: Tags. Those of one attempt."""

    def __init__(self, key, round_id):
        """FORMAT.md: Tags."""
        self.plan, self.key = key.plan, key.mac_key
        federation, number, attempt = round_id.rsplit(".", 2)
        numbers = [int(n).to_bytes(8, "big") for n in (key.epoch, number, attempt)]
        self.context = [federation.encode(), *numbers, bytes.fromhex(key.plan.id)]

    def pads(self, site, nonce):
        """FORMAT.md: Tags."""
        submission = (site.encode(), bytes.fromhex(nonce))
        out = []
        for n, (i, _, _) in enumerate(self.plan.parts):
            q = self.plan.modulus(i)
            places = [(n.to_bytes(4, "big"), t.to_bytes(4, "big")) for t in range(tag_count(q))]
            digests = [derived(self.key, b"he-agg/mac/pad/v1", *self.context, *p, *submission) for p in places]
            out.append((q, [int.from_bytes(digest, "big") % q for digest in digests]))
        return out

    def without_pads(self, sections):
        """FORMAT.md: Tags. Of each part, in order."""
        out = []
        for i, part, count in self.plan.parts:
            first = part * self.plan.sections[i]["part_residues"]
            key = derived(self.key, b"he-agg/mac/coefficients/v1", *self.context, i.to_bytes(4, "big"))
            out.append(_part_tags(key, self.plan.modulus(i), part, sections[i][first : first + count]))
        return out

    def of(self, sections, site, nonce):
        """FORMAT.md: Tags. What a manifest names."""
        pairs = zip(self.without_pads(sections), self.pads(site, nonce), strict=True)
        return [[str((x + pad) % q) for x, pad in zip(part, pads, strict=True)] for part, (q, pads) in pairs]

    def check_sum(self, sections, manifests):
        """FORMAT.md: Tags."""
        claims = [(m["tags"], self.pads(m["site"], m["nonce"])) for m in manifests]
        for n, found in enumerate(self.without_pads(sections)):
            expected = [0] * len(found)
            for tags, pads in claims:
                q, pad = pads[n]
                expected = [(e + int(t) - p) % q for e, t, p in zip(expected, tags[n], pad, strict=True)]
            need(found == expected, f"tags of part {n}")


def _part_tags(key, q, part, residues):
    """FORMAT.md: Tags. What one part adds."""
    T, rows = tag_count(q), -(-residues.size // 512)
    gamma = [_scaled(stream(key, 0, t, 8 * 512), min(q, 2**26)) for t in range(T)]
    beta = []
    for k in range(-(-rows // 1024)):
        beta += _scaled(stream(key, 1, 2**32 * part + k, 8 * T * min(1024, rows - 1024 * k)), min(q, 2**28))
    x = np.zeros(rows * 512, np.uint64)
    x[: residues.size] = residues
    columns = np.array(gamma, np.uint64).T
    z = [[0] * T for _ in range(rows)]
    for shift in (0, 28, 56):  # 28 bits of a residue at a time: products of 54 bits, 512 of them 63
        piece = (x >> np.uint64(shift) & np.uint64(2**28 - 1)).reshape(rows, 512) @ columns
        z = [[a + (int(b) << shift) for a, b in zip(*pair, strict=True)] for pair in zip(z, piece, strict=True)]
    return [sum(beta[r * T + t] * z[r][t] for r in range(rows)) % q for t in range(T)]


def _scaled(data, limit):
    """FORMAT.md: Tags."""
    return [word * limit >> 64 for (word,) in struct.iter_unpack("<Q", data)]


# Codecs


class Ckks:
    """FORMAT.md: Codec `ckks`. One ciphertext."""

    def __init__(self, parameters, context):
        """FORMAT.md: Codec `ckks`."""
        self.q, special = PROFILES[parameters["profile"]]
        self.scale_bits, self.context = parameters["scale_bits"], context
        seal = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
        seal.set_poly_modulus_degree(N)
        seal.set_coeff_modulus([sealapi.Modulus(self.q), sealapi.Modulus(special)])
        self.seal = sealapi.SEALContext(seal, True, sealapi.SEC_LEVEL_TYPE.TC128)

    def encrypt(self, integers):
        """FORMAT.md: Codec `ckks`, SEAL objects. SEAL itself reads the file here, since it is compressed."""
        slots = [float(k) for k in integers] + [0.0] * (SLOTS - len(integers))
        vector = ts.ckks_vector(self.context, slots, 2.0**self.scale_bits).serialize()
        start = vector.index(b"\x5e\xa1\x10")
        (length,) = struct.unpack_from("<Q", vector, start + 8)
        with tempfile.NamedTemporaryFile() as file:
            file.write(vector[start : start + length])
            file.flush()
            ciphertext = sealapi.Ciphertext()
            ciphertext.load(self.seal, file.name)
        residues = ciphertext.dyn_array()
        need(residues.size() == 2 * N, "one ciphertext under one prime")
        return np.array([residues[i] for i in range(2 * N)], np.uint64)

    def decrypt(self, residues, n):
        """FORMAT.md: SEAL objects, Codec `ckks`."""
        scale = 2.0**self.scale_bits
        parms_id = hashlib.blake2b(struct.pack("<4Q", 2, N, self.q, 0), digest_size=32).digest()
        numbers = _seal_object(struct.pack("<Q", 2 * N) + residues.astype("<u8").tobytes())
        ciphertext = _seal_object(struct.pack("<32sBQQQdQ", parms_id, 1, 2, N, 1, scale, 1) + numbers)
        vector = b"\x0a\x02" + _varint(SLOTS) + b"\x12" + _varint(len(ciphertext)) + ciphertext
        opened = np.array(ts.ckks_vector_from(self.context, vector + b"\x19" + struct.pack("<d", scale)).decrypt())
        integers = np.rint(opened)
        sigma = math.sqrt(N / 2 * (10.5 * n + n * n / 6)) / scale
        check_noise(opened - integers, sigma**2, 14.6 * sigma + 2.0**-12, 2.0**-12)
        return integers.astype(np.int64)


def _seal_object(body):
    """FORMAT.md: SEAL objects."""
    return struct.pack("<HBBBBHQ", 0xA15E, 16, 4, 3, 0, 0, 16 + len(body)) + body


def _varint(value):
    """FORMAT.md: SEAL objects."""
    out = b""
    while value >= 128:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def transform(x, q):
    """FORMAT.md: Codec `hybrid`. From coefficients to values; x has the shape (2048, polynomials)."""
    psi = root(q)
    x = x % q * powers(psi, RING, q)[:, None] % q
    length = RING
    while length > 1:
        blocks, half = x.reshape(-1, length, x.shape[1]), length // 2
        twiddles = powers(pow(psi, 2 * RING // length, q), half, q)[:, None]
        u, v = blocks[:, :half], blocks[:, half:]
        x = np.concatenate([(u + v) % q, (u - v) % q * twiddles % q], axis=1).reshape(RING, -1)
        length = half
    return x


def inverse(x, q):
    """FORMAT.md: Codec `hybrid`. From values to coefficients."""
    psi = pow(root(q), -1, q)
    length = 2
    while length <= RING:
        blocks, half = x.reshape(-1, length, x.shape[1]), length // 2
        v = blocks[:, half:] * powers(pow(psi, 2 * RING // length, q), half, q)[:, None] % q
        u = blocks[:, :half]
        x = np.concatenate([(u + v) % q, (u - v) % q], axis=1).reshape(RING, -1)
        length *= 2
    return x * powers(psi, RING, q)[:, None] % q * pow(RING, -1, q) % q


@functools.cache
def root(q):
    """FORMAT.md: Codec `hybrid`."""
    return next(x for x in range(2, q) if pow(x, RING, q) == q - 1)


def powers(base, count, q):
    """FORMAT.md: Codec `hybrid`."""
    out = [1]
    for _ in range(count - 1):
        out.append(out[-1] * base % q)
    return np.array(out, np.int64)


def common(key, limb, batch, q):
    """FORMAT.md: Codec `hybrid`."""
    words = np.frombuffer(stream(key, limb, batch, 4 * (BATCH + 256)), "<u4").astype(np.int64)
    limit = 2**32 // q * q
    spare = [int(w) for w in words[BATCH:] if w < limit]
    words = words[:BATCH].copy()
    for place in np.flatnonzero(words >= limit):
        words[place] = spare.pop(0)
    return (words % q).reshape(RING, LANES)


def a_key(key, round_id):
    """FORMAT.md: Codec `hybrid`."""
    federation, number, attempt = round_id.rsplit(".", 2)
    numbers = [int(n).to_bytes(8, "big") for n in (key.epoch, number, attempt)]
    fields = [b"he-agg/a/v1", federation.encode(), *numbers, bytes.fromhex(key.plan.id)]
    return hashlib.sha256(b"".join(len(f).to_bytes(4, "big") + f for f in fields)).digest()


def products(key, round_id, s):
    """FORMAT.md: Codec `hybrid`. a*s mod q for every coefficient of the plan."""
    plan, a = key.plan, a_key(key, round_id)
    z: Any = 0
    q = 1
    for limb, r in enumerate(plan.primes):
        factor = transform(s.reshape(RING, 1).astype(np.int64), r)
        batches = [common(a, limb, batch, r) * factor % r for batch in range(-(-plan.coefficients // BATCH))]
        x = np.concatenate([inverse(batch, r).reshape(-1) for batch in batches])[: plan.coefficients]
        z, q = z + q * ((x - z) % r * pow(q, -1, r) % r), q * r
    return z


def law(count):
    """FORMAT.md: Codec `hybrid`. Coefficients of keys and noise."""
    random = np.frombuffer(secrets.token_bytes(6 * count), np.uint8).reshape(count, 6)
    return np.unpackbits(random, axis=1)[:, :42].sum(axis=1).astype(np.int64) - 21


def spans(plan):
    """FORMAT.md: Codec `hybrid`. Of each batch, where its integers and where its coefficients begin and end."""
    for batch, start in enumerate(range(0, plan.values, plan.v * BATCH)):
        end = min(start + plan.v * BATCH, plan.values)
        yield start, end, batch * BATCH, batch * BATCH + -(-(end - start) // plan.v)


def encrypt(key, round_id, integers):
    """FORMAT.md: Codec `ckks`, Codec `hybrid`. Returns the residues of each section."""
    plan = key.plan
    if plan.codec == "ckks":
        chunks = [integers[i : i + SLOTS] for i in range(0, plan.values, SLOTS)]
        return [np.concatenate([key.ckks.encrypt(chunk) for chunk in chunks])]
    s, m = law(RING), np.zeros(plan.coefficients, np.int64)
    for start, end, first, last in spans(plan):
        for j, place in enumerate(range(start, end, last - first)):
            digit = integers[place : min(place + last - first, end)]
            m[first : first + digit.size] += plan.B**j * digit
    c = (products(key, round_id, s) + law(plan.coefficients) + plan.D * m) % plan.q
    h = (2 * c.astype(object) * plan.p + plan.q) // (2 * plan.q)
    return [key.ckks.encrypt(s), *((h % r).astype(np.uint64) for r in plan.moduli)]


def decrypt(key, round_id, sections, n):
    """FORMAT.md: Codec `ckks`, Codec `hybrid`. Returns the sums of the plaintext integers."""
    plan = key.plan
    if plan.codec == "ckks":
        chunks = sections[0].reshape(-1, 2 * N)
        return np.concatenate([key.ckks.decrypt(chunk, n) for chunk in chunks])[: plan.values]
    S = key.ckks.decrypt(sections[0], n)
    need(int(np.abs(S).max()) <= 21 * n, "sum of the one-time keys")
    h, *more = (residues.astype(object) for residues in sections[1:])
    for high in more:
        r, s = plan.moduli
        h = h + r * ((high - h) * pow(r, -1, s) % s)
    z = ((2 * h * plan.q + plan.p) // (2 * plan.p) - products(key, round_id, S)) % plan.q
    z = np.where(z > plan.q // 2, z - plan.q, z)
    m = (2 * z + plan.D) // (2 * plan.D)
    most = min(math.floor(largest_noise(plan, n)), (plan.D - 1) // 2)
    variance = n * (10.5 + (plan.q / plan.p) ** 2 / 12)
    check_noise((z - plan.D * m).astype(np.float64), variance, most, float_noise(plan, n))
    m += (plan.B**plan.v - 1) // 2
    sums = np.empty(plan.values, np.int64)
    for start, end, first, last in spans(plan):
        rest = m[first:last]
        for j, place in enumerate(range(start, end, last - first)):
            digit = rest if j == plan.v - 1 else rest % plan.B
            rest, here = rest // plan.B, sums[place : min(place + last - first, end)]
            here[:] = digit[: here.size] - plan.K * plan.M
    return sums


# The protocol


class Client:
    """PROTOCOL.md: For every request."""

    def __init__(self, url, identity, federation):
        """PROTOCOL.md: For every request."""
        self.identity, self.federation = identity, federation
        self.http = httpx.Client(base_url=url, timeout=90, trust_env=False, follow_redirects=False)

    def request(self, method, path, query="", body=b"", kind=None, digest=None, expect=(200,)):
        """FORMAT.md: Signed requests. Asks again after what passes (PROTOCOL.md: For every request)."""
        digest = digest or f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"
        covered = ("@method", "@path", "@query", "content-digest", "he-agg-federation")
        nonce = secrets.token_urlsafe(16)
        stated = f"({' '.join(f'{chr(34)}{c}{chr(34)}' for c in covered)});created={int(time.time())};"
        stated += f'nonce="{nonce}";keyid="{self.identity.name}";alg="ed25519"'
        values = (method, path, f"?{query}", digest, self.federation)
        lines = [f'"{name}": {value}' for name, value in zip(covered, values, strict=True)]
        text = "\n".join([*lines, f'"@signature-params": {stated}'])
        signature = base64.b64encode(self.identity.signing.sign(text.encode())).decode()
        fields = {
            "Content-Digest": digest,
            "He-Agg-Federation": self.federation,
            "Signature-Input": f"he-agg={stated}",
            "Signature": f"he-agg=:{signature}:",
        }
        if kind is not None:
            fields |= {"Content-Type": kind, "Content-Length": str(len(body))}
        answer = self.http.request(method, path + (f"?{query}" if query else ""), headers=fields, content=body or None)
        if answer.status_code in (408, 429, 503, 507):
            time.sleep(float(answer.headers["Retry-After"]))
            return self.request(method, path, query, body, kind, digest, expect)
        need(answer.status_code in expect, f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer


class Site:
    """PROTOCOL.md: What a site does."""

    def __init__(self, url, identity, key, rosters):
        """PROTOCOL.md: What a site does."""
        self.identity, self.key, self.plan, self.rosters = identity, key, key.plan, rosters
        self.client = Client(url, identity, key.federation)
        self.index, self.head, self.counted, self.due = 0, ZEROS, ZEROS, (1, 1)
        self.tried, self.again, self.ended = {}, None, False
        self.sums: list[Any] = [(None, ZEROS, ())]

    def open_round(self):
        """PROTOCOL.md: GET /v1/federations/{federation}/state?wait=S&after=D. Waits for one of this site's."""
        path, query = f"/v1/federations/{self.key.federation}/state", "wait=30"
        while True:
            data = self.client.request("GET", path, query).content
            attempt = self.check_state(data)["open"]
            need(not self.ended, "the federation has ended")
            if attempt is not None and self.identity.name in attempt["invited"]:
                return f"{self.key.federation}.{attempt['round']}.{attempt['attempt']}"
            query = f"wait=30&after={sha256(data)}"

    def check_state(self, data):
        """FORMAT.md: Body of a state. Returns its body once rosters and records agree with it."""
        document = parse(data)
        self.follow_rosters()
        roster = self.rosters.by_digest.get(document["body"]["roster"])
        need(roster is not None and roster["version"] == document["body"]["roster_version"], "state: roster")
        body, found = signers(document, "state", keys_of(roster, "aggregator"))
        need(found, "state: signed by an aggregator")
        terms = [body[name] for name in ("federation", "plan_id", "epoch", "key_id")]
        need(terms == [self.key.federation, self.plan.id, self.key.epoch, self.key.key_id], "state: plan, key")
        need(body["index"] >= self.index, "state: index")
        while self.index < body["index"]:
            self.next_record()
        need(body["head"] == self.head, "state: head")
        need((body["stage"] == "ended") == self.ended, "state: an end is a record")
        need(body["disputed"] in (None, self.sums[-1][0]), "state: disputed")
        if body["open"] is not None and self.identity.name in body["open"]["invited"]:
            attempt = {"federation": self.key.federation} | body["open"]
            need((attempt["round"], attempt["attempt"]) == self.due, "state: number of the open attempt")
            drawn = [self.invited(known, attempt | {"roster": at}) for at, known in self.rosters.by_digest.items()]
            need(set(attempt["invited"]) in drawn, "state: invited sites")
        return body

    def follow_rosters(self):
        """PROTOCOL.md: Rosters: GET and PUT /v1/federations/{federation}/rosters/{version}."""
        while True:
            path = f"/v1/federations/{self.key.federation}/rosters/{self.rosters.newest['version'] + 1}"
            answer = self.client.request("GET", path, expect=(200, 404))
            if answer.status_code == 404:
                need(time.time() < self.rosters.newest["expires_at"], "roster: expired")
                return
            self.rosters.follow(answer.content)

    def next_record(self):
        """PROTOCOL.md: GET /v1/federations/{federation}/records/{index}."""
        path = f"/v1/federations/{self.key.federation}/records/{self.index + 1}"
        self.take(self.client.request("GET", path).content)

    def take(self, data):
        """FORMAT.md: Body of a record. Returns its body once it is the next of the chain."""
        document = parse(data)
        roster = self.rosters.by_digest.get(document["body"]["roster"])
        need(roster is not None, "record: roster")
        later = [one for one in self.rosters.by_digest.values() if one["version"] >= roster["version"]]
        body = document["body"]
        need(any(signers(document, "record", keys_of(one, "aggregator"))[1] for one in later), "record: signed")
        need((body["federation"], body["plan_id"]) == (self.key.federation, self.plan.id), "record: federation, plan")
        need((body["index"], body["previous"]) == (self.index + 1, self.head), "record: chain")
        need((body["round"], body["attempt"]) == self.due, "record: number")
        need(not self.ended, "record: after the end")
        need(not body["members"].keys() & body["excluded"].keys(), "record: members and excluded")
        self.ended = body["outcome"] == "ended"
        reason = "rounds" if body["round"] > self.plan.public["rounds"] else "operator"
        need(body["reason"] == (reason if self.ended else None), "record: reason")
        invited = set() if self.ended else self.invited(roster, body)
        need(body["members"].keys() | body["excluded"].keys() == invited, "record: invited sites")
        whole = self.again is None or not body["excluded"] or body["outcome"] == "failed"
        need(whole, "record: all members of the sum that was given up")
        self.index, self.head = body["index"], sha256(data)
        published = body["outcome"] == "published"
        self.tried[body["round"]] = body["attempt"]
        if published:
            self.counted = sha256(canonical(body["members"]))
            at = {"round": body["round"], "attempt": body["attempt"]}
            self.sums.append((at, self.head, body["members"]))
            self.again = None
        if body["gives_up"] is not None:
            need(body["outcome"] == "failed" and self.again is None, "record: gives_up")
            _, given_up, members = self.sums.pop()
            need(body["gives_up"] == given_up != ZEROS, "record: gives_up")
            self.again = set(members)
        number = 1 + (self.sums[-1][0] or {"round": 0})["round"]
        self.due = (number, self.tried.get(number, 0) + 1)
        return body

    def invited(self, roster, body):
        """FORMAT.md: Body of a record. Draws the sites that had to be invited."""
        sites, plan = keys_of(roster, "site"), self.plan.public
        if self.again is not None:
            return self.again & sites.keys()
        share = -(-plan["sample_percent"] * len(sites) // 100)
        seed = {name: body[name] for name in ("federation", "round", "attempt", "roster")}
        seed = sha256(canonical(seed | {"draw": 1, "counted": self.counted}))
        order = sorted(sites, key=lambda site: sha256(f"{seed}.{site}".encode()))
        return set(order[: max(share, plan["min_sites"], roster["min_sites"])])

    def submit(self, round_id, tensors, weight):
        """PROTOCOL.md: PUT /v1/rounds/{round}/submissions/{upload}?from=N."""
        nonce = secrets.token_hex(16)
        manifest, parts = self.manifest(round_id, nonce, tensors, weight)
        digest = f"he-agg-manifest=:{base64.b64encode(bytes.fromhex(nonce)).decode()}:"
        send = {"kind": "application/octet-stream", "digest": digest}
        path, body = f"/v1/rounds/{round_id}/submissions/{nonce}", b"".join([*parts, manifest])
        answer = self.client.request("PUT", path, "from=0", body, **send)
        self.check_receipt(answer.content, sha256(manifest), round_id)
        return sha256(manifest)

    def manifest(self, round_id, nonce, tensors, weight):
        """FORMAT.md: Body of a manifest. Encrypts; returns it signed, and the parts."""
        federation, number, attempt = round_id.rsplit(".", 2)
        sections = encrypt(self.key, round_id, quantize(self.plan, tensors, weight))
        parts = to_parts(self.plan, sections)
        body = {
            "v": 1,
            "federation": federation,
            "round": int(number),
            "attempt": int(attempt),
            "epoch": self.key.epoch,
            "key_id": self.key.key_id,
            "plan_id": self.plan.id,
            "site": self.identity.name,
            "nonce": nonce,
            "parts": [sha256(part) for part in parts],
            "tags": Tags(self.key, round_id).of(sections, self.identity.name, nonce),
            "roster": self.rosters.digest,
            "previous": self.head,
            "holders": None,
            "dealing": None,
        }
        return sign("manifest", body, self.identity.name, self.identity.signing), parts

    def check_receipt(self, data, id_, round_id):
        """FORMAT.md: Bodies of a receipt, a verdict, a bundle, a commitment, and what holders sign."""
        body, found = signers(parse(data), "receipt", keys_of(self.rosters.newest, "aggregator"))
        expected = {"v": 1, "id": id_, "round_id": round_id, "site": self.identity.name}
        need(found and body == expected | {"accepted_at": body["accepted_at"]}, "receipt")

    def record(self, round_id):
        """PROTOCOL.md: GET /v1/rounds/{round}/record?wait=S. Returns the signed record, and the signed manifests."""
        while True:
            answer = self.client.request("GET", f"/v1/rounds/{round_id}/record", "wait=30", expect=(200, 204))
            if answer.status_code == 200:
                told = parse(answer.content)
                need(told.keys() == {"manifests", "record", "v"} and told["v"] == 1, "answer: record and manifests")
                return canonical(told["record"]), told["manifests"]

    def open(self, round_id, data, documents, own):
        """PROTOCOL.md: What a site checks before it opens a sum. Returns the tensors and the total weight."""
        self.follow_rosters()
        record = self.take(data)
        federation, number, attempt = round_id.rsplit(".", 2)
        stated = [record[name] for name in ("federation", "round", "attempt", "epoch", "key_id", "outcome")]
        expected = [federation, int(number), int(attempt), self.key.epoch, self.key.key_id, "published"]
        need(stated == expected, f"record: {expected}")
        roster, members = self.rosters.by_digest[record["roster"]], record["members"]
        need(members.keys() <= keys_of(roster, "site").keys(), "record: members are sites of its roster")
        least = max(roster["min_sites"], self.rosters.newest["min_sites"], self.plan.public["min_sites"])
        need(least <= len(members) <= self.plan.K, "record: number of sites")
        need(members[self.identity.name] == own, "record: this site's submission")
        try:
            manifests = self.manifests(documents, record, keys_of(roster, "site"))
            sections = from_parts(self.plan, self.sum_parts(round_id, record))
            Tags(self.key, round_id).check_sum(sections, manifests)
            mean = mean_of(self.plan, decrypt(self.key, round_id, sections, len(members)), len(members))
        except RefusedError:
            self.say(record, "rejected")
            raise
        self.say(record, "opened")
        return mean

    def say(self, record, verdict):
        """PROTOCOL.md: PUT /v1/rounds/{round}/verdicts/{site}, GET /v1/rounds/{round}/verdicts."""
        body = {name: record[name] for name in ("federation", "round", "attempt")}
        body |= {"v": 1, "record": self.head, "site": self.identity.name, "verdict": verdict}
        path = f"/v1/rounds/{'.'.join(str(body[name]) for name in ('federation', 'round', 'attempt'))}"
        document = sign("verdict", body, self.identity.name, self.identity.signing)
        path += f"/verdicts/{self.identity.name}"
        self.client.request("PUT", path, body=document, kind="application/json", expect=(200, 201))

    def manifests(self, documents, record, keys):
        """PROTOCOL.md: GET /v1/rounds/{round}/record?wait=S. Of every member of the sum, verified."""
        bodies = [by_author(canonical(document), "manifest", "site", keys) for document in documents]
        found = {body["site"]: sha256(canonical(d)) for body, d in zip(bodies, documents, strict=True)}
        need([body["site"] for body in bodies] == sorted(found), "manifests: each once, sorted by site")
        need(found == record["members"], "manifests: those of the record")
        same = ("federation", "round", "attempt", "epoch", "key_id", "plan_id", "previous")
        need(all(body[name] == record[name] for body in bodies for name in same), "manifests: of this round")
        return bodies

    def sum_parts(self, round_id, record):
        """PROTOCOL.md: GET /v1/rounds/{round}/sum?from=N."""
        stream = io.BytesIO(self.client.request("GET", f"/v1/rounds/{round_id}/sum", "from=0").content)
        lengths = [64 + packed_bytes(count, self.plan.modulus(section)) for section, _, count in self.plan.parts]
        parts = [stream.read(length) for length in lengths]
        need([sha256(part) for part in parts] == record["sum"] and not stream.read(), "parts of the sum")
        return parts


def main():
    """PROTOCOL.md: What a site does. The job names url, files, passphrase, weight, npz files."""
    job = json.load(sys.stdin)
    identity = Identity(job["identity"], job.get("passphrase"))
    rosters = Rosters(Path(job["roster"]).read_bytes())
    key = GroupKey.from_keystore(job["keystore"], job.get("passphrase"))
    need(rosters.newest["members"][identity.name]["signing_key"] == identity.public["signing_key"], "this site's key")
    site = Site(job["url"], identity, key, rosters)
    round_id = site.open_round()
    with np.load(job["update"]) as update:
        own = site.submit(round_id, dict(update), job["weight"])
    record, manifests = site.record(round_id)
    tensors, weight = site.open(round_id, record, manifests, own)
    np.savez(job["mean"], **tensors)
    json.dump({"round": round_id, "total_weight": weight, "fingerprint": identity.fingerprint}, sys.stdout)


if __name__ == "__main__":
    main()
