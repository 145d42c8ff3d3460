"""A malicious member that holds the group key: what honest sites refuse to open, and what it can still do.

Its tags and signatures are right, so nothing before decryption can notice it. What can is in
`he_agg/plan/fixedpoint.py` and in the codecs: weights, sums, count and noise must be such as honest sites make.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from he_agg import Layout, Plan, dequantize, quantize
from he_agg.codecs import codec_for
from he_agg.errors import DecryptionError
from he_agg.plan.ckks_parameters import CkksParameters
from he_agg.plan.hybrid_parameters import HybridParameters
from he_agg.plan.security import NOISE_BOUND
from he_agg.ring.primes import N
from tests.attacks.members import Member
from tests.attacks.recovery import GENERATOR, polynomial
from tests.support.real import SITES

A, B, C = SITES
Parameters = CkksParameters | HybridParameters
CAP, CLIP = 2000, 1.0
HONEST = {A: (0.3, 101), B: (-0.1, 100)}
"""Value and weight of each honest site; the same value in all places."""


@dataclass(frozen=True)
class Attack:
    """What the member encrypts.

    Attributes:
        value: its integer in each place, in units of M.
        weight: its weight digit.
        count: its count.
        noise: how far each value is moved off the grid, in steps.
        moves: how far, at least, the mean would move if it were opened; None if only the noise is wrong.
    """

    value: float = 0.0
    weight: int = 100
    count: int = 1
    noise: float = 0.0
    moves: float | None = None

    def integers(self, plan: Plan) -> np.ndarray:
        size, magnitude = plan.layout.size, plan.public.magnitude
        assert plan.weight_digits == 1
        return np.array([round(self.value * magnitude)] * size + [self.weight, self.count], dtype=np.int64)


ATTACKS = {
    "full scale with weight 1": Attack(value=1, weight=1, moves=9),
    "full scale with a weight below zero": Attack(value=1, weight=-198, moves=600),
    "zeros with a weight below zero": Attack(value=0, weight=-198, moves=6),
    "values beyond M": Attack(value=2, weight=100, moves=10),
    "values that carry into the next digit": Attack(value=10 + 1 / 32767, weight=100, moves=60),
    "a weight above all caps": Attack(value=0, weight=3 * CAP, moves=0.09),
    "count 2": Attack(value=0, weight=100, count=2, moves=0),
    "noise far too large": Attack(noise=0.25),
}


def naive_mean(plan: Plan, sums: np.ndarray) -> np.ndarray:
    """What a site without these checks would take for the mean."""
    return sums[: plan.layout.size] * CLIP * CAP / (plan.public.magnitude * sums[plan.layout.size])


def play(
    found: Callable,
    codec: str,
    attack: Attack,
    noise: Callable[[Parameters], float] | None = None,
    max_sites: int = 5,
    one_time_key: np.ndarray | None = None,
):
    """Two honest sites and the member submit. Returns the world, the round's id, and the integer sums."""
    world = found(codec=codec, value_bits=16, weight_cap=CAP, max_sites=max_sites)
    plan = world.plan
    if noise is not None:
        off = noise(plan.public.parameters)
    else:
        off = attack.noise if codec == "ckks" else attack.noise * plan.public.parameters.delta
    session = world.open_sites[C]._session
    vars(session)["codec"] = Member(plan, codec_for(plan.public), attack.integers(plan), off, one_time_key)
    sums = attack.integers(plan)
    ids = set()
    for name in SITES:
        value, weight = HONEST.get(name, (0.0, 1))
        update = {"w": np.full(plan.layout.size, value)}
        opened = next(world.open_sites[name].rounds())
        opened.submit(update, weight=weight)
        ids.add(opened.id)
        if name != C:
            sums = sums + quantize(plan, update, weight).values
    (round_id,) = ids
    return world, round_id, sums


@pytest.mark.parametrize("codec", ["hybrid", "ckks"])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_sums_that_no_honest_sites_make_are_refused(found, codec, attack):
    """With the uniform error, at each honest site; without the checks the attack would have worked."""
    world, round_id, sums = play(found, codec, attack)
    if attack.moves is not None:
        without = sum(weight * value for value, weight in HONEST.values()) / 201
        assert np.abs(naive_mean(world.plan, sums) - without).max() >= attack.moves
    for name in (A, B):
        assert "sum, opened" in world.assert_rejected(name, round_id)


@pytest.mark.parametrize("codec", ["hybrid", "ckks"])
def test_what_an_honest_site_could_have_sent_is_opened(found, codec):
    """The same code with honest integers: what is refused above is not refused for how it was made."""
    world, round_id, sums = play(found, codec, Attack(value=-0.05, weight=100))
    for name in (A, B):
        mean = world.fetch(name, round_id)
        assert np.array_equal(mean.sums, sums[: world.plan.layout.size])
        assert np.allclose(mean.tensors["w"], naive_mean(world.plan, sums), atol=1e-12)


@pytest.mark.parametrize("codec", ["hybrid", "ckks"])
def test_noise_that_no_single_value_shows_is_refused(found, codec):
    """Each value near enough to the grid, all together too far: the mean square tells."""

    def noise(parameters: Parameters) -> float:
        if isinstance(parameters, CkksParameters):
            return parameters.largest_distance(3) / 3
        # No e of an honest site is larger: by what each coefficient shows, whatever the others' are, this could be one.
        rounded = parameters.modulus / math.prod(parameters.moduli) / 2
        assert parameters.largest_distance(3) >= 3 * (NOISE_BOUND + rounded)
        return NOISE_BOUND

    # With room for many sites noise counts for more than rounding does, which nobody can make larger than 1/2.
    world, round_id, _ = play(found, codec, Attack(value=-0.05, weight=100), noise, max_sites=31)
    for name in (A, B):
        assert '"off-grid"' in world.assert_rejected(name, round_id)


TURNS = np.cos(np.array([pow(GENERATOR, j, 4 * N) for j in range(N)]) * np.pi / (2 * N))  # of coefficient 1
OVERFLOWING = {
    "the largest in all slots": np.full(N, NOISE_BOUND),
    "just too large in all slots": np.full(N, 4),
    "the largest with the signs in turn": np.resize([NOISE_BOUND, -NOISE_BOUND], N),
    "the largest with the signs of one coefficient": np.where(TURNS > 0, NOISE_BOUND, -NOISE_BOUND),
}
"""One-time keys that nobody draws: each coefficient may be one of an honest key, the polynomial does not fit q."""


@pytest.mark.parametrize("key", OVERFLOWING.values(), ids=OVERFLOWING.keys())
def test_a_one_time_key_that_overflows_its_vector_is_refused(found, key):
    """It opens as another key, or as none: with the uniform error, never as a wrong number."""
    world, round_id, _ = play(found, "hybrid", Attack(value=-0.05, weight=100), one_time_key=key)
    carrier = world.plan.public.parameters.key
    longest = np.abs(polynomial(key.astype(np.float64))).max() * 2**carrier.scale_bits
    assert longest > carrier.profile.modulus / 2
    for name in (A, B):
        assert '"off-grid"' in world.assert_rejected(name, round_id)


FITTING = {
    "2 in all slots": np.full(N, 2),
    "the largest with signs at random": np.random.default_rng(1).choice([-NOISE_BOUND, NOISE_BOUND], N),
}


@pytest.mark.parametrize("key", FITTING.values(), ids=FITTING.keys())
def test_a_one_time_key_that_fits_its_vector_is_opened(found, key):
    """Made in the same way: what is refused above is not refused for how it was made."""
    world, round_id, sums = play(found, "hybrid", Attack(value=-0.05, weight=100), one_time_key=key)
    for name in (A, B):
        assert np.array_equal(world.fetch(name, round_id).sums, sums[: world.plan.layout.size])


# What is left. The codecs are exact, so that integers do for it.

TRIAL_VALUES = 20_000


def released(plan: Plan, sums: np.ndarray, n: int) -> np.ndarray | None:
    """The mean, or None where it is refused."""
    try:
        return dequantize(plan, sums, n).tensors["w"]
    except DecryptionError:
        return None


@pytest.mark.parametrize("n", [3, 5, 10])
def test_largest_shift_that_one_member_can_cause(n):
    """One of n members against typical updates: values around 0.02, clip 1, weights of 100 to 600 with a cap of 2000.

    It is within the clip bound, and its rounding, whatever the member knows; and comes near that.
    """
    layout = Layout.of({"w": np.zeros(TRIAL_VALUES)}, clip=CLIP, weight_cap=CAP)
    plan = Plan.create("trial", layout, max_sites=10, min_sites=3, value_bits=16)
    magnitude, size, rng = plan.public.magnitude, layout.size, np.random.default_rng(n)  # SECURITY.md has the figures
    weights = [int(weight) for weight in rng.integers(100, 601, n - 1)]
    updates = [{"w": rng.normal(0, 0.02, size).clip(-CLIP, CLIP)} for _ in weights]
    honest = np.sum([quantize(plan, *pair).values for pair in zip(updates, weights, strict=True)], axis=0)
    before = naive_mean(plan, honest)
    total = sum(weights)

    def shift(value: np.ndarray | int, weight: int) -> Any:
        """How far the mean moves, at its worst, if the member sends this; None if that is refused."""
        own = np.concatenate([np.broadcast_to(value, size), [weight, 1]])
        mean = released(plan, honest + own, n)
        return None if mean is None else float(np.abs(mean - before).max())

    # By the rules: the largest weight and all values at the clip bound.
    by_rules = shift(magnitude, CAP)
    # Its own weight digit at all that is left under n caps, values to match; it need not know what others send.
    unseen = n * CAP - total
    blind = shift(magnitude * unseen // CAP, unseen)
    # Nothing but a weight below zero: what the others send, made larger. It takes the most that is not refused.
    amplified = [(s, w) for w in range(n - total, 0) if (s := shift(0, w)) is not None]
    louder, least = amplified[0]
    factor = total / (total + least)
    # With the others' exact sum: every mean at will. Each total weight allows its largest sum; one more is refused.
    knowing = 0.0
    for left in (n, total, n * CAP):
        largest = min(n * magnitude, (magnitude * left + n * (CAP - 1)) // CAP)
        aimed = -np.sign(honest[:size]) * largest - honest[:size]
        knowing = max(knowing, shift(aimed, left - total))
        assert shift(aimed - np.sign(honest[:size]), left - total) is None
    rounding = CLIP * (CAP - 1) / magnitude  # n (w_max - 1) / (M W), at the least weight, W = n
    bound = CLIP + rounding + np.abs(before).max()
    print(
        f"\n{n} sites: by the rules {by_rules:.3f}; weight beyond the cap {blind:.3f}; "
        f"others made {factor:.1f} times as large {louder:.3f}; knowing the others' sum {knowing:.3f} of {bound:.3f}"
    )
    assert max(by_rules, blind, louder, knowing) <= bound
    assert by_rules < blind < knowing
    assert knowing > bound - CLIP * CAP / (magnitude * n)  # less than one integer of the sum is left
    # Without the checks there is no bound: the first attack of the table above, here.
    assert np.abs(naive_mean(plan, honest + np.concatenate([[magnitude] * size, [n - total, 1]])) - before).max() > 100
