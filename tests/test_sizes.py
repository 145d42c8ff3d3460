"""The sizes that pages name are what plans have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from he_agg.plan.ckks_parameters import CkksParameters
from he_agg.plan.hybrid_parameters import HybridParameters
from he_agg.plan.schemes import SCHEMES, scheme_of
from he_agg.plan.sections import part_places
from he_agg.plan.security import NOISE_BOUND

ROOT = Path(__file__).parents[1]


def said(page):
    return " ".join((ROOT / page).read_text().split())


def per_value(codec, bits, sites, values=10**7):
    sections = scheme_of(codec).parameters.choose(2 ** (bits - 1) - 1, sites).sections(values, 4 * 2**20)
    return sum(place.wire_bytes for place in part_places(sections)) / values


@pytest.mark.parametrize("codec", sorted(SCHEMES))
def test_the_size_of_a_submission_in_operations(codec):
    page = said("OPERATIONS.md")
    if codec == "hybrid":
        assert "3.0 bytes per value with 16-bit values and 31 sites, 2.6 with 8 (`hybrid`, the default)" in page
        assert per_value(codec, 16, 31) == pytest.approx(3.0, rel=0.01)
        assert per_value(codec, 16, 8) == pytest.approx(2.6, rel=0.02)
    else:
        assert f"20 with `{codec}`" in page
        assert per_value(codec, 16, 31) == pytest.approx(20, rel=0.01)


def test_the_sizes_in_the_readme():
    page = said("README.md")
    at_16, at_8 = ([per_value("hybrid", bits, sites) for sites in (3, 8, 31)] for bits in (16, 8))
    wide, small = per_value("hybrid", 24, 40), per_value("hybrid", 16, 8, 10_000)
    assert "at 16 bits {:.2f} for 3 sites, {:.2f} for 8, {:.2f} for 31; ".format(*at_16) in page
    assert "at 8 bits {:.2f}, {:.2f}, {:.2f}; ".format(*at_8) + f"{wide:.2f} at 24 bits and 40 sites" in page
    assert f"10,000 values pays {small:.1f} bytes a value at 16 bits and 8 sites" in page


def test_the_sizes_of_the_key_vector():
    """Each page names the most sites of a size; with one more it is the next."""
    rows = re.findall(
        r"\n\| (?:sites at most|bytes of the vector) \| (.*) \|", (ROOT / "docs/exactness.md").read_text()
    )
    most, sizes = ([int(cell.replace(",", "")) for cell in row.split(" | ")] for row in rows)
    found = [HybridParameters.choose(7, sites).sections(1, 2**16)[0] for sites in most]
    assert [section.residues * section.modulus_bits // 8 for section in found] == sizes
    for sites, section in zip(most[:-1], found, strict=False):
        assert HybridParameters.choose(7, sites + 1).sections(1, 2**16)[0].modulus_bits > section.modulus_bits
    kilobytes = [round(size / 1000, 1) for size in sizes]
    assert kilobytes == [17.4, 19.5, 22.5, 24.6, 27.6, 30.7, 41.0]
    assert "17.4 kB up to 11 sites, 19.5 kB up to 36, 22.5 kB up to 213, then 24.6 to 41 kB" in said("README.md")
    assert "17.4 kB up to 11 sites and 19.5 kB up to 36" in said("docs/decisions/0028-packed-and-rounded.md")
    listed = "17.4 kB up to 11 sites, 19.5 up to 36, 22.5 up to 213, 24.6 up to 455, 27.6 up to 1,912, 30.7 up to 7,743"
    assert f"{listed}, 41.0 beyond" in said("CHANGELOG.md")


def test_what_small_models_pay():
    """Of 10,000 values: pages say what the key makes of it, and what the worst case would have made of it."""
    of_eight, of_many = (per_value("hybrid", 16, sites, 10**4) for sites in (8, 31))
    key, worst = (parameters.profile.modulus.bit_length() * 8192 / 8 for parameters in keys(31))
    first, _ = keys(8)
    share = first.profile.modulus.bit_length() * 8192 / 8 / 10**4
    assert f"at 8 sites, {share:.2f} of {of_eight:.3f} bytes a value" in said("docs/exactness.md")
    decision = said("docs/decisions/0028-packed-and-rounded.md")
    assert f"would pay {of_many + (worst - key) / 10**4:.1f} bytes a value instead of {of_many:.2f}" in decision


def keys(sites):
    """Parameters for one-time keys, and for any values as large."""
    return CkksParameters.for_keys(sites), CkksParameters.choose(NOISE_BOUND, sites)


def test_the_table_of_plans():
    """docs/exactness.md: what the planner takes, and what it would take otherwise."""
    text = (ROOT / "docs/exactness.md").read_text()
    rows = [[cell.strip(" *") for cell in row.split("|")[1:-1]] for row in re.findall(r"\n(\| \d+, \d+ \|.*)", text)]
    assert len(rows) == 9
    for plan, *cells in rows:
        bits, sites = map(int, plan.split(","))
        magnitude = 2 ** (bits - 1) - 1
        base = 2 * sites * magnitude + 1
        parameters = HybridParameters.choose(magnitude, sites)
        ring, sent = parameters.modulus.bit_length(), sum(q.bit_length() for q in parameters.moduli)
        assert cells[:5] == [str(x) for x in (parameters.packing, ring, sent, parameters.delta, parameters.least_delta)]
        # Not rounded, q is what is sent: the step is twice the noise, and one.
        noise = 2 * int(min(21 * sites, 14.6 * (10.5 * sites) ** 0.5)) + 1
        not_rounded = {v: (base**v * noise).bit_length() for v in range(1, 20)}
        packed = min(size / v for v, size in not_rounded.items() if size <= 53)
        others = not_rounded[1], packed, parameters.fewest_bits[1], (base - 1).bit_length()
        for cell, size in zip(cells[5:], (parameters.bits_per_value, *others), strict=True):
            assert float(cell) == pytest.approx(size / 8, abs=6e-4)
