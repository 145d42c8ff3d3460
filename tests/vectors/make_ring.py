"""Write tests/vectors/ring/*.json from the package. Run by hand, only when the format changes:

    python -m tests.vectors.make_ring

The files are the format: a change of theirs changes the wire format, and `second_reader.py` must agree.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from he_agg.kernels.bitpack import pack, residue_dtype, unpack
from he_agg.ring import ntt
from he_agg.ring.keystream import Keystream, a_key
from he_agg.ring.modulus import modulus
from he_agg.ring.params import RingParams
from he_agg.ring.primes import BATCH, N, ntt_primes
from he_agg.ring.sampling import KEY_BYTES_EACH, key_law
from tests.ring import deterministic, sets

LARGE, PAIR = ntt_primes(30)[0], (ntt_primes(26)[0], ntt_primes(27)[0])
REJECTS = ntt_primes(24)[1]
"""80 of the 32,768 words of a batch are rejected: more than modulo any other prime in use."""

FOLDER = Path(__file__).parent / "ring"


def seed(label):
    return hashlib.sha256(f"he-agg ring vector {label}".encode()).digest()


def sha(array, dtype):
    return hashlib.sha256(np.ascontiguousarray(array).astype(dtype).tobytes()).hexdigest()


def keys():
    fields = [
        ("northern clinics", 1, 7, 0, seed("plan").hex()),
        ("", 0, 0, 0, ""),
        ("Zürich", 2**40, 3, 9, "00"),
    ]
    names = ("federation", "epoch", "round", "attempt", "plan_id")
    for f in fields:
        yield dict(zip(names, f, strict=True)) | {"key": a_key(*f[:4], bytes.fromhex(f[4])).hex()}


def uniform():
    for q, limb, batch in ((LARGE, 0, 0), (LARGE, 0, 2**33 + 5), (PAIR[1], 1, 1), (REJECTS, 0, 0)):
        a = deterministic.common(seed("a"), limb, batch, q)
        yield {
            "key": seed("a").hex(),
            "limb": limb,
            "batch": batch,
            "q": q,
            "first": a[:8].tolist(),
            "sha256_u32le": sha(a, "<u4"),
        }


def keystreams():
    for limb, batch in ((0, 0), (1, 2**64 - 1)):
        out = np.empty(80, dtype=np.uint8)
        Keystream(seed("stream")).fill(out, limb, batch)
        yield {"key": seed("stream").hex(), "limb": limb, "batch": batch, "bytes": out.tobytes().hex()}


def noise():
    for batch in (0, 12345):
        e = deterministic.noise(seed("noise"), batch)
        yield {
            "key": seed("noise").hex(),
            "batch": batch,
            "first": e[:24].tolist(),
            "last": e[-24:].tolist(),
            "sha256_i8": sha(e, "i1"),
        }


def secrets():
    """Entropy is SHA-256 in counter mode, to keep 16 KiB out of the file."""
    for name in ("one", "two"):
        s = key_law(expand(seed(name)))
        yield {"expand": seed(name).hex(), "first": s[:24].tolist(), "sha256_i8": sha(s, "i1")}


def expand(start):
    blocks = (hashlib.sha256(start + i.to_bytes(4, "big")).digest() for i in range(N * KEY_BYTES_EACH // 32))
    return b"".join(blocks)


def transforms():
    for q in (LARGE, *PAIR):
        m = modulus(q)
        x = (np.arange(N, dtype=np.uint32) ** 2 + np.uint32(1)) % np.uint32(q)
        ntt.forward(x, m.forward, m.forward_quotients, 1, np.uint32(q))
        yield {
            "q": q,
            "root": m.root,
            "input": "(j**2 + 1) % q",
            "first": x[:8].tolist(),
            "sha256_u32le": sha(x, "<u4"),
        }


def packing():
    for bits in (2, 7, 17, 30, 31, 32, 40, 53, 62):
        x = [int.from_bytes(seed(f"{bits}/{i}")[:8], "little") % (1 << bits) for i in range(21)]
        packed = pack(np.array(x, dtype=residue_dtype(bits)), bits)
        yield {"bits": bits, "residues": x, "packed": packed.tobytes().hex()}


def params_of(ring: RingParams):
    return {
        "digits": ring.digits,
        "primes": list(ring.primes),
        "moduli": list(ring.moduli),
        "delta": ring.delta,
        "bound": ring.max_abs_value,
        "max_sites": ring.max_sites,
    }


def encryption():
    for name, ring, batch, count in (
        ("one of each", sets.ONE, 0, 37),
        ("second batch short", sets.MANY, 4, 5 * BATCH + 8),
        ("two of each", sets.TWO, 2, 41),
        ("two primes, one modulus", sets.MIXED, 2**33, 40),
        ("whole batch", sets.TWO, 0, 2 * BATCH),
        ("widest", sets.WIDEST, 1, 3 * 21),
    ):
        bound = ring.max_abs_value
        values = ((np.arange(count, dtype=np.int64) * 2654435761 % (2 * bound + 1)) - bound).astype(np.int32)
        parts = deterministic.encrypt(ring, seed("a"), seed("noise"), key_law(expand(seed("one"))), batch, values)
        yield {
            "name": name,
            **params_of(ring),
            "a_key": seed("a").hex(),
            "noise_key": seed("noise").hex(),
            "expand": seed("one").hex(),
            "first_batch": batch,
            "count": count,
            "values": "i * 2654435761 % (2 * bound + 1) - bound",
            "packed_first": [p[:60].tobytes().hex() for p in parts],
            "sha256_packed": [hashlib.sha256(p.tobytes()).hexdigest() for p in parts],
        }


def sums():
    """Sums of two submissions: any values, and all at the bound."""
    for name, ring, batch, count in (
        ("one of each", sets.ONE, 0, 37),
        ("five values, a short coefficient", sets.MANY, 3, 33),
        ("two of each, a short coefficient", sets.TWO, 2, 41),
        ("two primes, one modulus", sets.MIXED, 2**33, 40),
        ("widest", sets.WIDEST, 1, 3 * 21),
    ):
        bound = ring.max_abs_value
        any_values = np.arange(count, dtype=np.int64) * 2654435761 % (2 * bound + 1) - bound
        for kind, values in (
            ("any", any_values),
            ("highest", np.full(count, bound)),
            ("lowest", np.full(count, -bound)),
        ):
            keys = [key_law(expand(seed(site))) for site in ("one", "two")]
            submissions = [
                deterministic.encrypt(ring, seed("a"), seed(f"noise of {i}"), keys[i], batch, values.astype(np.int32))
                for i in range(2)
            ]
            used = -(-count // ring.digits)
            total = [
                pack(((unpack(x, used, bits).astype(np.int64) + unpack(y, used, bits)) % q).astype(np.uint32), bits)
                for x, y, q, bits in zip(*submissions, ring.moduli, ring.sent_bits, strict=True)
            ]
            yield {
                "name": f"{name}: {kind}",
                **params_of(ring),
                "a_key": seed("a").hex(),
                "expand": [seed("one").hex(), seed("two").hex()],
                "first_batch": batch,
                "count": count,
                "packed": [t.tobytes().hex() for t in total],
                "sums": (2 * values).tolist(),
            }


FILES = {
    "a_key": keys,
    "keystream": keystreams,
    "uniform": uniform,
    "key": secrets,
    "noise": noise,
    "ntt": transforms,
    "packing": packing,
    "encrypt": encryption,
    "sum": sums,
}


def make(name):
    """Return the text of one file."""
    return json.dumps({"format": "he-agg ring vectors 1", "cases": list(FILES[name]())}, indent=1) + "\n"


if __name__ == "__main__":
    for file in FILES:
        (FOLDER / f"{file}.json").write_text(make(file))
