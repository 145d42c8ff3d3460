"""A second, independent reader of the ring's vectors: Python integers, hashlib and AES; nothing of he_agg.

    python tests/vectors/second_reader.py      exits with 1 and names the first disagreement

Written from the format as documented (he_agg/FORMAT.md).
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import struct
import sys
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

N, LANES = 2048, 16
BATCH = N * LANES


def stream(key, limb, batch, size):
    counter = struct.pack(">IQI", limb, batch, 2)
    return Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor().update(bytes(size))


def common(key, limb, batch, q):
    words = struct.unpack(f"<{BATCH + 256}I", stream(key, limb, batch, 4 * (BATCH + 256)))
    limit = 2**32 - 2**32 % q
    spare = (w for w in words[BATCH:] if w < limit)
    return [(w if w < limit else next(spare)) % q for w in words[:BATCH]]


def noise(key, batch):
    data = stream(key, 0, batch, BATCH * 42 // 8)
    quarter, out = BATCH // 4, []
    for i in range(BATCH):
        planes = sum(data[p * BATCH + i].bit_count() for p in range(5))
        rest = data[5 * BATCH + i % quarter] >> (2 * (i // quarter)) & 3
        out.append(planes + rest.bit_count() - 21)
    return out


def expand(start):
    return b"".join(hashlib.sha256(start + i.to_bytes(4, "big")).digest() for i in range(N * 8 // 32))


def key(entropy):
    return [(word & (2**42 - 1)).bit_count() - 21 for word in struct.unpack(f"<{N}Q", entropy)]


@functools.cache
def smallest_root(q):
    return next(x for x in range(2, q) if pow(x, N, q) == q - 1)


def reverse(i):
    return int(f"{i:011b}"[::-1], 2)


def evaluate(poly, point, q):
    """Even-odd recursion: p(x) at x, x*w, x*w**2, ... for w = point**2, natural order of exponents."""
    if len(poly) == 1:
        return list(poly)
    square = point * point % q
    even, odd = evaluate(poly[::2], square, q), evaluate(poly[1::2], square, q)
    out, x, half = [0] * len(poly), point, len(poly) // 2
    for i in range(half):
        out[i], out[i + half] = (even[i] + x * odd[i]) % q, (even[i] - x * odd[i]) % q
        x = x * square % q
    return out


def transform(poly, q):
    natural = evaluate([c % q for c in poly], smallest_root(q), q)  # entry i is p(root**(2i+1))
    return [natural[reverse(i)] for i in range(N)]


def inverse(values, q):
    natural = [values[reverse(i)] for i in range(N)]
    root = pow(smallest_root(q), -1, q)
    # sum over i of y_i * root**-(2i+1)j is root**-j times a cyclic transform of y at powers of root**-2
    sums, square, x, out = cyclic(natural, root * root % q, q), pow(N, -1, q), 1, []
    for total in sums:
        out.append(total * x % q * square % q)
        x = x * root % q
    return out


def cyclic(values, w, q):
    if len(values) == 1:
        return list(values)
    even, odd = cyclic(values[::2], w * w % q, q), cyclic(values[1::2], w * w % q, q)
    out, x, half = [0] * len(values), 1, len(values) // 2
    for i in range(half):
        out[i], out[i + half] = (even[i] + x * odd[i]) % q, (even[i] - x * odd[i]) % q
        x = x * w % q
    return out


def pack(residues, bits):
    """Bytes of the residues, 4096 at a time (a multiple of 8, so each stretch ends on a byte)."""
    out = b""
    for start in range(0, len(residues), 4096):
        part = residues[start : start + 4096]
        long = sum(x << (i * bits) for i, x in enumerate(part))
        out += long.to_bytes((len(part) * bits + 7) // 8, "little")
    return out


def unpack(data, bits, count):
    long = int.from_bytes(data, "little")
    return [long >> (i * bits) & ((1 << bits) - 1) for i in range(count)]


def join(residues, moduli):
    """The number in [0, product) with these residues."""
    product = math.prod(moduli)
    return sum(x * (product // p) * pow(product // p, -1, p) for x, p in zip(residues, moduli, strict=True)) % product


def centred(x, q):
    """The number in (-q/2, q/2) that is x mod q, q being odd."""
    return (x + q // 2) % q - q // 2


@functools.cache
def key_products(a_key, primes, s, batch):
    """a*s of a batch in the order of its coefficients, in (-q/2, q/2)."""
    limbs = []
    for limb, q in enumerate(primes):
        a, factor, limb_products = common(a_key, limb, batch, q), transform(s, q), [0] * BATCH
        for lane in range(LANES):
            products = [x * y % q for x, y in zip(a[lane::LANES], factor, strict=True)]
            limb_products[lane::LANES] = inverse(products, q)
        limbs.append(limb_products)
    return [centred(join(residues, primes), math.prod(primes)) for residues in zip(*limbs, strict=True)]


def rounded(x, p, q):
    """x*p/q as float64 rounds it, which may be one from x*p/q rounded exactly where that is half-way, nearly."""
    x = centred(x, q)
    h = round(x * (p / q))
    assert abs(h * q - x * p) * 2**54 <= q * (2**53 + 3 * p)
    return h % p


def encrypt(case):
    """The packed residues of every modulus."""
    v, delta, bound, count = (case[name] for name in ("digits", "delta", "bound", "count"))
    p, q, base = math.prod(case["moduli"]), math.prod(case["primes"]), 2 * case["max_sites"] * bound + 1
    assert delta == (q - 1) // base**v
    a_key, primes = bytes.fromhex(case["a_key"]), tuple(case["primes"])
    s, sent = tuple(key(expand(bytes.fromhex(case["expand"])))), []
    for first in range(0, count, v * BATCH):
        batch, n = case["first_batch"] + first // (v * BATCH), min(v * BATCH, count - first)
        k = [(first + i) * 2654435761 % (2 * bound + 1) - bound for i in range(n)]
        products, e = key_products(a_key, primes, s, batch), noise(bytes.fromhex(case["noise_key"]), batch)
        used = -(-n // v)  # coefficients; i has the values i, used + i, 2 * used + i, ...
        for i in range(used):
            m = sum(value * base**j for j, value in enumerate(k[i::used]))
            sent.append(rounded(products[i] + e[i] + delta * m, p, q))
    return [pack([h % r for h in sent], r.bit_length()) for r in case["moduli"]]


def open_sum(case):
    """The sums of one batch or a part of it, in integers."""
    v, delta, count, sites = case["digits"], case["delta"], case["count"], len(case["expand"])
    p, q, base = math.prod(case["moduli"]), math.prod(case["primes"]), 2 * case["max_sites"] * case["bound"] + 1
    keys = [key(expand(bytes.fromhex(start))) for start in case["expand"]]
    s = tuple(sum(of_all) for of_all in zip(*keys, strict=True))
    products = key_products(bytes.fromhex(case["a_key"]), tuple(case["primes"]), s, case["first_batch"])
    used = -(-count // v)
    packed = [bytes.fromhex(part) for part in case["packed"]]
    parts = [unpack(part, r.bit_length(), used) for part, r in zip(packed, case["moduli"], strict=True)]
    digits = [[0] * used for _ in range(v)]
    for i, residues in enumerate(zip(*parts, strict=True)):
        assert all(x < r for x, r in zip(residues, case["moduli"], strict=True))
        z = centred(join(residues, case["moduli"]) * q - products[i] * p, q * p)  # in units of 1/p
        m = (2 * z + delta * p) // (2 * delta * p)
        noise_of_all = abs(z - m * delta * p)
        assert 2 * noise_of_all <= sites * (42 * p + q + 1) + 4 * p
        for j in range(v):
            digits[j][i] = centred(m, base)
            m = (m - digits[j][i]) // base
        assert m == 0
    sums = [k for plane in digits for k in plane]
    assert not any(sums[count:])  # what is absent is zero
    return sums[:count]


def digest(code, values):
    return hashlib.sha256(struct.pack(f"<{len(values)}{code}", *values)).hexdigest()


def check_a_key(c):
    fields = [b"he-agg/a/v1", c["federation"].encode()]
    fields += [struct.pack(">Q", c[n]) for n in ("epoch", "round", "attempt")] + [bytes.fromhex(c["plan_id"])]
    return hashlib.sha256(b"".join(struct.pack(">I", len(f)) + f for f in fields)).hexdigest() == c["key"]


def check_keystream(c):
    expected = bytes.fromhex(c["bytes"])
    return stream(bytes.fromhex(c["key"]), c["limb"], c["batch"], len(expected)) == expected


def check_uniform(c):
    a = common(bytes.fromhex(c["key"]), c["limb"], c["batch"], c["q"])
    return a[:8] == c["first"] and digest("I", a) == c["sha256_u32le"]


def check_key(c):
    s = key(expand(bytes.fromhex(c["expand"])))
    return s[:24] == c["first"] and digest("b", s) == c["sha256_i8"]


def check_noise(c):
    e = noise(bytes.fromhex(c["key"]), c["batch"])
    return e[:24] == c["first"] and e[-24:] == c["last"] and digest("b", e) == c["sha256_i8"]


def check_ntt(c):
    x = transform([j * j + 1 for j in range(N)], c["q"])
    return smallest_root(c["q"]) == c["root"] and x[:8] == c["first"] and digest("I", x) == c["sha256_u32le"]


def check_packing(c):
    return pack(c["residues"], c["bits"]).hex() == c["packed"]


def check_encrypt(c):
    parts = encrypt(c)
    hashes = [hashlib.sha256(p).hexdigest() for p in parts]
    return [p[:60].hex() for p in parts] == c["packed_first"] and hashes == c["sha256_packed"]


def check_sum(c):
    return open_sum(c) == c["sums"]


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
    sys.exit(main(Path(__file__).parent / "ring"))
