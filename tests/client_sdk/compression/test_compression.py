"""What is sent, what is kept, and that sums stay sums."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_sdk.adapters import PytreeAdapter
from client_sdk.compression import Compression, FewBits, Grid, LowRank, RandomMask
from client_sdk.compression.low_rank import _orthonormal, _product
from client_sdk.training import FedAvgM, simulate, train, training_plan
from he_agg import Layout, Plan, dequantize, quantize
from he_agg.errors import InputError, PlanError

pytestmark = pytest.mark.filterwarnings("ignore::he_agg.ResolutionWarning")

TENSORS = {"m": np.zeros((20, 12), np.float32), "v": np.zeros(7, np.float32), "s": np.zeros((), np.float32)}
CLIP = {"m": 1.0, "v": 0.5, "s": 2.0}
LOSSY = [
    FewBits(),
    FewBits(stochastic=False),
    RandomMask(0.3),
    RandomMask(0.3, error_feedback=False),
    LowRank(2),
    LowRank(1, stochastic=False),
]


def plan_for(compression, value_bits=16, weight_cap=100):
    example, bound = compression.layout(TENSORS, CLIP)
    layout = Layout.of(example, clip=bound, weight_cap=weight_cap)
    return Plan.create("x", layout, max_sites=4, value_bits=value_bits, codec="ckks")


def one_step(compression, plan, sites, step, common, locals_):
    """A whole step at several sites: [(update, weight)]. Returns the move, common, new locals, the targets."""
    targets = [compression.target(update, local) for (update, _), local in zip(sites, locals_, strict=True)]
    for phase in range(compression.phases):
        payloads = [
            compression.encode(target, phase, step, common, local, Grid(plan, weight))
            for target, local, (_, weight) in zip(targets, locals_, sites, strict=True)
        ]
        each = [quantize(plan, p, w).values for p, (_, w) in zip(payloads, sites, strict=True)]
        sums = np.sum(each, axis=0)
        mean = dequantize(plan, sums, len(sites)).tensors
        move, common = compression.decode(dict(mean), phase, step, common)
    new = [compression.residual(t, p, step, common, x) for t, p, x in zip(targets, payloads, locals_, strict=True)]
    return move, common, new, targets


def random_update(rng, spread=0.1):
    return {n: (spread * rng.standard_normal(a.shape)).astype(np.float32) for n, a in TENSORS.items()}


@given(st.integers(0, 2**32), st.sampled_from([4, 8, 12, 16, 20, 24]), st.integers(1, 100))
def test_what_is_snapped_travels_exactly(seed, bits, weight):
    rng = np.random.default_rng(seed)
    plan = plan_for(Compression(), bits) if bits else None
    plan = Plan.create("x", Layout.of({"v": np.zeros(50)}, clip=0.3, weight_cap=100), max_sites=4, value_bits=bits)
    grid = Grid(plan, weight)
    share = plan.public.magnitude * (weight / 100)
    values = rng.uniform(-0.5, 0.5, 50)
    if share < 1:
        with pytest.raises(InputError, match="weight cap") as caught:
            grid.snap("v", values)
        assert "larger units" in caught.value.hint
        return
    for draws in (None, rng.random(50)):
        snapped = grid.snap("v", values, draws)
        k = quantize(plan, {"v": snapped}, weight).values[:50]
        # What comes back from a single site is what it sent.
        assert np.array_equal(k, np.rint(snapped * (share / 0.3)))
        assert np.abs(k * (0.3 / share) - snapped).max() <= np.spacing(0.3)
        inside = np.abs(values) < 0.3 * int(share) / share
        assert np.abs(snapped - values)[inside].max(initial=0) <= (0.5 if draws is None else 1) * 0.3 / share * (
            1 + 1e-9
        )


def test_stochastic_rounding_is_unbiased(rng):
    plan = Plan.create("x", Layout.of({"v": np.zeros(1)}, clip=1.0, weight_cap=1), max_sites=4, value_bits=4)
    count = 40_000
    snapped = Grid(plan, 1).snap("v", np.full(count, 0.3), rng.random(count))
    # A draw is one of two neighbours 1/7 apart: deviation of the mean at most 1/14/sqrt(n); six of them.
    assert abs(snapped.mean() - 0.3) < 6 / 14 / count**0.5


@pytest.mark.parametrize("compression", LOSSY, ids=repr)
def test_with_error_feedback_nothing_is_lost_over_time(compression, rng):
    """Sum of all moves and of what the sites still hold back is the sum of all updates."""
    if not compression.error_feedback:
        pytest.skip("keeps nothing")
    plan = plan_for(compression)
    common, _ = compression.start(TENSORS, 0, bounds_of(plan))
    locals_ = [compression.start(TENSORS, seed, bounds_of(plan))[1] for seed in (1, 2)]
    weights, moved, given_ = (40, 100), dict.fromkeys(TENSORS, 0.0), dict.fromkeys(TENSORS, 0.0)
    for step in range(1, 9):
        updates = [random_update(rng) for _ in weights]
        move, common, locals_, _ = one_step(
            compression, plan, list(zip(updates, weights, strict=True)), step, common, locals_
        )
        for key in TENSORS:
            moved[key] = moved[key] + move[key]
            given_[key] = (
                given_[key] + sum(w * u[key].astype(float) for u, w in zip(updates, weights, strict=True)) / 140
            )
    for key in TENSORS:
        held = sum(w * local[f"residual|{key}"] for local, w in zip(locals_, weights, strict=True)) / 140
        assert np.abs(moved[key] + held - given_[key]).max() < 1e-12


def bounds_of(plan):
    return {spec.name: spec.clip for spec in plan.layout.tensors}


def test_a_mask_sends_every_entry_once_in_a_cycle_and_is_the_same_everywhere():
    mask = RandomMask(0.25, seed="public")
    seen = np.concatenate([mask.indices("w", 1000, step) for step in range(1, 5)])
    assert np.array_equal(np.sort(seen), np.arange(1000))
    assert np.array_equal(mask.indices("w", 1000, 3), RandomMask(0.25, seed="public").indices("w", 1000, 3))
    again = np.concatenate([mask.indices("w", 1000, step) for step in range(5, 9)])
    assert np.array_equal(np.sort(again), np.arange(1000))
    assert not np.array_equal(again, seen), "another order"
    assert not np.array_equal(mask.indices("v", 1000, 1), mask.indices("w", 1000, 1))
    assert not np.array_equal(RandomMask(0.25, seed="other").indices("w", 1000, 1), mask.indices("w", 1000, 1))


def test_a_mask_does_not_change_with_the_version_of_numpy():
    assert RandomMask(0.25, seed="public").indices("w", 12, 1).tolist() == [1, 3, 7]


def test_without_error_feedback_a_mask_is_scaled_to_be_unbiased(rng):
    mask = RandomMask(0.25, error_feedback=False, stochastic=False)
    plan = plan_for(mask)
    common, local = mask.start(TENSORS, 0, bounds_of(plan))
    update, total = random_update(rng), 0.0
    for step in range(1, 5):
        move, common, (local,), _ = one_step(mask, plan, [(update, 100)], step, common, [local])
        total = total + move["m"] / 4
    assert np.abs(total - update["m"]).max() < 2 / plan.public.magnitude


def test_low_rank_updates_are_found_after_two_steps(rng):
    low = LowRank(2, stochastic=False)
    plan = plan_for(low, 24)
    common, _ = low.start(TENSORS, 0, bounds_of(plan))
    locals_ = [low.start(TENSORS, 0, bounds_of(plan))[1]] * 2
    matrix = 0.1 * rng.standard_normal((20, 2)) @ rng.standard_normal((2, 12))
    update = {"m": matrix.astype(np.float32), "v": np.zeros(7, np.float32), "s": np.zeros((), np.float32)}
    for step in (1, 2):
        move, common, _, _ = one_step(low, plan, [(update, 50), (update, 100)], step, common, locals_)
    # 24 bits: each factor's entry is off by half a unit; 12 * 2 of them make an entry.
    assert np.abs(move["m"] - matrix).max() < 1e-4
    assert np.abs(move["v"]).max() == 0


def test_factors_are_smaller_and_what_would_not_be_travels_whole():
    assert plan_for(LowRank(1)).layout.size == 20 + 7 + 1
    assert plan_for(LowRank(2)).layout.size == 40 + 7 + 1
    assert plan_for(LowRank(6)).layout.size == plan_for(Compression()).layout.size
    assert plan_for(RandomMask(0.1)).layout.size == 24 + 1 + 1


def test_orthonormal_columns_are_orthonormal_and_spares_stand_in(rng):
    q = _orthonormal(rng.standard_normal((50, 4)))
    assert np.abs(q.T @ q - np.eye(4)).max() < 1e-14
    flat = np.ones((50, 3))
    assert np.abs(_orthonormal(flat)[:, 1:]).max() == 0
    q = _orthonormal(flat, rng.standard_normal((50, 3)))
    assert np.abs(q.T @ q - np.eye(3)).max() < 1e-14
    assert np.abs(_product(q, q) - q @ q.T).max() < 1e-15


@pytest.mark.parametrize("make", [lambda: RandomMask(0), lambda: RandomMask(1.5), lambda: LowRank(0)])
def test_settings_that_cannot_be_are_refused(make):
    with pytest.raises(PlanError):
        make()


def model():
    return {"m": np.zeros((12, 20), np.float32), "v": np.zeros(3, np.float32)}


def fit_for(i, stop_at=None):
    def fit(params, task):
        if task.step == stop_at:
            raise InterruptedError
        rng = np.random.default_rng([i, task.seed])
        goal = np.random.default_rng(i).standard_normal((12, 20))
        new = params["m"] + 0.1 * (goal - params["m"]) + 0.01 * rng.standard_normal((12, 20))
        return params | {"m": new.astype(np.float32), "v": params["v"] + np.float32(0.01)}, 50 + 10 * i

    return fit


@pytest.mark.parametrize(
    ("compression", "bits"), [(FewBits(), 8), (RandomMask(0.2), 12), (LowRank(2), 16)], ids=lambda v: type(v).__name__
)
def test_encrypted_equals_simulated_and_goes_on_after_a_crash(compression, bits, running, name, tmp_path, monkeypatch):
    monkeypatch.setattr("client_sdk.training.loop.secrets.randbits", lambda _: 5)
    plan = training_plan(name, model(), clip=2.0, weight_cap=100, max_sites=3, min_sites=3, rounds=6,
                         compression=compression, value_bits=bits, deadline_s=120)  # fmt: skip
    options = {"compression": compression, "strategy": FedAvgM(momentum=0.5), "rounds": 6}
    names = [f"hospital-{x}" for x in "abc"]
    expected = simulate(plan, names, lambda site, i: train(site, model(), fit_for(i), **options))
    assert len({result.model_hash for result in expected}) == 1

    def work(site, i):
        mine = options | {"checkpoint": tmp_path / site.name}
        if i == 2:

            def die(report):
                if report.round == 3:
                    raise InterruptedError

            with pytest.raises(InterruptedError):
                train(site, model(), fit_for(i), hooks=[die], **mine)
        return train(site, model(), fit_for(i), **mine)

    with running(plan) as federation:
        results = federation.everywhere(work)
    assert {result.model_hash for result in results} == {expected[0].model_hash}


def test_another_compression_than_the_plans_is_refused():
    plan = training_plan("x", model(), clip=2.0, weight_cap=100, max_sites=3, compression=RandomMask(0.2))
    with pytest.raises(PlanError, match="'m'"):
        simulate(plan, ["a", "b"], lambda site, i: train(site, model(), fit_for(i), compression=RandomMask(0.3)))


def test_half_precision_models_work_too():
    plan = training_plan("x", {"w": np.zeros(9, np.float16)}, clip=1, weight_cap=10, max_sites=2,
                         compression=FewBits(), value_bits=8)  # fmt: skip
    found = simulate(
        plan,
        ["a", "b"],
        lambda site, i: train(
            site,
            {"w": np.zeros(9, np.float16)},
            lambda m, task: ({"w": m["w"] + np.float16(0.25)}, 10),
            compression=FewBits(),
            rounds=3,
        ),
    )
    assert PytreeAdapter().tensors(found[0].model)["w"].dtype == np.float16
    assert np.abs(found[0].tensors["w"] - 0.75).max() < 0.05
