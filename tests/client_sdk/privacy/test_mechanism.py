"""Sizes of noise and their cost: formulas by hand, and divergences computed from the laws themselves."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest
from scipy import special

from client_sdk import privacy
from client_sdk.privacy import table
from client_sdk.privacy.mechanism import ORDERS, Law
from he_agg import InputError, Layout, Plan, PlanError
from tests.client_sdk.privacy.streams import stream


def plan_of(clip=50.0, *, values=400, weight_cap=1, min_sites=10, value_bits=16, **more):
    tensors = {"w": np.zeros((values - 10, 1)), "b": np.zeros(10, np.float32), "none": np.zeros(0)}
    layout = Layout.of(tensors, clip=clip, weight_cap=weight_cap)
    return Plan.create("dp", layout, min_sites=min_sites, max_sites=max(min_sites, 12), value_bits=value_bits, **more)


def test_noise_is_sized_for_the_fewest_honest_sites():
    plan = plan_of()
    mechanism = privacy.Mechanism.for_plan(plan, clip_norm=2.0, noise_multiplier=4.0, colluders=1)
    step = 50.0 / 32767
    assert mechanism.sensitivity == pytest.approx(2.0 + math.sqrt(400) * step / 2)
    assert mechanism.honest_sites == 9
    assert mechanism.site_std == pytest.approx(4.0 * mechanism.sensitivity / 3)
    total = np.sum([mechanism.noise(0, stream(i)) for i in range(9)], axis=0) * step
    # 390 values; five standard errors of a standard deviation.
    assert abs(total.std() / (4.0 * mechanism.sensitivity) - 1) < 5 / math.sqrt(2 * 390)
    assert mechanism.mean_std(12) == pytest.approx(mechanism.site_std / math.sqrt(12))


def test_rounding_never_exceeds_the_sensitivity(rng):
    plan = plan_of(clip=5.0, value_bits=8)
    mechanism = privacy.Mechanism.for_plan(plan, clip_norm=0.5, noise_multiplier=0.3)
    step = mechanism.steps[0]
    for _ in range(200):
        update = {"w": rng.normal(size=(390, 1)), "b": rng.normal(size=10).astype(np.float32), "none": np.zeros(0)}
        clipped, before = privacy.clip_update(update, 0.5)
        assert before > 0.5
        assert privacy.l2_norm(clipped) <= 0.5
        rounded = {name: np.rint(value / step) * step for name, value in clipped.items()}
        assert privacy.l2_norm(rounded) <= mechanism.sensitivity


@pytest.mark.parametrize(("z", "epsilon"), [(1.0, 91.8), (2.0, 33.1), (4.0, 13.2), (8.0, 5.68)])
def test_known_epsilons_of_a_hundred_rounds(z, epsilon):
    """What the accountant that composes numerically gives; the closed form agrees to its discretisation of 1e-4."""
    assert float(f"{privacy.gaussian_epsilon(z, 100, 1e-5):.3g}") == epsilon
    if z >= 4:  # it takes long where epsilon is large
        accountant = dp_accounting.pld.PLDAccountant()
        accountant.compose(dp_accounting.GaussianDpEvent(z), 100)
        assert privacy.gaussian_epsilon(z, 100, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
@pytest.mark.parametrize("z", [0.5, 1.0, 4.0, 16.0])
def test_epsilon_is_where_the_privacy_profile_meets_delta(z, delta):
    """Balle and Wang's theorem 8, evaluated here; the library finds epsilon to 1e-12, its slope is below 1."""
    epsilon = privacy.gaussian_epsilon(z, 1, delta)
    profile = special.ndtr(0.5 / z - epsilon * z) - math.exp(epsilon) * special.ndtr(-0.5 / z - epsilon * z)
    assert profile == pytest.approx(delta, rel=1e-9, abs=2e-12)


def test_closed_form_stays_finite_for_absurd_epsilons():
    assert 1200 < privacy.gaussian_epsilon(0.02, 1) < 1600
    assert privacy.gaussian_epsilon(1e4, 1) < 1e-3


@pytest.mark.parametrize("law", ["skellam", "gaussian"])
@pytest.mark.parametrize(("z", "more"), [(1.0, 1.25), (4.0, 1.10), (8.0, 1.10)])
def test_integer_noise_costs_a_few_per_cent_more_than_the_tight_figure(law, z, more):
    """More where epsilon is absurd: its best order is below 2, and only whole orders are proved for Skellam."""
    clip = privacy.noisy_clip(1.0, z, 9, values=400, value_bits=16)
    mechanism = privacy.Mechanism.for_plan(plan_of(clip), clip_norm=1.0, noise_multiplier=z, colluders=1, law=law)
    integer = privacy.epsilon_of(100 * mechanism.rdp(), 1e-5)
    tight = privacy.gaussian_epsilon(z, 100, 1e-5)
    assert tight < integer < more * tight


def test_closed_form_of_gaussian_renyi_divergence():
    """alpha / (2 z^2) and nothing else, once the noise is many grid steps wide."""
    clip = privacy.noisy_clip(1.0, 2.0, 10, values=400, value_bits=24)
    plan = plan_of(clip, value_bits=24)
    mechanism = privacy.Mechanism.for_plan(plan, clip_norm=1.0, noise_multiplier=2.0, law="gaussian")
    assert np.allclose(mechanism.rdp(), np.array(ORDERS) / 8, rtol=1e-12)


@pytest.mark.parametrize("shift", [1, 3])
@pytest.mark.parametrize("std", [1.0, 3.0, 10.0])
def test_skellams_bound_holds_for_the_law_itself(shift, std):
    """One value, shifted by the sensitivity: the Renyi divergence of the two laws, summed up, is below the bound."""
    x = np.arange(-400, 401)
    with np.errstate(divide="ignore"):  # far tails vanish; SciPy's own Skellam loses digits there
        p, q = np.log(special.ive(np.abs(x), std**2)), np.log(special.ive(np.abs(x - shift), std**2))
    mechanism = privacy.Mechanism(shift - 0.5, std / shift, 1, "skellam", (1.0,), (1,))
    assert mechanism.sensitivity == shift
    assert mechanism.site_std == pytest.approx(std)
    seen = np.isfinite(p) & np.isfinite(q)
    for order, bound in zip(ORDERS[:20], mechanism.rdp(), strict=False):
        terms = order * p[seen] - (order - 1) * q[seen]
        divergence = (terms.max() + math.log(np.exp(terms - terms.max()).sum())) / (order - 1)
        assert divergence <= bound * (1 + 1e-9)
        if order == 2:  # high orders grow slower than the Gaussian's, which they are compared with
            assert divergence > 0.3 * bound * (std >= shift)


def test_noise_found_for_a_budget_keeps_to_it():
    for epsilon, rounds in [(1.0, 1), (3.0, 10), (10.0, 100)]:
        z = privacy.gaussian_noise_for(epsilon, rounds)
        assert 0.97 * epsilon < privacy.gaussian_epsilon(z, rounds) <= epsilon


REFUSED: dict[str, tuple[Plan, dict[str, Any], str]] = {
    "weights": (plan_of(weight_cap=100), {}, "weight cap 1"),
    "no room": (plan_of(clip=1.0), {}, "a clip bound of at least"),
    "too fine for skellam": (plan_of(clip=10.0, value_bits=24), {}, "at most 32768 grid steps"),
    "too coarse for the discrete gaussian": (
        plan_of(clip=200.0),
        {"law": "gaussian", "noise_multiplier": 0.05},
        "at least 4.0 grid steps",
    ),
    "all collude": (plan_of(), {"colluders": 10}, "0 to 9"),
    "law": (plan_of(), {"law": "laplace"}, "'skellam' or 'gaussian'"),
    "no noise": (plan_of(), {"noise_multiplier": 0.0}, "positive"),
    "no norm": (plan_of(), {"clip_norm": math.inf}, "positive"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    plan, options, message = REFUSED[name]
    with pytest.raises((PlanError, InputError), match=message) as caught:
        privacy.Mechanism.for_plan(plan, **{"clip_norm": 1.0, "noise_multiplier": 2.0, **options})
    privacy.Mechanism.for_plan(plan_of(), clip_norm=1.0, noise_multiplier=2.0)
    assert caught.value.hint or "expected" in caught.value.message


def test_clip_for_noise_is_just_enough():
    for z, bits in [(0.5, 16), (4.0, 16), (4.0, 24), (1.0, 12)]:
        clip = privacy.noisy_clip(1.0, z, 9, values=400, value_bits=bits)
        law: Law = "gaussian" if bits == 24 else "skellam"
        made = [
            privacy.Mechanism.for_plan(
                plan_of(factor * clip, value_bits=bits), clip_norm=1.0, noise_multiplier=z, colluders=1, law=law
            )
            for factor in (1.0, 1.01)
        ]
        assert len(made) == 2
        with pytest.raises(PlanError, match="a clip bound of at least"):
            privacy.Mechanism.for_plan(
                plan_of(0.99 * clip, value_bits=bits), clip_norm=1.0, noise_multiplier=z, colluders=1, law=law
            )


def test_nan_never_becomes_a_norm():
    for wrong in (np.nan, np.inf):
        with pytest.raises(InputError, match=r"'b', flat index 2.*finite"):
            privacy.clip_update({"a": np.ones(3), "b": np.array([0.0, 1.0, wrong])}, 1.0)


def test_norm_is_of_all_tensors_together_and_neither_overflows_nor_vanishes():
    assert privacy.l2_norm({"a": np.full(3, 2.0), "b": np.array(2.0, np.float32)}) == 4.0
    assert privacy.l2_norm({"a": np.array([3e200, 4e200])}) == pytest.approx(5e200)
    assert privacy.l2_norm({"a": np.array([3e-200, 4e-200])}) == pytest.approx(5e-200)
    assert privacy.l2_norm({"a": np.zeros(3), "b": np.zeros(0)}) == 0.0
    clipped, _ = privacy.clip_update({"a": np.full(2, 3.0), "b": np.full(2, 3.0)}, 1.0)
    assert np.allclose(clipped["a"], 0.5)
    same, _ = privacy.clip_update({"a": np.full(2, 0.1)}, 1.0)
    assert same["a"].tolist() == [0.1, 0.1]


def test_tables_of_the_page_are_what_the_code_prints():
    page = (Path(__file__).parents[3] / "docs" / "privacy.md").read_text()
    for lines in (table.costs(), table.afford()):
        assert "\n".join(lines) in page


def test_missing_extra_is_explained():
    code = (
        "import sys; sys.modules['dp_accounting'] = None; sys.modules['opacus'] = None\n"
        "from client_sdk import privacy\n"
        "for ask in (lambda: privacy.epsilon_of(privacy.ORDERS, 1e-5), "
        "lambda: privacy.private_training(0, 0, 0, noise_multiplier=1, clip_norm=1)):\n"
        "    try: ask()\n"
        "    except Exception as error: print(error.hint)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["pip install 'he-agg[privacy]'", "pip install 'he-agg[privacy]' torch opacus"]
