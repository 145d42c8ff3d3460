"""The MAC again, from its documentation alone: Python integers, AES-CTR block by block, one residue at a time."""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from he_agg.ids import RoundId
from he_agg.plan.plan import PublicPlan

ROW, ROWS_PER_STREAM, TAGS_PER_STREAM = 512, 1024, 10


def words(key: bytes, limb: int, batch: int, count: int) -> list[int]:
    counter = limb.to_bytes(4, "big") + batch.to_bytes(8, "big") + (2).to_bytes(4, "big")
    stream = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor().update(bytes(8 * count))
    return [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(count)]


def derived(mac_key: bytes, label: str, plan: PublicPlan, epoch: int, round_id: RoundId, *more: bytes) -> bytes:
    numbers = [n.to_bytes(8, "big") for n in (epoch, round_id.number, round_id.attempt)]
    fields = [label.encode(), round_id.federation.encode(), *numbers, bytes.fromhex(plan.plan_id), *more]
    return hmac.new(mac_key, b"".join(len(f).to_bytes(4, "big") + f for f in fields), hashlib.sha256).digest()


def coefficient_key(mac_key: bytes, plan: PublicPlan, epoch: int, round_id: RoundId, section: int) -> bytes:
    return derived(mac_key, "he-agg/mac/coefficients/v1", plan, epoch, round_id, section.to_bytes(4, "big"))


def pad(mac_key, plan, epoch, round_id, number, tag, site, nonce) -> int:
    more = (number.to_bytes(4, "big"), tag.to_bytes(4, "big"), site.encode(), bytes.fromhex(nonce))
    digest = derived(mac_key, "he-agg/mac/pad/v1", plan, epoch, round_id, *more)
    return int.from_bytes(digest, "big") % plan.places[number].section.modulus


def part(key: bytes, modulus: int, tags: int, index: int, residues: list[int]) -> list[int]:
    """What a part contributes: `key` is the section's."""
    total = [0] * tags
    for t in range(tags):
        gamma = [w * min(modulus, 2**26) >> 64 for w in words(key, 0, t, ROW)]
        group, place = divmod(t, TAGS_PER_STREAM)
        width = min(TAGS_PER_STREAM, tags - group * TAGS_PER_STREAM)
        rows = [residues[i : i + ROW] for i in range(0, len(residues), ROW)]
        for block in range(-(-len(rows) // ROWS_PER_STREAM)):
            of_stream = rows[block * ROWS_PER_STREAM : (block + 1) * ROWS_PER_STREAM]
            drawn = words(key, 1 + group, index * 2**32 + block, len(of_stream) * width)
            for beta, row in zip(drawn[place::width], of_stream, strict=True):
                inner = sum(g * x for g, x in zip(gamma, row, strict=False))
                total[t] += (beta * min(modulus, 2**28) >> 64) * inner
    return [x % modulus for x in total]
