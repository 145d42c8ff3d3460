"""Tags that are computed while parts are encrypted, against Python integers over what was sent."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import numpy as np
import pytest

from he_agg.codecs import codec_for
from he_agg.errors import InputError
from he_agg.ids import RoundId
from he_agg.kernels.bitpack import pack, unpack
from he_agg.mac import RoundMac, tag_count
from he_agg.plan.plan import Plan
from tests.mac import reference
from tests.support.federation import by_number, key_of, plan_of

ROUND = RoundId("test", 4, 2)
PLANS: dict[str, dict[str, Any]] = {
    "two values in two limbs": {"n_values": 140_000, "value_bits": 16, "max_sites": 31},
    "one value in two limbs": {"n_values": 100_000, "value_bits": 24, "max_sites": 31},
    "one limb": {"n_values": 70_000, "value_bits": 16, "max_sites": 100},
    "ckks": {"n_values": 9_000, "value_bits": 16, "max_sites": 5, "codec": "ckks", "part_bytes": 2**16},
}


@pytest.fixture(params=PLANS)
def plan(request) -> Plan:
    """More than one part of a section, and several batches in a part; the last one is short."""
    options: dict[str, Any] = {"codec": "hybrid", "part_bytes": 2**18}
    return plan_of(**options | PLANS[request.param])


def mac_of(plan: Plan) -> RoundMac:
    return RoundMac(key_of(plan).mac_key, plan.public, 1, ROUND)


def values_of(plan: Plan, rng) -> np.ndarray:
    m = plan.public.magnitude
    return rng.integers(-m, m, plan.public.values, dtype=np.int32, endpoint=True)


def expected(plan: Plan, parts) -> tuple[tuple[int, ...], ...]:
    """For each part the sum of beta * gamma * residue, one residue at a time."""
    public, out = plan.public, []
    for place, part in zip(public.places, parts, strict=True):
        section = place.section
        key = reference.coefficient_key(key_of(plan).mac_key, public, 1, ROUND, place.section_index)
        residues = unpack(part.packed, place.residues, section.modulus_bits).tolist()
        out.append(tuple(reference.part(key, section.modulus, tag_count(section), place.index, residues)))
    return tuple(out)


@pytest.mark.parametrize("threads", [1, 3])
def test_tags_are_those_of_what_is_sent(plan, threads, rng):
    mac = mac_of(plan)
    total = mac.new_total()
    watch = partial(mac.watch, total)
    parts = by_number(
        codec_for(plan.public).encrypt(values_of(plan, rng), key_of(plan), ROUND, threads=threads, watch=watch)
    )
    assert max(place.index for place in plan.public.places) > 0
    assert total.values() == expected(plan, parts)


def test_tags_follow_from_the_bytes_alone(plan, rng):
    """Whoever has the parts finds the same tags: as they are verified, and after a restart in any order."""
    mac, again = mac_of(plan), mac_of(plan)
    total, found = mac.new_total(), again.new_total()
    watch = partial(mac.watch, total)
    parts = list(codec_for(plan.public).encrypt(values_of(plan, rng), key_of(plan), ROUND, watch=watch))
    for part in reversed(parts):
        found.add(part.number, again.part(part.number, part.packed))
    assert found.values() == total.values()
    tags = mac.tags(total, "a", "07" * 16)
    check = again.check([("a", "07" * 16, tags)])
    assert all(check.holds(part.number, part.packed) for part in parts)
    assert check.whole


def test_a_part_that_was_not_seen_whole_leaves_no_tags(rng):
    plan = plan_of(70_000, codec="hybrid", part_bytes=2**18)
    mac = mac_of(plan)
    total = mac.new_total()
    parts = by_number(codec_for(plan.public).encrypt(values_of(plan, rng), key_of(plan), ROUND))
    for part in parts[:-1]:
        mac.watch(total, part.number)(part.packed)
    place = plan.public.places[-1]
    row = pack(np.ones(512, dtype=np.uint32), place.section.modulus_bits)
    look = mac.watch(total, place.number)
    look(row)
    with pytest.raises(ValueError, match="1 of"):
        mac.tags(total, "a", "07" * 16)
    look(np.frombuffer(parts[-1].packed, np.uint8)[row.size :])
    mac.tags(total, "a", "07" * 16)
    with pytest.raises(ValueError, match="added before"):
        mac.watch(total, place.number)(parts[-1].packed)


def test_a_value_beyond_the_plan_ends_it_without_tags(rng):
    plan = plan_of(70_000, codec="hybrid", part_bytes=2**18, value_bits=24)
    mac, values = mac_of(plan), values_of(plan, rng)
    total = mac.new_total()
    values[-1] = plan.public.magnitude + 1
    with pytest.raises(InputError):
        list(codec_for(plan.public).encrypt(values, key_of(plan), ROUND, watch=partial(mac.watch, total)))


def test_residues_are_seen_in_the_thread_that_makes_them(rng):
    plan = plan_of(400_000, codec="hybrid", part_bytes=2**18)
    seen: dict[int, set[int]] = {}

    def watch(number):
        threads = seen.setdefault(number, set())
        threads.add(threading.get_ident())
        return lambda _: threads.add(threading.get_ident())

    for _ in codec_for(plan.public).encrypt(values_of(plan, rng), key_of(plan), ROUND, threads=2, watch=watch):
        pass
    assert all(len(threads) == 1 for threads in seen.values())
    assert set.union(*seen.values()) != {threading.get_ident()}
