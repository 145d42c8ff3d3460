"""A second, independent reader of the vectors of split keys: Python integers, hashlib and HPKE; nothing of he_agg.

    python tests/vectors/second_sharing.py      exits with 1 and names the first disagreement

Written from the format as documented (he_agg/FORMAT.md, section Dealing).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite

P, N, R = 65521, 2048, 12
OVERHEAD = {"x25519": 48, "mlkem768-x25519": 1136}


def fields(*parts):
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def elements(count, label, *parts):
    data = hashlib.shake_256(fields(label, *parts)).digest(2 * count + 2000)
    words = [word for word in struct.unpack(f"<{len(data) // 2}H", data) if word < P]
    assert len(words) >= count
    return words[:count]


def context(c):
    names = [struct.pack(">Q", c[name]) for name in ("epoch", "round", "attempt")]
    digests = [bytes.fromhex(c[name]) for name in ("plan_id", "key_id", "roster", "holders")]
    return [c["federation"].encode(), *names, *digests, c["dealer"].encode(), bytes.fromhex(c["nonce"])]


def info(c, index, holder):
    return fields(b"he-agg/dealing/seal/v1", *context(c), struct.pack(">H", index), holder.encode())


def mask(key, c):
    return elements(N, b"he-agg/dealing/mask/v1", key, *context(c))


def commitment(c, index, plaintext):
    parts = fields(b"he-agg/dealing/commitment/v1", *context(c), struct.pack(">H", index), plaintext)
    return hashlib.sha256(parts).digest()


def combinations(c, header, commitments):
    flat = elements(R * N, b"he-agg/dealing/combinations/v1", *context(c), header, *commitments)
    return [flat[r * N : (r + 1) * N] for r in range(R)]


def weights(known, x):
    out = []
    for k in known:
        above = below = 1
        for other in known:
            if other != k:
                above, below = above * (x - other), below * (k - other)
        out.append(above * pow(below, -1, P) % P)
    return out


def at(x, rows):
    """The value at x, in every column, of the polynomials with these rows by point."""
    w = weights(list(rows), x)
    return [sum(a * b for a, b in zip(w, column, strict=True)) % P for column in zip(*rows.values(), strict=True)]


def expand(start, size):
    return b"".join(hashlib.sha256(start + i.to_bytes(4, "big")).digest() for i in range(-(-size // 32)))[:size]


def one_time_key(start):
    words = struct.unpack(f"<{N}Q", expand(bytes.fromhex(start), 8 * N))
    return [(word & (2**42 - 1)).bit_count() - 21 for word in words]


def masked_key(c):
    masks = mask(bytes.fromhex(c["mask_key"]), c["context"])
    return [(s + f) % P for s, f in zip(one_time_key(c["expand_key"]), masks, strict=True)]


def row_of(index, threshold, plaintext):
    """The row in a plaintext: a seed below the threshold, else numbers."""
    if index < threshold:
        assert len(plaintext) == 64
        return elements(N + R, b"he-agg/dealing/row/v1", plaintext[32:])
    assert len(plaintext) == 32 + 2 * (N + R)
    row = list(struct.unpack(f"<{N + R}H", plaintext[32:]))
    assert max(row) < P
    return row


def header_of(holders, threshold):
    return b"HEKS" + bytes([1, R]) + struct.pack("<HHH", N, holders, threshold)


def combined(rho, row):
    return [(sum(a * b for a, b in zip(line, row, strict=False)) + row[N + r]) % P for r, line in enumerate(rho)]


def read_public(public, holders, threshold):
    header, rest = public[:12], public[12:]
    assert header == header_of(holders, threshold)
    commitments = [rest[32 * j : 32 * (j + 1)] for j in range(holders)]
    rest = rest[32 * holders :]
    assert len(rest) == 2 * R * threshold
    proof = {k + 1: list(struct.unpack(f"<{R}H", rest[2 * R * k : 2 * R * (k + 1)])) for k in range(threshold)}
    assert max(max(row) for row in proof.values()) < P
    return header, commitments, proof


def digest_of(public, blobs):
    parts = fields(b"he-agg/dealing/v1", public, *(hashlib.sha256(blob).digest() for blob in blobs))
    return hashlib.sha256(parts).hexdigest()


def sha_of_elements(x):
    return hashlib.sha256(struct.pack(f"<{len(x)}H", *x)).hexdigest()


def check_xof(c):
    x = elements(c["count"], c["label"].encode(), *map(bytes.fromhex, c["fields"]))
    return x[:8] == c["first"] and sha_of_elements(x) == c["sha256_u16le"]


def check_context(c):
    return info(c["context"], c["index"], c["holder"]).hex() == c["info"]


def check_mask(c):
    x = mask(bytes.fromhex(c["mask_key"]), c["context"])
    return x[:8] == c["first"] and sha_of_elements(x) == c["sha256_u16le"]


def check_dealing(c):
    """Deal again, from the same salts and seeds."""
    m, t = c["holders"], c["threshold"]
    entropy = expand(bytes.fromhex(c["expand_entropy"]), 32 * (m + t))
    pieces = [entropy[i : i + 32] for i in range(0, len(entropy), 32)]
    salts, seeds, blinds = pieces[:m], pieces[m:-1], pieces[-1]
    rows = {0: masked_key(c) + elements(R, b"he-agg/dealing/blinds/v1", blinds)}
    rows |= {j: elements(N + R, b"he-agg/dealing/row/v1", seed) for j, seed in enumerate(seeds, start=1)}
    plaintexts = [salts[j - 1] + seeds[j - 1] for j in range(1, t)]
    given = dict(rows)
    for j in range(t, m + 1):
        rows[j] = at(j, given)
        plaintexts.append(salts[j - 1] + struct.pack(f"<{N + R}H", *rows[j]))
    header = header_of(m, t)
    commitments = [commitment(c["context"], j, plaintext) for j, plaintext in enumerate(plaintexts, start=1)]
    rho = combinations(c["context"], header, commitments)
    proof = b"".join(struct.pack(f"<{R}H", *combined(rho, rows[j])) for j in range(1, t + 1))
    public = b"".join((header, *commitments, proof))
    lengths = [48 + len(plaintext) for plaintext in plaintexts]
    blobs = [expand(bytes.fromhex(s), n) for s, n in zip(c["expand_blobs"], lengths, strict=True)]
    return (
        public.hex() == c["public"]
        and [hashlib.sha256(plaintext).hexdigest() for plaintext in plaintexts] == c["sha256_plaintexts"]
        and digest_of(public, blobs) == c["digest"]
    )


def private_key(suite, data):
    if suite == "x25519":
        return X25519PrivateKey.from_private_bytes(data)
    mlkem, x25519 = MLKEM768PrivateKey.from_seed_bytes(data[:64]), X25519PrivateKey.from_private_bytes(data[64:])
    return MLKEM768X25519PrivateKey(mlkem, x25519)


def check_sealed(c):
    """Open what is sealed, check it as holders do, and rebuild the masked key."""
    data, names, t, suite = bytes.fromhex(c["dealing"]), c["names"], c["threshold"], c["suite"]
    m, kem = len(names), {"x25519": KEM.X25519, "mlkem768-x25519": KEM.MLKEM768_X25519}[suite]
    blobs, rest = [], data[12 + 32 * m + 2 * R * t :]
    public = data[: len(data) - len(rest)]
    for j, name in enumerate(names, start=1):
        size = OVERHEAD[suite] + 32 + (32 if j < t else 2 * (N + R)) if name in c["private_keys"] else 0
        blobs.append(rest[:size])
        assert len(blobs[-1]) == size
        rest = rest[size:]
    assert not rest
    header, commitments, proof = read_public(public, m, t)
    rho, rows = combinations(c["context"], header, commitments), {}
    for j, (name, blob) in enumerate(zip(names, blobs, strict=True), start=1):
        if blob:
            key = private_key(suite, bytes.fromhex(c["private_keys"][name]))
            hpke = Suite(kem, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
            plaintext = hpke.decrypt(blob, key, info=info(c["context"], j, name))
            assert commitment(c["context"], j, plaintext) == commitments[j - 1]
            rows[j] = row_of(j, t, plaintext)
            assert combined(rho, rows[j]) == at(j, proof)
            assert sha_of_elements(rows[j][:N]) == c["sha256_shares"][name]
    return at(0, rows)[:N] == masked_key(c) and digest_of(public, blobs) == c["digest"]


def check_answers(c):
    """The sum that most answers agree with, found by trying."""
    t, points = c["threshold"], c["answers"]
    rows = {k: elements(N, b"he-agg/dealing/row/v1", bytes.fromhex(s)) for k, s in enumerate(c["seeds_of_rows"], 1)}
    rows[0] = elements(N, b"he-agg/dealing/row/v1", bytes.fromhex(c["seed_of_row_0"]))
    lies = {int(j): elements(N, b"he-agg/dealing/row/v1", bytes.fromhex(s)) for j, s in c["lies"].items()}
    answers = {j: lies[j] if j in lies else rows[j] if j in rows else at(j, rows) for j in points}
    best: list[int] = []
    total: list[int] = []
    for group in itertools.combinations(points, t):
        known = {j: answers[j] for j in group}
        # Two columns tell nearly always; the best group is then looked at in all of them.
        start = {j: row[:2] for j, row in known.items()}
        agree = [j for j in points if at(j, start) == answers[j][:2]]
        if len(agree) > len(best) and all(at(j, known) == answers[j] for j in agree):
            best, total = agree, at(0, known)
    assert 2 * (len(points) - len(best)) <= len(points) - t
    liars = [j for j in points if j not in best]
    return liars == c["liars"] and total[:8] == c["first"] and sha_of_elements(total) == c["sha256_u16le"]


def main(folder):
    files = sorted(folder.glob("*.json"))
    read = 0
    for file in files:
        for number, case in enumerate(json.loads(file.read_text())["cases"]):
            if not globals()[f"check_{file.stem}"](case):
                print(f"{file.name}: case {number} disagrees")
                return 1
            read += 1
    print(f"{read} cases in {len(files)} files agree")
    return 0 if read else 1


if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent / "sharing"))
