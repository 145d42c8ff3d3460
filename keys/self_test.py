"""Before a group key is used: encrypt, add, open and verify a known vector with it.

A key that opens and has the right commitment can still be useless, because the dealer's or this site's installation
is broken. Better to learn it now than in the first round, with everybody waiting.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from he_agg.codecs import codec_for
from he_agg.codecs.base import Deal
from he_agg.errors import HeAggError, KeystoreError, Reason
from he_agg.ids import RoundId
from he_agg.kernels import bitpack
from he_agg.mac import RoundMac
from he_agg.plan.plan import PublicPlan, sections_of
from he_agg.plan.sections import Part
from keys.group_key import GroupKey

__all__ = ["self_test"]

_VALUES = 64
_SITES = ("self-test-a", "self-test-b")
_NONCES = ("00" * 16, "11" * 16)


@dataclass(frozen=True)
class _SmallKey:
    """The same secret for a plan of a few values: the federation's own may have billions."""

    key_id: str
    plan_id: str
    epoch: int
    key_material: bytes = field(repr=False)


def self_test(key: GroupKey) -> None:
    """Check that what two sites encrypt with the key adds, verifies and opens to the sum, exactly.

    Nothing of it leaves this function. It costs a fraction of a second, whatever the plan's size.

    Raises:
        KeystoreError: it does not.
    """
    try:
        good = _works(key)
    except HeAggError as error:
        raise _broken(key, f": {error.reason}") from error
    if not good:
        raise _broken(key, "")


def _works(key: GroupKey) -> bool:
    whole = key.plan.public
    plan = replace(whole, values=_VALUES, sections=sections_of(whole.parameters, _VALUES, whole.part_bytes, whole.keys))
    small = _SmallKey(key.key_id, plan.plan_id, key.epoch, key.key_material)
    round_id = RoundId(plan.federation, 999_999_999, 999_999_999)
    codec = codec_for(plan)
    # The bounds and what is between: -M, ..., M.
    vector = np.linspace(-plan.magnitude, plan.magnitude, _VALUES).round().astype(np.int32)
    vectors = (vector, vector[::-1].copy())
    dealt: list[NDArray[np.int64]] = []
    deal: Deal | None = (lambda one_time: dealt.append(one_time.astype(np.int64))) if plan.splits_keys else None
    with RoundMac(key.mac_key, plan, key.epoch, round_id) as mac:
        submissions, tags = [], []
        for site, nonce, values in zip(_SITES, _NONCES, vectors, strict=True):
            total = mac.new_total()
            encrypted = codec.encrypt(values, small, round_id, threads=1, watch=partial(mac.watch, total), deal=deal)
            submissions.append({part.number: part for part in encrypted})
            tags.append((site, nonce, mac.tags(total, site, nonce)))
        parts = {place.number: _fold(plan, place.number, submissions) for place in plan.places}
        right, wrong = mac.check(tags), mac.check(tags[:1])
        # A check that passes whatever it is shown would be no check.
        for number, part in parts.items():
            if not right.holds(number, part.packed) or wrong.holds(number, part.packed):
                return False
    key_sum = dealt[0] + dealt[1] if plan.splits_keys else None
    opened = codec.decrypt(lambda number: parts[number], len(_SITES), small, round_id, threads=1, key_sum=key_sum)
    return np.array_equal(opened, vectors[0].astype(np.int64) + vectors[1])


def _fold(plan: PublicPlan, number: int, submissions: list[dict[int, Part]]) -> Part:
    place = plan.places[number]
    section = place.section
    total = bitpack.new_sum(place.residues, section.modulus_bits)
    for parts in submissions:
        bitpack.fold(total, parts[number].packed, section.modulus_bits, section.modulus)
    return Part(number, bitpack.pack(total, section.modulus_bits).data)


def _broken(key: GroupKey, why: str) -> KeystoreError:
    return KeystoreError(
        Reason.KEY_MISMATCH,
        f"group key {key.key_id[:12]} of epoch {key.epoch}: the self-test failed{why}; the key was not stored",
        "try on another machine; if it fails there too, ask the coordinator for a new epoch: `he-agg epoch rotate`",
    )
